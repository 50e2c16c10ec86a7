"""Tables of one run's selected rows, of an evaluation, and of many runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from dynconv.engine.run_folder import RunFolder
from dynconv.engine.selection import CLASS_MEAN, OF_CLASS, Row, before, mean_of
from dynconv.methods import METHODS

RULES = ("last", "source-val", "label-free", "oracle")
# What stands beside the name of a method that learns from the target's labels, wherever figures do.
BOUND = "bound: trained on target labels"


def named(method: str) -> str:
    """A method as tables call it: by its name, and what it is where it is no adaptation."""
    kind = METHODS.get(method)
    return f"{method} [{BOUND}]" if kind is not None and kind.supervised_by_target else method


def selection_table(folder: RunFolder) -> Table:
    """The accuracies of a finished run in per cent: as the network started, where that was measured, and one column per
    selection rule with its step.

    Raises:
        ValueError: The run is not finished.
    """
    done = _done(folder)
    selected: dict[str, Row] = done["selected"]
    heads = {rule: rule for rule in RULES if rule in selected}
    if "label-free" in heads:
        # A word to the line: six columns are to fit into 80 characters.
        heads["label-free"] += "\n" + done["label_free_validator"].replace("-", "-\n")
    start = before(folder.rows())
    caption = "accuracy in %, at the step chosen by each rule; oracle looks at the target's labels and chooses no model"
    table = Table(title=f"{folder.path}", caption=caption)
    names = [name.removesuffix("/accuracy") for name in accuracies(selected["last"])]
    table.add_column("selected by", min_width=max(map(len, names), default=0), overflow="fold")
    columns = {} if start is None else {"before": start}
    columns |= {head: selected[rule] for rule, head in heads.items()}
    for head in columns:
        table.add_column(head, justify="right")
    table.add_row("step", *(str(row["step"]) for row in columns.values()), end_section=True)
    labels = dict(zip(accuracies(selected["last"]), names, strict=True))
    for name in selected["last"]:
        if name.endswith(f"/{CLASS_MEAN}"):
            labels[name] = f"{name.removesuffix(f'/{CLASS_MEAN}')},\nmean over classes"
    for name, label in labels.items():
        table.add_row(label, *(percent(row[name]) for row in columns.values()))
    return table


def validator_table(folder: RunFolder) -> Table | None:
    """What each label-free validator would have chosen in a finished run: the step, and the accuracies there. None for
    a run that was finished before there was more than one validator.

    Raises:
        ValueError: The run is not finished.
    """
    done = _done(folder)
    if not done.get("validators"):
        return None
    table = Table(title="chosen by each label-free validator", caption="accuracy in %; * the run's own validator")
    table.add_column("validator")
    for head in ("step", "source-test", "target-test"):
        table.add_column(head, justify="right")
    for name, row in done["validators"].items():
        values = (mean_of(row, split) for split in ("source-test", "target-test"))
        figures = ["-" if value is None else percent(value) for value in values]
        own = " *" if name == done["label_free_validator"] else ""
        table.add_row(f"{name}{own}", str(row["step"]), *figures)
    return table


def metric_table(metrics: Mapping[str, Any]) -> Table:
    """The metrics of `dynconv eval`, one per line; of the classes their mean alone."""
    title = f"{metrics['run']}, checkpoint {metrics['checkpoint']} (step {metrics['step']})"
    classes = sum(OF_CLASS in name for name in metrics)
    table = Table(title=title, caption=f"--json has the accuracy of each of {classes} classes" if classes else None)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        if "/" in name and OF_CLASS not in name:
            table.add_row(name, f"{percent(value)} %" if name.endswith("accuracy") else f"{value:.3f}")
    return table


def selected_rows(folder: RunFolder) -> dict[str, Row]:
    """Selection rule to row, of a finished run. ValueError where it is not finished."""
    selected: dict[str, Row] = _done(folder)["selected"]
    return selected


def _done(folder: RunFolder) -> dict[str, Any]:
    done = folder.read_done()
    if done is None:
        raise ValueError(f"{folder.path} is not finished: there is no {folder.done}")
    return done


def accuracies(row: Row) -> list[str]:
    """Names of the accuracies in a row."""
    return [name for name in row if name.endswith("/accuracy")]


def percent(value: float) -> str:
    """A share as per cent with one decimal."""
    return f"{100 * value:.1f}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, which is put into the plural for all but 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    names = list(header)
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comparison_table(runs: Mapping[str, RunFolder], title: str) -> Table:
    """One line per finished run: target and mean source test accuracy, at the last step and at source-val's choice.

    Raises:
        ValueError: A run is not finished.
    """
    table = Table(title=title, caption="test accuracy in %; source: mean over the source domains")
    table.add_column("method")
    for rule in ("last", "source-val"):
        for side in ("target", "source"):
            table.add_column(f"{side}\n{rule}", justify="right")
    for name, folder in runs.items():
        selected = selected_rows(folder)
        cells = []
        for rule in ("last", "source-val"):
            for split in ("target-test", "source-test"):
                value = mean_of(selected[rule], split)
                cells.append("-" if value is None else percent(value))
        table.add_row(name, *cells)
    return table

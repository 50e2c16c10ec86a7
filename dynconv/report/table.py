"""Tables of one run's selected rows, of an evaluation, and of many runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table

from dynconv.engine.run_folder import RunFolder
from dynconv.engine.selection import CLASS_MEAN, Row, before, main_metric, mean_of
from dynconv.methods import METHODS
from dynconv.metrics.names import IOU_OF, SEGMENTATION_METRICS, in_words, is_of_class
from dynconv.report.words import metrics_of

RULES = ("last", "source-val", "label-free", "oracle")
# What stands beside the name of a method that learns from the target's labels, wherever figures do.
BOUND = "bound: trained on target labels"

# Where figures of the target would stand, and its images have no labels.
NO_LABELS = "the target has no labels: no figure of it, and no oracle"


def named(method: str) -> str:
    """A method as tables call it: by its name, and what it is where it is no adaptation."""
    kind = METHODS.get(method)
    return f"{method} [{BOUND}]" if kind is not None and kind.supervised_by_target else method


def without_target_labels(row: Row) -> bool:
    """Whether an evaluation of a run has no figure of the target for want of labels."""
    return any(name.startswith("target-train/") for name in row) and mean_of(row, "target-test") is None


def selection_table(folder: RunFolder) -> Table:
    """The accuracies (of segmentation all measures) of a finished run in per cent: as the network started, where that
    was measured, and one column per selection rule with its step.

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
    unlabelled = without_target_labels(selected["last"])
    of_target = NO_LABELS if unlabelled else "oracle looks at the target's labels and chooses no model"
    words = f"in %, at the step chosen by each rule; {of_target}"
    caption = f"accuracy {words}" if main_metric(selected["last"]) == "accuracy" else words
    table = Table(title=f"{folder.path}", caption=caption)
    lines = _lines(selected["last"])
    # Of a mean over the classes the figures stand in the first line.
    longest = max((len(label.split(",\n")[0]) for label, _ in lines), default=0)
    table.add_column("selected by", min_width=longest, overflow="fold")
    columns = {} if start is None else {"before": start}
    columns |= {head: selected[rule] for rule, head in heads.items()}
    for head in columns:
        table.add_column(head, justify="right")
    table.add_row("step", *(str(row["step"]) for row in columns.values()), end_section=True)
    for label, name in lines:
        table.add_row(label, *([] if name is None else [percent(row[name]) for row in columns.values()]))
    return table


def _lines(row: Row) -> list[tuple[str, str | None]]:
    """The lines of `selection_table`: pairs of label and metric, or None for a line that heads those below it."""
    if main_metric(row) == "accuracy":
        lines: list[tuple[str, str | None]] = [(name.removesuffix("/accuracy"), name) for name in accuracies(row)]
        mean = f"/{CLASS_MEAN}"
        return lines + [(f"{name.removesuffix(mean)},\nmean over classes", name) for name in row if name.endswith(mean)]
    lines = []
    for where, by_metric in measures(row).items():
        lines.append((where, None))
        lines += [(f" {in_words(metric)}", f"{where}/{metric}") for metric in by_metric]
    return lines


def measures(row: Row) -> dict[str, dict[str, float]]:
    """SPLIT/DOMAIN to the measures of segmentation there, those of single classes aside, as the row has them."""
    found: dict[str, dict[str, float]] = {}
    for name, value in row.items():
        where, _, metric = name.rpartition("/")
        if metric.startswith(SEGMENTATION_METRICS):
            found.setdefault(where, {})[metric] = value
    return found


def validator_table(folder: RunFolder) -> Table | None:
    """What each label-free validator would have chosen in a finished run: the step, and the figures there. None for
    a run that was finished before there was more than one validator.

    Raises:
        ValueError: The run is not finished.
    """
    done = _done(folder)
    if not done.get("validators"):
        return None
    metrics = metrics_of(main_metric(row) for row in done["validators"].values())
    table = Table(title="chosen by each label-free validator", caption=f"{metrics} in %; * the run's own validator")
    table.add_column("validator")
    for head in ("step", "source-test", "target-test"):
        table.add_column(head, justify="right")
    for name, row in done["validators"].items():
        values = (mean_of(row, split) for split in ("source-test", "target-test"))
        figures = ["-" if value is None else percent(value) for value in values]
        own = " *" if name == done["label_free_validator"] else ""
        table.add_row(f"{name}{own}", str(row["step"]), *figures)
    return table


def metric_table(metrics: Mapping[str, Any]) -> Table | Group:
    """The metrics of `dynconv eval`, one per line; of the classes their mean alone. Of segmentation a table of the
    measures with a line for each split, one of the classes, and one of what is left."""
    title = f"{metrics['run']}, checkpoint {metrics['checkpoint']} (step {metrics['step']})"
    plain = {name: value for name, value in metrics.items() if "/" in name and not is_of_class(name)}
    by_place = measures(plain)
    if by_place:
        left = {name: value for name, value in plain.items() if name.rpartition("/")[0] not in by_place}
        tables = [_measure_table(by_place, title), *_class_table(metrics)]
        return Group(*tables, *([_metric_lines(Table(), left)] if left else []))
    classes = sum(map(is_of_class, metrics))
    caption = f"--json has the accuracy of each of {classes} classes" if classes else None
    if without_target_labels(plain):
        caption = NO_LABELS
    return _metric_lines(Table(title=title, caption=caption), plain)


def _metric_lines(table: Table, metrics: Mapping[str, float]) -> Table:
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{percent(value)} %" if name.endswith("accuracy") else f"{value:.3f}")
    return table


def _measure_table(by_place: Mapping[str, Mapping[str, float]], title: str) -> Table:
    tested = any(where.startswith(("target-test/", "test/")) for where in by_place)
    table = Table(title=title, caption="in %" if tested else f"in %; {NO_LABELS}")
    table.add_column("test images", overflow="fold")
    names = list(dict.fromkeys(metric for values in by_place.values() for metric in values))
    for name in names:
        # A word to the line, so that names of domains fit beside them into 80 characters.
        table.add_column(in_words(name).replace(" ", "\n").replace("frequency-", "frequency-\n"), justify="right")
    for where, values in by_place.items():
        table.add_row(where, *(percent(values[name]) if name in values else "-" for name in names))
    return table


def _class_table(metrics: Mapping[str, Any]) -> list[Table]:
    """A column for each split whose classes were measured; no table where none was."""
    of_classes: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        where, mark, label = name.partition(IOU_OF)
        if mark:
            of_classes.setdefault(label, {})[where] = value
    places = list(dict.fromkeys(where for values in of_classes.values() for where in values))
    if not places:
        return []
    table = Table(title="IoU of each class, in %")
    table.add_column("class", overflow="fold")
    for where in places:
        table.add_column(where, justify="right")
    for label, values in of_classes.items():
        table.add_row(label, *(percent(values[where]) if where in values else "-" for where in places))
    return [table]


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
    """One line per finished run: target and mean source test figures, at the last step and at source-val's choice.

    Raises:
        ValueError: A run is not finished.
    """
    chosen = {name: selected_rows(folder) for name, folder in runs.items()}
    metrics = metrics_of(main_metric(selected["last"]) for selected in chosen.values())
    table = Table(title=title, caption=f"test {metrics} in %; source: mean over the source domains")
    table.add_column("method")
    for rule in ("last", "source-val"):
        for side in ("target", "source"):
            table.add_column(f"{side}\n{rule}", justify="right")
    for name, selected in chosen.items():
        cells = []
        for rule in ("last", "source-val"):
            for split in ("target-test", "source-test"):
                value = mean_of(selected[rule], split)
                cells.append("-" if value is None else percent(value))
        table.add_row(name, *cells)
    return table

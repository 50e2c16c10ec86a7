"""The figure, the tables and the CSV file of what adaptation costs on each source domain."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Group as Renderables
from rich.table import Table
from rich.text import Text

from dynconv.plots.degradation import Bars, Panel, save_degradation
from dynconv.report.collect import readable_runs
from dynconv.report.figures.degradation import Degradation, Difference, degradations
from dynconv.report.figures.training import write_beside
from dynconv.report.groups import runs_to_group
from dynconv.report.spread import signed

CAPTION = (
    "accuracy in %, of the oracle the mean over its n; difference in points ± standard error: over the seeds where "
    "each run is paired with the oracle of its seed, else that of the n runs and that of the oracles in quadrature"
)


def degradation_tables(found: Sequence[Degradation]) -> Renderables:
    """A table for each task: of each source the oracle's accuracy, and each kind's with its difference."""
    tables = []
    for task, kinds in _by_task(found).items():
        title = f"{task}: accuracy on the sources' test images, and less that of the oracle"
        table = Table(title=title, caption=CAPTION)
        table.add_column("source", overflow="fold")
        table.add_column("oracle", justify="right")
        for kind in kinds:
            table.add_column(Text(f"{kind.label}\n{_runs(kind)}"), justify="right")
        for source in kinds[0].oracle:
            oracle = _oracle(kinds, source)
            cells = (f"{kind.accuracy[source].mean:.1f} ({_text(kind.difference(source))})" for kind in kinds)
            table.add_row(source, f"{sum(oracle.values()) / len(oracle):.1f} (n = {len(oracle)})", *cells)
        table.add_section()
        table.add_row("average", "", *(_text(kind.mean_difference) for kind in kinds))
        tables.append(table)
    return Renderables(*tables)


def degradation_csv(found: Sequence[Degradation]) -> str:
    """The same as CSV: a line for each source of each kind."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            *("task", "run", "source", "n", "seeds", "steps", "accuracy", "oracles", "oracle_seeds", "oracle_steps"),
            *("oracle_accuracy", "paired", "difference", "standard_error"),
        ]
    )
    for kind in found:
        for source, spread in kind.accuracy.items():
            difference, oracle = kind.difference(source), kind.oracle[source]
            runs = [len(kind.seeds), " ".join(map(str, kind.seeds)), kind.steps, f"{spread.mean:.3f}"]
            oracles = [len(oracle.values), " ".join(map(str, oracle.values)), kind.oracle_steps[source]]
            error = "" if difference.error is None else f"{difference.error:.3f}"
            compared = [f"{oracle.mean:.3f}", "yes" if kind.paired else "no", f"{difference.mean:.3f}", error]
            table.writerow([kind.task, kind.label, source, *runs, *oracles, *compared])
    return text.getvalue()


def save_degradation_figure(
    runs: Sequence[Path], oracles: Sequence[Path], out: Path, *, line: Callable[[str], None]
) -> list[Degradation]:
    """Draw what adaptation costs on each source, from the files of finished runs, and write the numbers beside it.

    Args:
        runs: Run folders, or folders that hold some.
        oracles: The same, of the oracles.
        out: Image file to write; its suffix chooses the format. The numbers are beside it, with the suffix .csv.
        line: Where a warning goes.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `degradations`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    found = degradations(runs_to_group(runs, "RUN", line), readable_runs(oracles, "--oracles"))
    labels = list(dict.fromkeys(kind.label for kind in found))
    panels = [
        Panel(
            task,
            tuple(f"{name}\noracles: n = {len(_oracle(kinds, name))}" for name in kinds[0].accuracy),
            tuple(
                Bars(
                    f"{kind.label} ({_runs(kind)})",
                    labels.index(kind.label),
                    tuple(kind.difference(source).mean for source in kind.accuracy),
                    tuple(kind.difference(source).error for source in kind.accuracy),
                    kind.mean_difference.mean,
                    kind.mean_difference.error,
                )
                for kind in kinds
            ),
        )
        for task, kinds in _by_task(found).items()
    ]
    save_degradation(panels, out)
    write_beside(out, degradation_csv(found))
    return found


def _by_task(found: Sequence[Degradation]) -> dict[str, list[Degradation]]:
    return {task: [kind for kind in found if kind.task == task] for task in dict.fromkeys(kind.task for kind in found)}


def _oracle(kinds: Sequence[Degradation], source: str) -> dict[int, float]:
    """By seed, those that any of the kinds is held against."""
    return {seed: value for kind in kinds for seed, value in kind.oracle[source].values.items()}


def _runs(kind: Degradation) -> str:
    return f"n = {len(kind.seeds)}, {'paired' if kind.paired else 'not paired'}"


def _text(difference: Difference) -> str:
    return signed(difference.mean) + ("" if difference.error is None else f" ± {difference.error:.1f}")

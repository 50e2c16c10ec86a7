"""The figure, the tables and the CSV file of how many labelled target images an adaptation is worth."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Group as Renderables
from rich.table import Table

from dynconv.methods.target_only import TargetOnlyConfig
from dynconv.plots.fine_tuning import Curve, Panel, save_fine_tuning
from dynconv.report.before import SOURCE_ONLY
from dynconv.report.figures.fine_tuning import (
    FineTuning,
    break_even,
    fine_tunings,
    gain,
    labelled_images,
    no_transfer,
    several_bases,
)
from dynconv.report.figures.training import write_beside
from dynconv.report.groups import runs_to_group
from dynconv.report.spread import Spread, signed, text_of
from dynconv.report.words import metrics_of


def fine_tuning_tables(found: Sequence[FineTuning]) -> Renderables:
    """What each start reaches with each number of labelled images, and how many each adaptation is worth."""
    words = metrics_of(line.metric for line in found)
    table = Table(
        title=f"Target test {words} after fine-tuning",
        caption="in %, mean ± sample standard deviation over seeds; 0 labelled images: the start itself; gain: points "
        f"above fine-tuning from {SOURCE_ONLY}, mean ± sample standard deviation over the seeds of both",
    )
    for head in ("task", "start"):
        table.add_column(head, overflow="fold")
    for head in ("labelled\nimages", "n", "target", "gain"):
        table.add_column(head, justify="right", no_wrap=True)
    worth = Table(
        title="What the adaptation is worth",
        caption="in %, means over seeds without labels; break-even: labelled images with which fine-tuning from "
        f"{SOURCE_ONLY} first reaches the adapted network that has seen none, between two numbers interpolated in "
        "logarithms",
    )
    for head in ("task", "start"):
        worth.add_column(head, overflow="fold")
    for head in ("adapted", SOURCE_ONLY, "break-even"):
        worth.add_column(head, justify="right", no_wrap=True)
    for line in found:
        base = no_transfer(line, found)
        for count, values in line.counted().items():
            more = gain(line, base, count)
            cell = "" if more is None else signed(more.mean)
            cell += "" if more is None or more.deviation is None else f" ± {more.deviation:.1f}"
            table.add_row(line.task, line.label, str(count), str(len(values)), Spread(values).text(), cell)
        table.add_section()
        if base is not None and (even := break_even(line, base)) is not None:
            figures = (line.without_labels(), base.without_labels())
            worth.add_row(line.task, line.label, *map(text_of, figures), even.text)
    return Renderables(table, worth) if worth.row_count else Renderables(table)


def fine_tuning_csv(found: Sequence[FineTuning]) -> str:
    """The same as CSV: a line for each start and number of labelled images, 0 for the start itself, figures in per cent
    and `gain` in points; `std` is the sample standard deviation over `n` seeds, `break_even` stands at 0 images."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "start", "metric", "labelled_images", "mean", "std", "n", "seeds", "gain", "break_even"))
    for line in found:
        base = no_transfer(line, found)
        for count, values in line.counted().items():
            more, even = gain(line, base, count), break_even(line, base) if count == 0 else None
            last = ("" if more is None else f"{more.mean:.3f}", "" if even is None else even.cell)
            table.writerow((line.task, line.label, line.metric, count, *Spread(values).cells(), *last))
    return text.getvalue()


def save_fine_tuning_figure(paths: Sequence[Path], out: Path, *, line: Callable[[str], None]) -> list[FineTuning]:
    """Draw what fine-tuning reaches over the number of labelled images, and write the numbers beside it as CSV.

    Args:
        paths: Run folders, or folders that hold some.
        out: Image file to write; its suffix chooses the format.
        line: Where a warning goes.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `fine_tunings`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    runs = runs_to_group(paths, "RUN", line)
    found = fine_tunings(runs)
    for text in several_bases(found):
        line(text)
    for run in runs:
        if isinstance(run.config.options, TargetOnlyConfig) and not labelled_images(run):
            line(
                f"{run.folder.path} is left out: it learnt from all labels, and their number is not in its "
                "configuration; give labelled_images"
            )
    labels = list(dict.fromkeys(each.label for each in found))
    panels = []
    for task in dict.fromkeys(each.task for each in found):
        same = [each for each in found if each.task == task]
        curves = tuple(_curve(each, labels.index(each.label), no_transfer(each, found)) for each in same)
        panels.append(Panel(task, metrics_of(each.metric for each in same), curves))
    save_fine_tuning(panels, out)
    write_beside(out, fine_tuning_csv(found))
    return found


def _curve(line: FineTuning, place: int, base: FineTuning | None) -> Curve:
    spreads = [Spread(values) for values in line.points.values()]
    start, even = line.without_labels(), break_even(line, base)
    crossed = even is not None and even.relation == "=" and even.images > 0
    return Curve(
        line.label,
        place,
        tuple(line.points),
        tuple(spread.mean for spread in spreads),
        tuple(spread.deviation for spread in spreads),
        None if start is None else start.mean,
        even.images if even is not None and crossed else None,
    )

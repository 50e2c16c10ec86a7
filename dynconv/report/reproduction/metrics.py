"""The tables of a recipe whose runs have several measures: those of segmentation, before and after the adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynconv.metrics.names import in_words
from dynconv.recipes import Recipe, Row
from dynconv.report.reproduction.statistics import Record, beside, mean, rounded, spread, values
from dynconv.report.table import markdown

CITED = "(cited)"
BOUND = "bound of the label frequencies"
# Of a source's figure.
OWN = "(own)"
OWN_IN_WORDS = f"{OWN}: source images have a network or batch statistics of their own"


def of_metrics(recipe: Recipe, records: Sequence[Record], rows: Sequence[Row], tasks: Mapping[str, str]) -> list[str]:
    """Every measure of the target's and of the sources' test images, a line for each row; nothing for a recipe with one
    measure.

    A row that starts from another has that one's figure, of the same seeds, before its own. The target's table has the
    paper's figures too, and the bounds of the label frequencies.
    """
    if len(recipe.metrics) == 1:
        return []
    return [part for split in ("target-test", "source-test") for part in _of_split(recipe, records, rows, tasks, split)]


def _of_split(
    recipe: Recipe, records: Sequence[Record], rows: Sequence[Row], tasks: Mapping[str, str], split: str
) -> list[str]:
    target = split == "target-test"
    cells = [(task, metric) for task in tasks for metric in recipe.metrics]
    heads = [in_words(metric) if len(tasks) == 1 else f"{tasks[task]}, {in_words(metric)}" for task, metric in cells]
    lines = []
    for row in rows:
        paper = recipe.table.row(row.cites) if target and recipe.table is not None and row.cites is not None else None
        line = [row.label if target or not row.options.has_source_network else f"{row.label} {OWN}"]
        for task, metric in cells:
            column = f"{split} last" if metric == recipe.metric else f"{split} last {metric}"
            own = values(records, task, row.label, column)
            published = None if paper is None else recipe.figure(paper, task, metric)
            text = beside(spread(own), mean(own), published)
            line.append(_began(records, task, row, column, own) + text)
        lines.append(line)
    words = f"{'Target' if target else 'Source'} test images in per cent at the last step"
    if any(row.starts_from is not None for row in rows):
        words += "; before → after where a row starts from another one's network"
    if target:
        others = {
            f"{each.label} {CITED}": [recipe.figure(each, task, metric) for task, metric in cells]
            for each in recipe.cited()
        }
        if recipe.bounds:
            others[BOUND] = [dict(zip(recipe.metrics, recipe.bounds[task], strict=True))[m] for task, m in cells]
            words += f"; the {BOUND} is what no network could pass whose predictions are distributed as the source's "
            words += "labels (GAM, section 5.3)"
        lines += [[label, *map(rounded, figures)] for label, figures in others.items() if set(figures) != {None}]
    elif any(row.options.has_source_network for row in rows):
        words += f"; {OWN_IN_WORDS}"
    return [f"{words}.", markdown(["row", *heads], lines)]


def _began(records: Sequence[Record], task: str, row: Row, column: str, own: Mapping[int, float]) -> str:
    """The figure of the row that `row` starts from, of the seeds of `own`, as the beginning of a cell."""
    if row.starts_from is None:
        return ""
    first = values(records, task, row.starts_from, column)
    common = {seed: first[seed] for seed in own.keys() & first.keys()}
    return f"{rounded(mean(common))} → " if common else ""

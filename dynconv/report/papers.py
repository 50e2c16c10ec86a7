"""Which figures of a paper a run is to be held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dynconv.engine.config import TrainConfig
from dynconv.metrics.names import judged_by
from dynconv.recipes import RECIPES, Recipe
from dynconv.recipes import Row as RecipeRow
from dynconv.report.cited import CitedFigure, figure_of
from dynconv.report.collect import FoundRun
from dynconv.report.started import configuration_started_from, started_from


@dataclass(frozen=True)
class Match:
    """A row of a recipe that a run is one of."""

    recipe: Recipe
    row: RecipeRow

    def published(self, task: str) -> CitedFigure | None:
        """The paper's figure in per cent; None where the row cites none for this task."""
        table, cites = self.recipe.table, self.row.cites
        return None if table is None or cites is None else figure_of(self.recipe, table.row(cites), task)


def matches(run: FoundRun) -> list[Match]:
    """Every recipe's row whose configuration, with the run's task and seed, is the run's."""
    found = []
    task = run.config.run.protocol
    for recipe in RECIPES.values():
        if task is None or task not in recipe.tasks:
            continue
        for row in recipe.rows:
            if row.method == run.config.method and _is_of(run.folder.path, run.config, recipe, row, (task, run.seed)):
                found.append(Match(recipe, row))
    return found


def _is_of(folder: Path, config: TrainConfig, recipe: Recipe, row: RecipeRow, at: tuple[str, int]) -> bool:
    """Whether the run in `folder` is one of `row`, of the task and seed `at`, and so are those that it started from."""
    if (row.after is None) != (config.run.pseudo_labels_of is None):
        return False
    expected = _config(recipe, row, *at)
    if row.starts_from is not None:
        start, own = started_from(folder, config), configuration_started_from(folder, config)
        if start is None or own is None or not _is_of(start, own, recipe, _row(recipe, row.starts_from), at):
            return False
        options = replace(config.options, source_checkpoint=expected.options.source_checkpoint)
        config = replace(config, options=options)
    return expected.hash == config.hash


def _config(recipe: Recipe, row: RecipeRow, task: str, seed: int) -> TrainConfig:
    # Where a run and the one before it lie, and on what they are computed, is no part of the hash.
    place = None if row.follows is None else Path("after")
    config = recipe.config(task, row, seed, out=Path("run"), data_root=None, device="cpu", after=place)
    if row.after is None:
        return config
    of = _config(recipe, _row(recipe, row.after), task, seed).described()
    return replace(config, run=replace(config.run, pseudo_labels_of=of))


def _row(recipe: Recipe, label: str) -> RecipeRow:
    return next(row for row in recipe.rows if row.label == label)


def other_metric(found: Iterable[Match]) -> str | None:
    """What the recipe's table shows of the target; None where that is what its runs are judged by."""
    metrics = (match.recipe.metric for match in found)
    return next((metric for metric in metrics if metric not in (judged_by("image"), judged_by("pixel"))), None)

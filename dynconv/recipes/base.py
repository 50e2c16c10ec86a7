"""What a recipe is: one table of a paper, or one that stands in for it, as runs with all their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynconv.engine.config import RunOptions, TrainConfig
from dynconv.methods import MethodConfig
from dynconv.recipes.published import TABLES, PublishedRow, PublishedTable


@dataclass(frozen=True)
class Row:
    """One line of a table: a method with its options."""

    label: str
    method: str
    options: MethodConfig
    cites: str | None = None
    """The row of the recipe's published table that this one is held against; None where the paper has none."""
    published: Mapping[str, float] = field(default_factory=dict)
    """The paper's target test figures in per cent, by task: the recipe fills them in by `cites`."""


@dataclass(frozen=True)
class Recipe:
    """Every run of a table."""

    name: str
    """What `dynconv reproduce` calls it."""
    source: str
    """Paper and table, or what it stands in for and why."""
    tasks: Mapping[str, str]
    """Protocol to the head of its column."""
    rows: tuple[Row, ...]
    run: Mapping[str, Any]
    """Fields of `RunOptions` that differ from their defaults."""
    seeds: int
    """Runs of each row and task; the seeds count from 0."""
    expected: str
    """The score to expect, and whether it is the paper's or was measured here."""
    cost: str
    """Time and hardware of the whole table where it was run; an estimate, named so, where it was not."""
    needs: str
    """Data and weights."""
    metric: str = "accuracy"
    """What the table shows of the target's test images."""
    ablation: bool = False
    """Whether each row adds something to the one above, so that their paired difference is worth a table."""
    published: str | None = None
    """Name of the paper's table in `dynconv.recipes.published.TABLES`."""

    def __post_init__(self) -> None:
        if unknown := [row.label for row in self.rows if row.cites is not None and self.published is None]:
            raise ValueError(f"{self.name}: {', '.join(unknown)} cite a row, and the recipe names no published table")
        rows = tuple(dataclasses.replace(row, published=self._published_of(row)) for row in self.rows)
        object.__setattr__(self, "rows", rows)

    @property
    def table(self) -> PublishedTable | None:
        """The paper's table."""
        return None if self.published is None else TABLES[self.published]

    def figure(self, row: PublishedRow, task: str) -> float | None:
        """A published row's figure for a task: that of the column called like the task's head or, where the metric is
        the mean over the classes, the mean of all columns; None where the table has neither."""
        table = self.table
        if table is None:
            return None
        if self.metric == "class-mean-accuracy":
            return row.mean
        head = self.tasks[task]
        return row.values[table.columns.index(head)] if head in table.columns else None

    def cited(self) -> tuple[PublishedRow, ...]:
        """The rows of the paper's table that no row of the recipe runs."""
        if self.table is None:
            return ()
        run = {row.cites for row in self.rows}
        return tuple(row for row in self.table.rows if row.label not in run)

    def config(self, task: str, row: Row, seed: int, *, out: Path, data_root: Path | None, device: str) -> TrainConfig:
        """The configuration of one run."""
        fields = {"protocol": task, "seed": seed, "out": out, "device": device, **self.run}
        if data_root is not None:
            fields["data_root"] = data_root
        return TrainConfig(row.method, RunOptions(**fields), row.options)

    def _published_of(self, row: Row) -> dict[str, float]:
        if self.table is None or row.cites is None:
            return {}
        paper = self.table.row(row.cites)
        figures = {task: self.figure(paper, task) for task in self.tasks}
        return {task: value for task, value in figures.items() if value is not None}


def sweep(
    recipe: Recipe,
    name: str,
    source: str,
    base: Row,
    values: Mapping[str, Mapping[str, Any]],
    cost: str,
    published: str | None = None,
) -> Recipe:
    """A recipe whose rows are those of `base` with the fields that `values` gives by label, and otherwise as `recipe`.

    `published` is the paper's table of such a sweep, whose rows have the same labels; None where there is none.
    """
    rows = tuple(
        Row(label, base.method, dataclasses.replace(base.options, **fields), None if published is None else label)
        for label, fields in values.items()
    )
    expected = f"the paper gives no figures but those of {recipe.name}, for its own setting"
    if published is not None:
        expected = recipe.expected
    return dataclasses.replace(
        recipe, name=name, source=source, rows=rows, expected=expected, cost=cost, ablation=False, published=published
    )

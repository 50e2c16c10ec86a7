"""What a recipe is: one table of a paper, or one that stands in for it, as runs with all their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynconv.engine.config import RunOptions, TrainConfig
from dynconv.methods import MethodConfig


@dataclass(frozen=True)
class Row:
    """One line of a table: a method with its options."""

    label: str
    method: str
    options: MethodConfig
    published: Mapping[str, float] = field(default_factory=dict)
    """The paper's target test accuracies in per cent, by task."""


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
    cost: str
    """Time and hardware of the whole table where it was run; that it was not, where it was not."""
    needs: str
    """Data and weights."""
    metric: str = "accuracy"
    """What the table shows of the target's test images."""
    ablation: bool = False
    """Whether each row adds something to the one above, so that their paired difference is worth a table."""

    def config(self, task: str, row: Row, seed: int, *, out: Path, data_root: Path | None, device: str) -> TrainConfig:
        """The configuration of one run."""
        fields = {"protocol": task, "seed": seed, "out": out, "device": device, **self.run}
        if data_root is not None:
            fields["data_root"] = data_root
        return TrainConfig(row.method, RunOptions(**fields), row.options)


def sweep(recipe: Recipe, name: str, source: str, base: Row, values: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """A recipe whose rows are those of `base` with the fields that `values` gives by label."""
    rows = tuple(
        Row(label, base.method, dataclasses.replace(base.options, **fields)) for label, fields in values.items()
    )
    return dataclasses.replace(recipe, name=name, source=source, rows=rows, ablation=False)

"""Figures over seeds, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dynconv.engine.selection import Row, mean_of
from dynconv.report.collect import FoundRun
from dynconv.report.groups import Group

MINUS = "−"

Value = Callable[[FoundRun], float | None]


@dataclass(frozen=True)
class Spread:
    """Figures over seeds."""

    values: Mapping[int, float]
    """By seed; not empty."""

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    def text(self) -> str:
        """Mean ± sample standard deviation; the figure alone of a single seed."""
        deviation = f" ± {stdev(self.values.values()):.1f}" if len(self.values) > 1 else ""
        return f"{self.mean:.1f}{deviation}"


def over_seeds(values: Mapping[int, float | None]) -> Spread | None:
    """The seeds that have a figure, or None where none has."""
    there = {seed: value for seed, value in values.items() if value is not None}
    return Spread(there) if there else None


def average(columns: Sequence[Spread | None]) -> Spread | None:
    """Of the seeds that every column has, each one's mean over the columns; None where there is no such seed."""
    there = [column for column in columns if column is not None]
    if not there or len(there) < len(columns):
        return None
    common = set.intersection(*(set(column.values) for column in there))
    return over_seeds({seed: fmean(column.values[seed] for column in there) for seed in sorted(common)})


def text_of(spread: Spread | None) -> str:
    return "" if spread is None else spread.text()


def per_cent(row: Row | None, split: str, metric: str = "accuracy") -> float | None:
    """The mean of a row's `SPLIT/*/METRIC` in per cent, or None where there is none."""
    value = None if row is None else mean_of(row, split, metric)
    return None if value is None else 100 * value


def source_per_cent(row: Row | None) -> float | None:
    """Source test accuracy in per cent; of sources without test images that of the held-out ones."""
    tested = per_cent(row, "source-test")
    return tested if tested is not None else per_cent(row, "source-val")


def both_sides(row: Row | None) -> tuple[float, float] | None:
    """Source and target test accuracy of a row in per cent; None where it lacks one of them."""
    source, target = source_per_cent(row), per_cent(row, "target-test")
    return None if source is None or target is None else (source, target)


def chosen_sides(run: FoundRun, rule: str) -> tuple[float, float]:
    """`both_sides` of the row that a selection rule chose.

    Raises:
        ValueError: The run is not finished, has no such row, or that lacks an accuracy.
    """
    row = run.chosen(rule)
    if row is None:
        reason = "; ".join(run.missing) or f"the rule {rule!r} chose none"
        raise ValueError(f"RUN {run.folder.path} has no evaluation that counts: {reason}")
    sides = both_sides(row)
    if sides is None:
        raise ValueError(f"RUN {run.folder.path}: its rows lack the accuracy on the source's or the target's images")
    return sides


def column_of(group: Group, task: str, value: Value) -> Spread | None:
    """`value` of a group's runs of a task, by seed."""
    return over_seeds({seed: value(run) for seed, run in sorted(group.runs.get(task, {}).items())})


def signed(value: float) -> str:
    """A difference in points with its sign."""
    return f"{'+' if round(value, 1) >= 0 else MINUS}{abs(value):.1f}"

"""Figures over seeds, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dynconv.engine.selection import Row, main_metric, mean_of
from dynconv.metrics.names import IOU_OF, in_words
from dynconv.report.collect import FoundRun
from dynconv.report.groups import Group

MINUS = "−"

Value = Callable[[FoundRun], float | None]
Point = tuple[float, float]
"""What a run is judged by (`main_metric`) on the test images of source and target, in per cent."""


@dataclass(frozen=True)
class Spread:
    """Figures over seeds."""

    values: Mapping[int, float]
    """By seed; not empty."""

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None of a single seed."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    def text(self) -> str:
        """Mean ± sample standard deviation; the figure alone of a single seed."""
        return f"{self.mean:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")

    def cells(self) -> tuple[str, str, int, str]:
        """Mean, sample standard deviation (empty of a single seed), number of seeds and the seeds, for a CSV file."""
        deviation = "" if self.deviation is None else f"{self.deviation:.3f}"
        return f"{self.mean:.3f}", deviation, len(self.values), " ".join(map(str, self.values))


def mean_point(points: Iterable[Point]) -> Point:
    """The mean of each side; `points` is not empty."""
    sources, targets = zip(*points, strict=True)
    return fmean(sources), fmean(targets)


def side_of(points: Mapping[int, Point], side: int) -> Spread:
    """One side of points by seed: 0 for the source, 1 for the target."""
    return Spread({seed: point[side] for seed, point in points.items()})


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


def per_cent(row: Row | None, split: str, metric: str | None = None) -> float | None:
    """The mean of a row's `SPLIT/*/METRIC`, by default of its `main_metric`, in per cent; None where there is none."""
    value = None if row is None else mean_of(row, split, metric)
    return None if value is None else 100 * value


def source_per_cent(row: Row | None, metric: str | None = None) -> float | None:
    """`per_cent` of the sources' test images; of sources without some that of the held-out ones."""
    tested = per_cent(row, "source-test", metric)
    return tested if tested is not None else per_cent(row, "source-val", metric)


def class_ious(row: Row) -> dict[str, float]:
    """IoU in per cent of each class of the target's test images, by its name; empty where the row has none."""
    found = {}
    for name, value in row.items():
        where, mark, label = name.partition(IOU_OF)
        if mark and where.startswith("target-test/"):
            found[label] = 100 * value
    return found


def class_order(rows: Iterable[Row]) -> list[str]:
    """The classes of `class_ious` of all `rows` in the order of the run's classes, of which each row lacks those that
    occur in neither truth nor prediction."""
    order: list[str] = []
    # The fullest row first: a class that it lacks follows the one that it follows elsewhere.
    for ious in sorted(map(class_ious, rows), key=len, reverse=True):
        place = 0
        for label in ious:
            if label not in order:
                order.insert(place, label)
            place = order.index(label) + 1
    return order


def both_sides(row: Row | None) -> Point | None:
    """`per_cent` of both sides; None where the row lacks one of them."""
    source, target = source_per_cent(row), per_cent(row, "target-test")
    return None if source is None or target is None else (source, target)


def chosen_sides(run: FoundRun, rule: str) -> Point:
    """`both_sides` of the row that a selection rule chose.

    Raises:
        ValueError: The run is not finished, has no such row, or that lacks a figure.
    """
    row = run.chosen(rule)
    if row is None:
        reason = "; ".join(run.missing) or f"the rule {rule!r} chose none"
        raise ValueError(f"RUN {run.folder.path} has no evaluation that counts: {reason}")
    sides = both_sides(row)
    if sides is None:
        what = in_words(main_metric(row))
        raise ValueError(f"RUN {run.folder.path}: its rows lack the {what} on the source's or the target's images")
    return sides


def column_of(group: Group, task: str, value: Value) -> Spread | None:
    """`value` of a group's runs of a task, by seed."""
    return over_seeds({seed: value(run) for seed, run in sorted(group.runs.get(task, {}).items())})


def signed(value: float) -> str:
    """A difference in points with its sign."""
    return f"{'+' if round(value, 1) >= 0 else MINUS}{abs(value):.1f}"

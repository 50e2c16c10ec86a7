"""Figures of a recipe's records: means, spreads and paired differences over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]


def values(records: Sequence[Record], task: str, label: str, column: str) -> dict[int, float]:
    """A row's figures on a task, by seed."""
    return {r["seed"]: r[column] for r in records if (r["task"], r["row"]) == (task, label) and r[column] != ""}


def mean(figures: Mapping[int, float]) -> float | None:
    """The mean over seeds; None of none."""
    return statistics.fmean(figures.values()) if figures else None


def average(columns: Mapping[str, Mapping[int, float]]) -> float | None:
    """The mean over the tasks of each one's mean over seeds; None where a task has none."""
    return average_of_figures({task: mean(figures) for task, figures in columns.items()})


def average_of_figures(figures: Mapping[str, float | None]) -> float | None:
    """Their mean; None where one is missing."""
    known = [figure for figure in figures.values() if figure is not None]
    return statistics.fmean(known) if known and len(known) == len(figures) else None


def over_tasks(columns: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Each seed's mean over the tasks, of the seeds that all of them have.

    Tasks differ more than seeds do, so that a seed's mean over the tasks is one observation.
    """
    common = set.intersection(*(set(each) for each in columns)) if columns else set()
    return {seed: statistics.fmean(each[seed] for each in columns) for seed in sorted(common)}


def differences(
    records: Sequence[Record], label: str, other: str, groups: Sequence[Sequence[str]], column: str
) -> list[str]:
    """The row `label` less the row `other`, by the same task and seed, as mean ± standard error over seeds: of each
    group of tasks, and of all tasks."""
    by_task = {}
    for task in dict.fromkeys(task for group in groups for task in group):
        first, second = values(records, task, other, column), values(records, task, label, column)
        by_task[task] = {seed: second[seed] - first[seed] for seed in sorted(first.keys() & second.keys())}
    cells = [over_tasks([by_task[task] for task in group]) for group in groups]
    return [difference(list(each.values())) for each in (*cells, over_tasks(list(by_task.values())))]


def difference(paired: Sequence[float]) -> str:
    """Mean ± standard error of paired differences."""
    if not paired:
        return "-"
    text = f"{statistics.fmean(paired):+.1f}"
    if len(paired) == 1:
        return f"{text} (n = 1)"
    return f"{text} ± {statistics.stdev(paired) / math.sqrt(len(paired)):.1f}"


def spread(figures: Mapping[int, float]) -> str:
    """Mean ± sample standard deviation over seeds."""
    if not figures:
        return "-"
    text = f"{statistics.fmean(figures.values()):.1f}"
    return f"{text} ± {statistics.stdev(figures.values()):.1f}" if len(figures) > 1 else f"{text} (n = 1)"


def rounded(value: float | None) -> str:
    """To one decimal."""
    return "-" if value is None else f"{value:.1f}"


def beside(text: str, own: float | None, published: float | None) -> str:
    """Our figure with the paper's and the difference in brackets."""
    if published is None:
        return text
    return f"{text} ({published:.1f})" if own is None else f"{text} ({published:.1f}, {own - published:+.1f})"

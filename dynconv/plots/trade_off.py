"""What adaptation gives on the target, and what it costs on the source."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynconv.plots.palette import MARKERS, colour, save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Characters of a line of the legend, of whose columns two are side by side.
LABEL_WIDTH = 62


@dataclass(frozen=True)
class Change:
    """One run, or the mean of several: figures in per cent as (source, target)."""

    group: str
    """What it is an example of; a colour each."""
    task: str
    """A shape each."""
    after: tuple[float, float]
    before: tuple[float, float] | None = None
    """None where it is not known; then the run has no arrow."""
    untrained: bool = False
    """Whether `before` is a network that has not been trained: far from all else, its arrow comes from outside."""
    seeds: tuple[tuple[float, float], ...] = ()
    """The runs that `after` is the mean of, as small points."""


def save_trade_off(changes: Sequence[Change], path: Path, metrics: str = "accuracy") -> None:
    """Write `trade_off_figure` as a PNG for a page. ValueError as there."""
    save_png(trade_off_figure(changes, metrics), path)


def trade_off_figure(changes: Sequence[Change], metrics: str = "accuracy") -> Figure:
    """Draw target accuracy over source accuracy: a point for each change, and an arrow from before adaptation to it.

    To the right of its start: better on the source as well; above it: better on the target.

    Args:
        changes: The points.
        metrics: What the figures are, in words.

    Raises:
        ValueError: No run.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    if not changes:
        raise ValueError("changes: expected at least one run, got none")
    groups = list(dict.fromkeys(change.group for change in changes))
    tasks = list(dict.fromkeys(change.task for change in changes))
    figure = Figure(figsize=(8.6, 5.4), layout="constrained")
    axis = figure.subplots()
    inside = [change.after for change in changes]
    inside += [change.before for change in changes if change.before is not None and not change.untrained]
    inside += [seed for change in changes for seed in change.seeds]
    sources, targets = zip(*inside, strict=True)
    axis.set_xlim(*_limits(sources))
    axis.set_ylim(*_limits(targets))
    for change in changes:
        own = colour(groups.index(change.group))
        shape = MARKERS[tasks.index(change.task) % len(MARKERS)]
        if change.before is not None and change.before != change.after:
            arrow = FancyArrowPatch(
                change.before, change.after, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=3
            )
            arrow.set(color=own, alpha=0.55, linewidth=1.1)
            axis.add_patch(arrow)
            axis.scatter(*change.before, color=own, s=9, alpha=0.55, linewidths=0)
        if change.seeds:
            of_source, of_target = zip(*change.seeds, strict=True)
            axis.scatter(of_source, of_target, color=own, marker=shape, s=10, alpha=0.6, linewidths=0)
        axis.scatter(*change.after, color=own, marker=shape, s=44, edgecolors="black", linewidths=0.5, zorder=3)
    axis.set_xlabel(f"source test {metrics}, %", fontsize=9)
    axis.set_ylabel(f"target test {metrics}, %", fontsize=9)
    axis.set_title(f"Target against source {metrics}; arrows lead from before adaptation", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    keys = [_key(Line2D, group, "s", colour(place), 0.0) for place, group in enumerate(groups)]
    if len(tasks) > 1:
        keys += [_key(Line2D, task, MARKERS[i % len(MARKERS)], "white", 0.8) for i, task in enumerate(tasks)]
    figure.legend(handles=keys, loc="outside lower left", ncols=2, fontsize=7.5, frameon=False)
    return figure


def _limits(values: Sequence[float]) -> tuple[float, float]:
    margin = max(0.08 * (max(values) - min(values)), 1.0)
    return min(values) - margin, max(values) + margin


def _key(line: type, label: str, shape: str, fill: str, edge: float) -> object:
    return line(
        [], [], linestyle="", marker=shape, markersize=7, label=textwrap.fill(label, LABEL_WIDTH),
        markerfacecolor=fill, markeredgecolor="black", markeredgewidth=edge,
    )  # fmt: skip

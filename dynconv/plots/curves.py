"""What several runs are judged by over their steps, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from dynconv.plots.palette import COLOURS, MARKERS, colour
from dynconv.plots.samples import write_figure
from dynconv.plots.training import WIDE

Points = tuple[tuple[int, float], ...]
"""Steps and values, by step."""

DPI = 130
# Inches of a panel, and of a line of the legend.
PANEL, LEGEND_LINE = (6.2, 3.6), 0.2
# These go on where the colours begin anew.
STYLES = ("-", "--", "-.", ":")
# A curve of so many points at most is read by its points.
FEW = 20
BEGINS, JOINS = "adaptation begins", "another discriminator joins in"


@dataclass(frozen=True)
class Curve:
    """Runs that differ in the seed alone."""

    label: str
    place: int
    """Which of the kinds of runs it is of: its colour."""
    seeds: tuple[Points, ...]
    """Of each seed; not empty. NaN parts a line."""
    mean: Points
    """Over the seeds, at the steps that all of them have."""
    begins: int = 0
    """The first step of the adaptation, counted from 0."""
    joining: tuple[int, ...] = ()
    """The first steps of further discriminators."""
    level: bool = False
    """Whether the last point of each seed stands for all steps."""


@dataclass(frozen=True)
class Panel:
    """One axis."""

    title: str
    words: str
    """What the values are."""
    curves: tuple[Curve, ...]


def save_curves(columns: Sequence[Sequence[Panel]], path: Path) -> None:
    """Draw a column for each task, its panels below each other over the same steps: a thick line for the mean of each
    kind of run, thin ones for its seeds where there are several, a dotted one where an adaptation begins, and a
    finer one where a discriminator joins in.

    An axis of positive values more than `WIDE` times apart is logarithmic.

    Args:
        columns: Panels by task; at least one, and one in each. Columns may have unequally many.
        path: Image file to write; its suffix chooses the format.

    Raises:
        ValueError: No panel, or `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if not columns or not all(columns):
        raise ValueError("columns: expected at least one task with a panel, got none")
    rows = max(map(len, columns))
    handles: dict[str, Any] = {}
    labels = {curve.label for panels in columns for panel in panels for curve in panel.curves}
    size = (PANEL[0] * len(columns), PANEL[1] * rows + LEGEND_LINE * (len(labels) + 1))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(rows, len(columns))
    for column, panels in enumerate(columns):
        first = None
        for row, panel in enumerate(panels):
            axis = figure.add_subplot(grid[row, column], sharex=first)
            first = first or axis
            # The first panel's stand: those below it may have more points, and no markers.
            handles = handles | {name: line for name, line in _draw(axis, panel).items() if name not in handles}
    lines = [name for name in (BEGINS, JOINS) if name in handles]
    handles |= {name: handles.pop(name) for name in lines}
    # Of words as long as those of configurations no axis is wide enough.
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=1, fontsize=8, frameon=False)
    write_figure(figure, path)


def _draw(axis: Any, panel: Panel) -> dict[str, Any]:
    """Draw a panel; what the legend is to show of it, by its words."""
    handles: dict[str, Any] = {}
    for curve in panel.curves:
        look = {"color": colour(curve.place), "linestyle": STYLES[curve.place // len(COLOURS) % len(STYLES)]}
        thin: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.5} if curve.mean else {"linewidth": 1.2}
        if curve.level:
            ends = [points[-1][1] for points in curve.seeds]
            for end in ends if len(ends) > 1 else ():
                axis.axhline(end, **look, linewidth=0.7, alpha=0.5)
            handles[curve.label] = axis.axhline(fmean(ends), label=curve.label, linewidth=1.8, **look)
            continue
        for points in curve.seeds if len(curve.seeds) > 1 or not curve.mean else ():
            (handles[curve.label],) = axis.plot(*zip(*points, strict=True), label=curve.label, **look, **thin)
        if curve.mean:
            mark = MARKERS[curve.place % len(MARKERS)] if len(curve.mean) <= FEW else None
            (handles[curve.label],) = axis.plot(
                *zip(*curve.mean, strict=True), label=curve.label, linewidth=1.8, marker=mark, markersize=4, **look
            )
    for step in sorted({curve.begins for curve in panel.curves} - {0}):
        handles[BEGINS] = axis.axvline(step, color="0.5", linestyle=":", linewidth=1, label=BEGINS)
    for step in sorted({step for curve in panel.curves for step in curve.joining}):
        handles[JOINS] = axis.axvline(step, color="0.7", linestyle=(0, (1, 3)), linewidth=1, label=JOINS)
    values = [value for curve in panel.curves for points in curve.seeds for _, value in points if not isnan(value)]
    if min(values) > 0 and max(values) > WIDE * min(values):
        axis.set_yscale("log")
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel(panel.words, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    return handles

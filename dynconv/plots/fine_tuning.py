"""What fine-tuning reaches over the number of labelled target images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynconv.plots.palette import MARKERS, colour
from dynconv.plots.samples import write_figure

DPI = 130
# Inches: width and height of a panel, and of a line of the legend below it.
PANEL, LEGEND_LINE = (6.4, 3.9), 0.2


@dataclass(frozen=True)
class Curve:
    """Fine-tuning from one start; figures are per cent of the target's test images."""

    label: str
    place: int
    """Which of all starts of the figure it is: its colour."""
    counts: tuple[int, ...]
    """Labelled images, ascending; not empty."""
    means: tuple[float, ...]
    """Of each count, over seeds."""
    deviations: tuple[float | None, ...]
    """Over seeds; None of a single one."""
    without: float | None
    """The start itself, which no label of the target was shown; None where there is none."""
    break_even: float | None
    """Where the curve without transfer reaches `without`; None where it does not cross it, or is this one."""


@dataclass(frozen=True)
class Panel:
    """One task."""

    task: str
    metric: str
    """What the figures are, in words."""
    curves: tuple[Curve, ...]


def save_fine_tuning(panels: Sequence[Panel], path: Path) -> None:
    """Draw a panel for each task: a curve for each start over the number of labelled images, in logarithms, a dashed
    line at what the start itself reaches, and a dotted one down from where the curve without transfer reaches it.

    Args:
        panels: The tasks; at least one, each with a curve.
        path: Image file to write; its suffix chooses the format.

    Raises:
        ValueError: No panel, one without a curve, or `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if not panels or not all(panel.curves for panel in panels):
        raise ValueError("panels: expected at least one task with a curve, got none")
    lines = 2 * max(len(panel.curves) for panel in panels)
    size = (PANEL[0], (PANEL[1] + LEGEND_LINE * lines) * len(panels))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    for panel, axis in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0], strict=True):
        _draw(axis, panel)
    if any(deviation is not None for panel in panels for curve in panel.curves for deviation in curve.deviations):
        figure.supxlabel("whiskers: standard deviation over seeds", fontsize=8)
    write_figure(figure, path)


def _draw(axis: Any, panel: Panel) -> None:
    axis.set_xscale("log")
    for curve in panel.curves:
        own = colour(curve.place)
        errors = [deviation or 0.0 for deviation in curve.deviations]
        axis.errorbar(
            curve.counts, curve.means, errors if any(errors) else None, color=own, capsize=3, linewidth=1.4,
            marker=MARKERS[curve.place % len(MARKERS)], markersize=5, label=curve.label,
        )  # fmt: skip
        if curve.without is not None:
            label = f"{curve.label}, without labels: {curve.without:.1f}"
            axis.axhline(curve.without, color=own, linestyle="--", linewidth=1.1, alpha=0.7, label=label)
    low = axis.get_ylim()[0]
    for curve in panel.curves:
        if curve.break_even is not None and curve.without is not None:
            axis.vlines(curve.break_even, low, curve.without, colors=colour(curve.place), linestyles=":", linewidth=1.2)
            axis.annotate(
                f"{curve.break_even:.0f}", (curve.break_even, low), (3, 3), textcoords="offset points", fontsize=8
            )
    axis.set_ylim(bottom=low)
    counts = sorted({count for curve in panel.curves for count in curve.counts})
    axis.set_xticks(counts, [f"{count:,}" for count in counts])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("labelled target images", fontsize=9)
    axis.set_ylabel(f"target test {panel.metric}, %", fontsize=9)
    axis.set_title(panel.task, fontsize=10)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)

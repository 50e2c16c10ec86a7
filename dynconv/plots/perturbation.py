"""Accuracy against the size of perturbations (Calibrator, section 5.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynconv.plots.palette import colour, marker
from dynconv.plots.samples import write_figure

DPI = 130
# Inches of a panel.
WIDTH, HEIGHT = 5.8, 4.2
MOST_COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """One kind of perturbation on one domain."""

    label: str
    sizes: tuple[float, ...]
    """Bounds of L-infinity, above 0, ascending."""
    accuracies: tuple[float, ...]
    """Shares of 1, one for each size."""
    oracle: bool
    """Whether it looks at the true labels; then it is dashed."""


@dataclass(frozen=True)
class Own:
    """The calibrator's perturbation on one domain."""

    size: float
    """L-infinity, the mean over the images."""
    smallest: float
    largest: float
    accuracy: float


@dataclass(frozen=True)
class PerturbationPanel:
    """One domain."""

    title: str
    without: float
    """Accuracy of the classifier alone on what was not perturbed."""
    own: Own
    curves: tuple[Curve, ...]


def save_perturbation(panels: Sequence[PerturbationPanel], path: Path, *, title: str) -> None:
    """Draw a panel for each domain: a curve for each kind of perturbation, a line for none, a star for the calibrator,
    whose whiskers reach from its smallest to its largest perturbation of an image. Sizes are drawn in logarithms; where
    the smallest is 0, those below the curves' first one are not.

    Args:
        panels: At least one, each with the same kinds of curves.
        path: Image file to write; its suffix chooses the format.
        title: Above the figure.

    Raises:
        ValueError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    columns = min(MOST_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 1.3), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    write_figure(figure, path)


def _draw(axis: Any, panel: PerturbationPanel) -> None:
    axis.axhline(100 * panel.without, color="black", linewidth=0.9, linestyle=":", label="no perturbation")
    for place, curve in enumerate(panel.curves):
        axis.plot(
            curve.sizes, [100 * value for value in curve.accuracies], color=colour(place), marker=marker(10 * place),
            markersize=4, linewidth=1.3, linestyle="--" if curve.oracle else "-", label=curve.label,
        )  # fmt: skip
    own = panel.own
    whiskers = [[own.size - own.smallest], [own.largest - own.size]]
    axis.errorbar(
        own.size, 100 * own.accuracy, xerr=whiskers, color="black", marker="*", markersize=13, markerfacecolor="gold",
        linewidth=0.9, capsize=2.5, zorder=5, label="calibrator",
    )  # fmt: skip
    # Sizes differ by factors, and so do what they do.
    sizes = panel.curves[0].sizes
    if own.smallest > 0:
        axis.set_xscale("log")
    else:
        # A logarithmic axis has no place for 0, where an image that the calibrator left as it is begins the whisker.
        axis.set_xscale("symlog", linthresh=sizes[0])
        sizes = (0.0, *sizes)
    axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axis.minorticks_off()
    axis.set_ylim(-3, 103)
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel("largest change of a value (L-infinity; black to white is 1)", fontsize=8)
    axis.set_ylabel("accuracy, %", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)

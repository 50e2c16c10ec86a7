"""Accuracy over epsilon, the bound of a calibrator's perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynconv.plots.palette import MARKERS, colour
from dynconv.plots.samples import write_figure

DPI = 130
# Bounds this many times apart are drawn in logarithms.
LOGARITHMIC = 20.0


@dataclass(frozen=True)
class Curve:
    """What a panel shows, in per cent, of one domain's test images over the bounds."""

    label: str
    place: int
    """Which of the kinds of runs it is of: its colour."""
    source: bool
    """Whether the domain is the source; its line is dashed."""
    bounds: tuple[float, ...]
    """Ascending; 0 is the classifier without calibrator."""
    means: tuple[float, ...]
    deviations: tuple[float | None, ...]
    """Over seeds; None of a single one."""
    without: float | None
    """The classifier without calibrator; None where it is not known."""


@dataclass(frozen=True)
class Panel:
    """One task."""

    task: str
    curves: tuple[Curve, ...]
    metrics: str = "accuracy"
    """What the figures are, in words."""


def save_epsilon(panels: Sequence[Panel], path: Path, *, axis_label: str, note: str) -> None:
    """Draw a panel for each task: a curve for each kind of run and domain, and a pale line at the accuracy of the
    classifier without calibrator. The axis is logarithmic where the bounds are far apart.

    Args:
        panels: The tasks; at least one, each with a curve.
        path: Image file to write; its suffix chooses the format.
        axis_label: What the bound is.
        note: What whiskers are; empty where there are none.

    Raises:
        ValueError: No panel, or `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("panels: expected at least one task, got none")
    figure = Figure(figsize=(6.4, 4.2 * len(panels)), dpi=DPI, layout="constrained")
    for panel, axis in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0], strict=True):
        bounds = sorted({bound for curve in panel.curves for bound in curve.bounds})
        for curve in panel.curves:
            own, style = colour(curve.place), "--" if curve.source else "-"
            errors = [deviation or 0.0 for deviation in curve.deviations]
            axis.errorbar(
                curve.bounds, curve.means, errors if any(errors) else None, color=own, linestyle=style, capsize=3,
                marker=MARKERS[1 if curve.source else 0], markersize=5, linewidth=1.4, label=curve.label,
            )  # fmt: skip
            if curve.without is not None:
                label = f"{curve.label}, no calibrator: {curve.without:.1f}"
                axis.axhline(curve.without, color=own, linestyle=style, alpha=0.45, linewidth=1.0, label=label)
        if bounds[0] > 0 and bounds[-1] / bounds[0] >= LOGARITHMIC:
            axis.set_xscale("log")
        axis.set_xlabel(axis_label, fontsize=9)
        axis.set_ylabel(f"test {panel.metrics}, %", fontsize=9)
        axis.set_title(panel.task, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7.5)
    if note:
        figure.supxlabel(note, fontsize=8)
    write_figure(figure, path)

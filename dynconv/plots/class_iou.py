"""Intersection over union of each class, of several networks beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from dynconv.plots.palette import colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: a bar, the space between classes, and what stands around the axes.
BAR, GAP, REST = 0.13, 0.16, 1.3
WIDTH = 7.5


def class_iou_figure(ious: Mapping[str, Mapping[str, float]], *, title: str) -> Figure:
    """Draw a group of bars for each class, a bar for each network, with the number behind it.

    Args:
        ious: Network to class to IoU in per cent. A class that a network lacks, for it occurs in neither truth nor
            prediction, has no bar.
        title: Above the figure.

    Raises:
        ValueError: No network, or one without a class.
    """
    from matplotlib.figure import Figure

    if not ious or not all(ious.values()):
        raise ValueError("ious: expected at least one network, and of each at least one class")
    classes = list(dict.fromkeys(label for of_classes in ious.values() for label in of_classes))
    step = len(ious) * BAR + GAP
    figure = Figure(figsize=(WIDTH, step * len(classes) + REST + 0.2 * len(ious)), layout="constrained")
    axis = figure.subplots()
    for place, (name, of_classes) in enumerate(ious.items()):
        there = [(row, of_classes[label]) for row, label in enumerate(classes) if label in of_classes]
        rows, values = zip(*there, strict=True)
        at = [row + (place - (len(ious) - 1) / 2) * BAR / step for row in rows]
        bars = axis.barh(at, values, height=BAR / step, color=colour(place), label=f"{name}: mean {fmean(values):.1f}")
        axis.bar_label(bars, fmt="%.1f", fontsize=5.5, padding=2)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.set_ylim(len(classes) - 0.4, -0.6)
    # Behind a bar of 100 there is room for its number.
    axis.set_xlim(0, 108)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("IoU, %", fontsize=9)
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower left", fontsize=7.5, frameon=False)
    return figure

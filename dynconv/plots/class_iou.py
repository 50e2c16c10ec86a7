"""Intersection over union of each class, of several networks beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dynconv.plots.palette import colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: a bar, the space between classes, and what stands around the axes.
BAR, GAP, REST = 0.13, 0.16, 1.3
WIDTH = 7.5


class ClassIoUs(NamedTuple):
    """What a network reaches, in per cent."""

    mean: float
    """The mean IoU, as the tables have it."""
    of_class: Mapping[str, float]
    """The IoU of each class; one that occurs in neither truth nor prediction has none."""


def class_iou_figure(ious: Mapping[str, ClassIoUs], classes: Sequence[str], *, title: str) -> Figure:
    """Draw a group of bars for each class, a bar for each network, with the number behind it.

    Args:
        ious: Network to its IoUs. A class that a network lacks has no bar.
        classes: The classes from top to bottom; all that a network has.
        title: Above the figure.

    Raises:
        ValueError: No network, one without a class, or a class that is not in `classes`.
    """
    from matplotlib.figure import Figure

    if not ious or not all(each.of_class for each in ious.values()):
        raise ValueError("ious: expected at least one network, and of each at least one class")
    found = {label for each in ious.values() for label in each.of_class}
    if lost := sorted(found - set(classes)):
        raise ValueError(f"classes: expected all that a network has, got none of {', '.join(lost)}")
    classes = [label for label in classes if label in found]
    step = len(ious) * BAR + GAP
    figure = Figure(figsize=(WIDTH, step * len(classes) + REST + 0.2 * len(ious)), layout="constrained")
    axis = figure.subplots()
    for place, (name, (mean, of_classes)) in enumerate(ious.items()):
        there = [(row, of_classes[label]) for row, label in enumerate(classes) if label in of_classes]
        rows, values = zip(*there, strict=True)
        at = [row + (place - (len(ious) - 1) / 2) * BAR / step for row in rows]
        bars = axis.barh(at, values, height=BAR / step, color=colour(place), label=f"{name}: mean {mean:.1f}")
        axis.bar_label(bars, fmt="%.1f", fontsize=6.5, padding=2)
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

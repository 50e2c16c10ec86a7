"""Source-or-Not (GAM, section 5.1, Fig. 3): one unit's activations on two images, pair by pair, and how often a
classifier tells from them whether both are of one domain, layer by layer."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.metrics.source_or_not import Share, shared_histogram
from dynconv.plots.palette import colour
from dynconv.plots.samples import write_figure

Array = np.ndarray[Any, Any]

DPI = 130
# Of a map with 400 places and more; fewer would leave most bins of a smaller one empty.
BINS = 40
COLUMNS = 4
# Inches: a pair's panel, the chart of the layers, and what a layer takes of its width.
PANEL = (2.7, 2.0)
CHART, LAYER = 4.1, 0.55
# Where a line of a single value ends, below the words; a share of the panel's height.
STROKE = 0.75


@dataclass(frozen=True)
class PairPanel:
    """One pair of images."""

    title: str
    values: tuple[Array, Array]
    """(places,) of each image."""
    limits: tuple[float, float]
    """The smallest and the largest value of the unit on many images, where a single value of each is drawn."""
    answer: str


@dataclass(frozen=True)
class LayerAnswers:
    """How often the classifier is right with the units of one layer; shares of 1."""

    name: str
    constants: str
    """How many of the units were constant and are not counted, in words."""
    game: Share | None
    """Of pairs, by who calls the domain of either image; this and the other shares None where all units are
    constant."""
    units: Array
    """(U,): the same from each unit alone."""
    comparing: Share | None
    """Of pairs, by who compares both images."""
    which: Share | None
    """Of single images, whose domain is called."""


def save_source_or_not(
    panels: Sequence[PairPanel], layers: Sequence[LayerAnswers], path: Path, *, title: str, counts: str
) -> None:
    """Draw a panel for each pair, and below them the shares of right answers over the layers.

    A histogram is over the range of both images, with shares of the places in logarithms: what lies apart is often a
    thousandth of them beside a peak at 0. Where a unit has a single value on an image both are lines within the range
    of many.

    Args:
        panels: Pairs, at least one.
        layers: From the images to the scores, at least one.
        path: Image file to write; its suffix chooses the format.
        title: Above the figure.
        counts: How many pairs and images were asked for and learnt from, in words, below it.

    Raises:
        ValueError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = max(PANEL[0] * columns, LAYER * len(layers) + 3.0, 9.0)
    heights = PANEL[1] * rows + 0.4, CHART
    figure = Figure(figsize=(width, sum(heights) + 0.6), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    grid = above.subplots(rows, columns, squeeze=False)
    for axis in list(grid.flat)[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(grid.flat, panels, strict=False):
        _draw_pair(axis, panel)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    _draw_layers(below.subplots(), layers)
    notes = (
        f"{counts}. One unit's activations are all that a classifier sees of an image: logistic regression on their "
        "distribution over the places, or on a single value with its distance from the median and that squared. Points "
        "are single units, markers the means over the drawn units that are not constant; whiskers 95 % intervals "
        "(Wilson, of the pairs or the images) for other images, of these units. By calling either domain: it says of "
        "each image whose it is; by comparing: it sees the differences of both alone."
    )
    below.supxlabel(textwrap.fill(notes, int(12 * width), break_on_hyphens=False), fontsize=8)
    write_figure(figure, path)


def _draw_pair(axis: Any, panel: PairPanel) -> None:
    axis.set_title(panel.title, fontsize=8)
    axis.set_xlabel(panel.answer, fontsize=8)
    axis.tick_params(labelsize=7)
    if max(map(len, panel.values)) == 1:
        for place, (value, stroke) in enumerate(zip(panel.values, ("-", "--"), strict=True)):
            line = {"color": colour(place), "linewidth": 2.2, "linestyle": stroke, "label": f"image {place + 1}"}
            axis.axvline(float(value[0]), ymax=STROKE, **line)
        low, high = panel.limits
        margin = 0.03 * (high - low)
        axis.set_xlim(low - margin, high + margin)
        axis.set_yticks([])
        words = "a single value of each image:\nactivation on the unit's range"
        axis.text(0.5, (1 + STROKE) / 2, words, ha="center", va="center", transform=axis.transAxes, fontsize=7)
        return
    axis.set_ylabel("share of places, %", fontsize=7)
    places = min(map(len, panel.values))
    edges, shares = shared_histogram(panel.values, min(max(2 * math.isqrt(places), 4), BINS))
    # Below a single place.
    least = 50 / max(map(len, panel.values))
    for place, own in enumerate(shares):
        # Filled and in strokes: told apart without their colours too.
        style: dict[str, Any] = {"fill": True, "alpha": 0.45} if place == 0 else {"linewidth": 1.3}
        style |= {"color": colour(place), "label": f"image {place + 1}"}
        axis.stairs(np.maximum(100 * own, least), edges, baseline=least, **style)
    axis.set_yscale("log")
    axis.set_ylim(least, 150)
    axis.set_xlim(edges[0], edges[-1])


def _draw_layers(axis: Any, layers: Sequence[LayerAnswers]) -> None:
    live = [place for place, layer in enumerate(layers) if len(layer.units)]
    for place in live:
        layer = layers[place]
        # Side by side, for those of a layer often coincide.
        spread = np.linspace(-0.1, 0.1, len(layer.units)) if len(layer.units) > 1 else np.zeros(1)
        axis.scatter(
            place - 0.2 + spread, 100 * np.sort(layer.units), s=7, color=colour(0), alpha=0.45, linewidths=0,
            label="the game, one unit" if place == live[0] else None,
        )  # fmt: skip
    shown = (
        ([layer.game for layer in layers], -0.2, "o", 0, "the game, by calling either domain"),
        ([layer.comparing for layer in layers], 0.05, "^", 2, "the game, by comparing"),
        ([layer.which for layer in layers], 0.25, "s", 1, "one image's domain"),
    )
    for of_layers, shift, shape, hue, label in shown:
        known = [(place, share) for place, share in enumerate(of_layers) if share is not None]
        at = np.array([place for place, _ in known])
        means, lows, highs = 100 * np.array([share for _, share in known]).T
        axis.errorbar(
            at + shift, means, yerr=[means - lows, highs - means], linestyle="none", color=colour(hue), marker=shape,
            markersize=5, markeredgecolor="black", markeredgewidth=0.5, capsize=2.5, label=label,
        )  # fmt: skip
    axis.axhline(50, color="black", linestyle=":", linewidth=0.9, label="chance")
    names = [f"{number}: {layer.name}\n{layer.constants}" for number, layer in enumerate(layers, 1)]
    axis.set_xticks(np.arange(len(layers)), names, fontsize=8)
    if len(layers) > 5:
        axis.tick_params(axis="x", rotation=40)
        for text in axis.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")
    axis.set_xlim(-0.6, len(layers) - 0.4)
    axis.set_ylabel("right answers from one unit alone, %", fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=3, frameon=False)

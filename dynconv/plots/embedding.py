"""Features in the plane, coloured by domain and by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.plots.palette import COLOURS, colour, marker, save_png

# Names of more classes than this would hide the points.
MOST_NAMES = 40


def save_embedding(
    points: np.ndarray[Any, Any],
    domains: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    *,
    domain_names: Sequence[str],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw the same points twice: coloured by domain, and by class.

    Args:
        points: (N, 2), from t-SNE or the like: distances within a cloud mean something, those between clouds little.
        domains: int64 (N,), places in `domain_names`, whose last is the target.
        labels: int64 (N,), places in `classes`, or below 0 for points without labels, which are grey. Ten colours,
            then the same with another shape.
        domain_names, classes: What they are called.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 5.2), layout="constrained")
    by_domain, by_class = figure.subplots(1, 2)
    for place, name in enumerate(domain_names):
        own = points[domains == place]
        target = place == len(domain_names) - 1
        shown = f"{name} ({'target' if target else 'source'})"
        # The target last and as crosses: it is told apart without its colour too.
        style = {"marker": "x", "s": 13, "linewidths": 0.8} if target else {"marker": "o", "s": 9, "linewidths": 0}
        by_domain.scatter(own[:, 0], own[:, 1], color=domain_colour(place, target), alpha=0.7, label=shown, **style)
    by_domain.set_title("by domain", fontsize=10)
    by_domain.legend(fontsize=8, framealpha=0.8, markerscale=1.6)
    is_target = domains == len(domain_names) - 1
    for label, name in enumerate(classes):
        own = points[labels == label]
        by_class.scatter(own[:, 0], own[:, 1], color=colour(label), marker=marker(label), s=9, linewidths=0, alpha=0.75)
        of_target = points[is_target & (labels == label)]
        if len(of_target) and len(classes) <= MOST_NAMES:
            x, y = np.median(of_target, axis=0)
            box = {"facecolor": "white", "edgecolor": colour(label), "alpha": 0.85, "boxstyle": "round,pad=0.15"}
            by_class.text(x, y, name, fontsize=7, ha="center", va="center", bbox=box)
    names = "names at the medians of the target's" if len(classes) <= MOST_NAMES else f"{len(classes)} classes"
    if (unlabelled := labels < 0).any():
        by_class.scatter(*points[unlabelled].T, color="0.75", marker="x", s=9, linewidths=0.6)
        names = "grey: without labels"
    repeats = "; colours repeat with other shapes" if len(classes) > len(COLOURS) else ""
    by_class.set_title(f"by class ({names}{repeats})", fontsize=10)
    for axis in (by_domain, by_class):
        axis.set_xticks([])
        axis.set_yticks([])
    save_png(figure, path)


def domain_colour(place: int, target: bool) -> str:
    """The colour of the `place`-th domain, of the target where it is that."""
    # The third colour, a dark red, is the target's on every page; the sources take the others.
    if target:
        return COLOURS[2]
    others = [each for each in COLOURS if each != COLOURS[2]]
    return others[place % len(others)]

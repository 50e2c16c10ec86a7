"""Features in the plane, coloured by domain and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynconv.plots.palette import COLOURS, DPI, MARKERS, colour, marker, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Places = np.ndarray[Any, np.dtype[np.float64]]

# Of more classes the names would hide the points: they stand in a legend.
MOST_NAMES = 12
# Of still more, colour and shape would tell two classes the same.
MOST_KEYS = len(COLOURS) * len(MARKERS)
# Lines of a column of the legend, and inches of it, of a figure so high.
_KEYS, _KEY_WIDTH, _HEIGHT = 33, 1.35, 5.2
# Letters of a class's name.
_LONGEST = 24
# Pixels between two names, and rounds of pushing: a dozen names need a few dozen.
_GAP, _ROUNDS = 3.0, 500


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

    A dozen classes have their names in the picture; more, or those of a target without labels, in a legend; more than
    ten colours and seven shapes tell apart have none.

    Args:
        points: (N, 2), from t-SNE or the like: distances within a cloud mean something, those between clouds little.
        domains: int64 (N,), places in `domain_names`, whose last is the target.
        labels: int64 (N,), places in `classes`, or below 0 for points without labels, which are grey. Ten colours,
            then the same with another shape.
        domain_names, classes: What they are called.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    is_target = domains == len(domain_names) - 1
    shown = [label for label in range(len(classes)) if (labels == label).any()]
    medians = {
        classes[label]: np.median(points[is_target & (labels == label)], axis=0)
        for label in shown
        if (is_target & (labels == label)).any()
    }
    named = len(classes) <= MOST_NAMES and bool(medians)
    keyed = not named and len(classes) <= MOST_KEYS
    columns = -(-len(shown) // _KEYS) if keyed else 0
    figure = Figure(figsize=(2 * _HEIGHT + columns * _KEY_WIDTH, _HEIGHT), dpi=DPI, layout="constrained")
    by_domain, by_class = figure.subplots(1, 2)
    for place, name in enumerate(domain_names):
        own = points[domains == place]
        target = place == len(domain_names) - 1
        called = f"{name} ({'target' if target else 'source'})"
        # The target last and as crosses: it is told apart without its colour too.
        style = {"marker": "x", "s": 13, "linewidths": 0.8} if target else {"marker": "o", "s": 9, "linewidths": 0}
        by_domain.scatter(own[:, 0], own[:, 1], color=domain_colour(place, target), alpha=0.7, label=called, **style)
    by_domain.set_title("by domain", fontsize=10)
    by_domain.legend(fontsize=8, framealpha=0.8, markerscale=1.6)
    for label in shown:
        own = points[labels == label]
        style = {"color": colour(label), "marker": marker(label), "s": 9, "linewidths": 0, "alpha": 0.75}
        by_class.scatter(own[:, 0], own[:, 1], label=_short(classes[label]), **style)
    title = "by class" if named or keyed else f"by class ({len(classes)}, some of which look alike)"
    if (unlabelled := labels < 0).any():
        by_class.scatter(*points[unlabelled].T, color="0.75", marker="x", s=9, linewidths=0.6)
        title += "; grey: without labels"
    by_class.set_title(f"{title}; names at the target's medians" if named else title, fontsize=10)
    for axis in (by_domain, by_class):
        axis.set_xticks([])
        axis.set_yticks([])
    if keyed:
        keys = by_class.get_legend_handles_labels()
        figure.legend(*keys, loc="outside right upper", ncols=columns, fontsize=7, markerscale=2, frameon=False)
    if named:
        _write_names(figure, by_class, medians, {name: colour(classes.index(name)) for name in medians})
    save_png(figure, path)


def _write_names(figure: Figure, axis: Axes, medians: Mapping[str, Places], edges: Mapping[str, str]) -> None:
    """Names in boxes at their medians; those that would lie upon another aside, with a line to where they belong."""
    written = []
    for name, (x, y) in medians.items():
        box = {"facecolor": "white", "edgecolor": edges[name], "boxstyle": "round,pad=0.15"}
        line = {"arrowstyle": "-", "color": edges[name], "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        own: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "center", "zorder": 4, "in_layout": False}
        written.append(axis.annotate(_short(name), (x, y), (x, y), bbox=box, arrowprops=line, **own))
    # How large the boxes are, and where, is known once all has its place.
    figure.draw_without_rendering()
    extents = [patch.get_window_extent() for each in written if (patch := each.get_bbox_patch()) is not None]
    frame = axis.get_window_extent()
    centres = np.array([((each.x0 + each.x1) / 2, (each.y0 + each.y1) / 2) for each in extents])
    sizes = np.array([(each.width, each.height) for each in extents])
    moves = pushed_apart(centres, sizes + _GAP, np.array(frame.min), np.array(frame.max)) - centres
    for each, move in zip(written, moves, strict=True):
        if move.any():
            place = axis.transData.transform(each.get_position()) + move
            x, y = axis.transData.inverted().transform(place)
            each.set_position((x, y))


def pushed_apart(centres: Places, sizes: Places, low: Places, high: Places) -> Places:
    """Places for boxes near `centres`, so that none lies upon another.

    Args:
        centres: (N, 2), where each would be.
        sizes: (N, 2), widths and heights.
        low, high: (2,), two corners of what all of them lie in.

    Returns:
        (N, 2); where there is no room for all of them some still overlap.
    """
    placed = centres.copy()
    for _ in range(_ROUNDS):
        still = True
        for one in range(len(placed)):
            for other in range(one):
                apart = placed[one] - placed[other]
                overlap = (sizes[one] + sizes[other]) / 2 - np.abs(apart)
                if (overlap <= 1e-6).any():
                    continue
                still = False
                # The shorter way; of two in one place the later one goes up.
                way = int(overlap[1] <= overlap[0])
                step = overlap[way] / 2 * (-1 if apart[way] < 0 else 1)
                placed[one, way] += step
                placed[other, way] -= step
        placed = np.clip(placed, low + sizes / 2, high - sizes / 2) if not still else placed
        if still:
            break
    return placed


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def domain_colour(place: int, target: bool) -> str:
    """The colour of the `place`-th domain, of the target where it is that."""
    # The third colour, a dark red, is the target's on every page; the sources take the others.
    if target:
        return COLOURS[2]
    others = [each for each in COLOURS if each != COLOURS[2]]
    return others[place % len(others)]

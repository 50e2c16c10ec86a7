"""Dynamic coefficients: in the plane, coloured by domain and by class, and as histograms of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.plots.embedding import domain_colour
from dynconv.plots.palette import COLOURS, colour
from dynconv.plots.samples import write_figure

Array = np.ndarray[Any, Any]

# Of more classes the most frequent have looks of their own, and the others are grey: so no class is.
MOST_CLASSES = 20
OTHERS = "#d0d0d0"
CLASS_COLOURS = tuple(each for each in COLOURS if each not in ("#94a4a2", "#717581"))
# Neighbours differ in their shape too; each time that the colours begin anew there are two others.
CLASS_SHAPES = ("o", "^", "s", "v", "D", "X")
# Below this standard deviation over the images a network is as good as static, however well t-SNE, which knows no
# scale, parts its points: with 1/4 for each of four bases it is 0.4 % of a coefficient.
HARDLY = 1e-3
# Inches: a panel of the plane, and one of a layer's histograms.
PLANE = 3.0
LAYER = (2.5, 1.9)
# Around the layers' panels.
LEFT, RIGHT, TOP, BOTTOM = 0.75, 1.1, 0.75, 0.55
MOST_COLUMNS = 6
# Points: the last curve of a layer, and how much wider each curve below is; its strokes, and the gaps that show those.
THINNEST, STEP = 1.0, 0.5
STROKES = ("-", (0, (5, 2)), (0, (3, 3)), (0, (1, 3)))
DPI = 130


@dataclass(frozen=True)
class Panel:
    """The vectors of some layers."""

    title: str
    points: Array | None
    """float32 (N, 2) from t-SNE; None where all vectors are the same."""
    by_domain: float | None
    """Silhouette of the vectors themselves, grouped by domain; None where it is not defined."""
    by_class: float | None
    """The same, grouped by class."""
    deviation: float
    """Standard deviation of a coefficient over the images, the mean over the coefficients."""
    uniform: float
    """1/K, the coefficient where all bases count alike."""

    @property
    def hardly_dynamic(self) -> bool:
        """Whether the coefficients hardly depend on the image."""
        return self.deviation < HARDLY


def save_coefficients(
    panels: Sequence[Panel],
    domains: Array,
    labels: Array,
    *,
    domain_names: Sequence[str],
    classes: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Draw each panel's points twice: coloured by domain, and below it by class (DRT, Fig. 4 and 5).

    Args:
        panels: The columns, left to right; the same N images in each.
        domains: int64 (N,), places in `domain_names`, whose last is the target.
        labels: int64 (N,), places in `classes`. Of more than 20 classes the 20 with the most of these images are told
            apart, and the others are grey.
        domain_names, classes: What they are called.
        title: Above the figure.
        path: Image file to write; its suffix chooses the format.

    Raises:
        ValueError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PLANE * len(panels) + 1.7, 2 * PLANE + 1.0), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False)
    shown = _most_frequent(labels)
    for column, panel in enumerate(panels):
        by_domain, by_class = grid[:, column]
        if panel.points is None:
            for axis in (by_domain, by_class):
                axis.text(0.5, 0.5, "the same for every image", ha="center", transform=axis.transAxes, fontsize=10)
        else:
            _draw_domains(by_domain, panel.points, domains, domain_names)
            _draw_classes(by_class, panel.points, labels, classes, shown)
            if panel.hardly_dynamic:
                for axis in (by_domain, by_class):
                    _warn(axis, panel)
        # t-SNE and silhouettes know no scale: without this number a network whose coefficients hardly move from 1/K
        # looks as dynamic as any other.
        by_domain.set_title(f"{panel.title}\nthat vary by {panel.deviation:.2g} over the images", fontsize=10)
        for axis, what, value in ((by_domain, "domain", panel.by_domain), (by_class, "class", panel.by_class)):
            axis.set_xticks([])
            axis.set_yticks([])
            figures = "not defined" if value is None else f"{value:+.2f}".replace("-", "−")
            axis.set_xlabel(f"silhouette by {what}: {figures}", fontsize=10)
    for axes, name in ((grid[0], "domain"), (grid[1], "class")):
        entries = next((axis.get_legend_handles_labels() for axis in axes if axis.get_legend_handles_labels()[0]), None)
        if entries is not None:
            axes[-1].legend(
                *entries, title=name, fontsize=9, title_fontsize=9, frameon=False, markerscale=2.0,
                loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0,
            )  # fmt: skip
    figure.suptitle(
        # In lines that a single panel holds.
        f"{title}\nt-SNE, coloured by domain (above) and by class (below);\n"
        "silhouettes are of the vectors, not of the plane",
        fontsize=10,
    )
    write_figure(figure, path)


def _warn(axis: Any, panel: Panel) -> None:
    # Above the points, where no point lies.
    axis.margins(y=0.05)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.3 * (high - low))
    axis.text(
        0.5, 0.98, "these coefficients hardly\ndepend on the image:\n"
        f"standard deviation {panel.deviation:.1g}, of 1/K = {panel.uniform:.3g}",
        ha="center", va="top", transform=axis.transAxes, fontsize=9, color=COLOURS[2],
    )  # fmt: skip


def _most_frequent(labels: Array) -> list[int]:
    """The labels to tell apart, in their order."""
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    return sorted(int(label) for label in order if counts[label])


def _draw_domains(axis: Any, points: Array, domains: Array, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        own = points[domains == place]
        target = place == len(names) - 1
        # The target last and as crosses: it is told apart without its colour too.
        style = {"marker": "x", "s": 12, "linewidths": 0.8} if target else {"marker": "o", "s": 8, "linewidths": 0}
        shown = f"{name}\n(target)" if target else name
        axis.scatter(own[:, 0], own[:, 1], color=domain_colour(place, target), alpha=0.75, label=shown, **style)


def _draw_classes(axis: Any, points: Array, labels: Array, classes: Sequence[str], shown: Sequence[int]) -> None:
    others = ~np.isin(labels, shown)
    if others.any():
        rest = points[others]
        count = len(np.unique(labels[others]))
        axis.scatter(rest[:, 0], rest[:, 1], color=OTHERS, s=6, linewidths=0, label=f"{count} others")
    for place, label in enumerate(shown):
        own = points[labels == label]
        anew, hue = divmod(place, len(CLASS_COLOURS))
        style = {"color": CLASS_COLOURS[hue], "marker": CLASS_SHAPES[2 * anew + hue % 2], "s": 13, "linewidths": 0}
        axis.scatter(own[:, 0], own[:, 1], alpha=0.75, label=classes[label], **style)


def save_histograms(
    counts: Mapping[str, Array], edges: Array, path: Path, *, deviations: Mapping[str, float], title: str
) -> None:
    """Draw the histograms of each layer's coefficients: a panel for each layer, the lowest first, a curve for each
    basis, on one scale of the coefficients. Each curve is thinner than those before it, with wider gaps: where they
    coincide all show.

    Args:
        counts: int64 (K, bins) by layer.
        edges: float64 (bins + 1,).
        path: Image file to write; its suffix chooses the format.
        deviations: Standard deviation of a coefficient over the images, the mean over the bases, by layer.
        title: Above the figure.

    Raises:
        ValueError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    columns = min(MOST_COLUMNS, len(counts) if len(counts) <= 4 else math.ceil(math.sqrt(len(counts))))
    rows = math.ceil(len(counts) / columns)
    width, height = LAYER[0] * columns + LEFT + RIGHT, LAYER[1] * rows + TOP + BOTTOM
    figure = Figure(figsize=(width, height), dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    # By hand: the constrained layout of 33 panels takes 4 s.
    figure.subplots_adjust(
        left=LEFT / width, right=1 - RIGHT / width, top=1 - TOP / height, bottom=BOTTOM / height, wspace=0.3, hspace=0.5
    )
    for axis in grid.flat[len(counts) :]:
        axis.set_axis_off()
    for place, (layer, values) in enumerate(counts.items()):
        axis = grid.flat[place]
        for basis, own in enumerate(values):
            line = THINNEST + STEP * (len(values) - 1 - basis)
            style = {"color": colour(basis), "linewidth": line, "linestyle": STROKES[basis % len(STROKES)]}
            axis.stairs(own, edges, label=f"basis {basis + 1}", **style)
        # Where all bases count alike.
        axis.axvline(1 / len(values), color="black", linestyle=":", linewidth=0.8)
        # The mean over the bases is 1/K always.
        axis.set_title(f"{place + 1}: {layer}\nvary by {deviations[layer]:.2g} over the images", fontsize=8)
        axis.tick_params(labelsize=7, labelbottom=place + columns >= len(counts))
        axis.set_xlim(edges[0], edges[-1])
        axis.set_ylim(bottom=0)
    figure.supxlabel("coefficient (dotted: 1 / number of bases)", fontsize=9, y=0.08 / height)
    figure.supylabel("images", fontsize=9, x=0.08 / width)
    entries = max(
        (axis.get_legend_handles_labels() for axis in grid.flat[: len(counts)]), key=lambda each: len(each[0])
    )
    figure.legend(*entries, loc="center right", fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height)
    write_figure(figure, path)

"""Driving scenes beside their label maps: the truth, and what networks make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dynconv.data.scenes.label_maps import IGNORE, Colour, palette_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

# Cityscapes draws what is no class in black.
NO_CLASS = "no class"
BLACK = (0, 0, 0)
# Inches: the width of a picture, the words above the figure and above a row, a line of the legend, and each line of a
# column's head but its first.
PICTURE, HEAD, NAME, LEGEND_LINE, HEAD_LINE = 2.9, 0.55, 0.22, 0.22, 0.15
LEGEND_COLUMNS = 6
DPI = 130
# Pixels of a picture's width.
DRAWN = round(PICTURE * DPI)


def coloured(label_maps: Array, classes: Sequence[str]) -> Array:
    """Label maps uint8 (...) in the colours of their classes, uint8 (..., 3): Cityscapes' or CamVid's of these names
    (`palette_of`), and black for `IGNORE`."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(classes)] = palette_of(classes)
    table[IGNORE] = BLACK
    return np.asarray(table[label_maps])


def scenes_figure(
    images: Array, label_maps: Mapping[str, Array], classes: Sequence[str], *, names: Sequence[str], title: str
) -> Figure:
    """Draw a row for each scene, the image and its label maps beside each other, with a legend of the classes in them.

    Args:
        images: uint8 (M, H, W, 3), M > 0.
        label_maps: Head of each column ("ground truth", "before", "after") to label maps uint8 (M, H, W).
        classes: Names of the classes.
        names: Of the M scenes.
        title: Above the figure.

    Raises:
        ValueError: No scene, or label maps of another number or size than the images.
    """
    from matplotlib.figure import Figure

    if len(images) == 0:
        raise ValueError("images: expected at least one scene, got none")
    for head, maps in label_maps.items():
        if maps.shape != images.shape[:3]:
            raise ValueError(f"label_maps: expected {images.shape[:3]}, got {maps.shape} of {head!r}")
    height, width = images.shape[1:3]
    shown = [place for place in range(len(classes)) if any((maps == place).any() for maps in label_maps.values())]
    lines = len(shown) // LEGEND_COLUMNS + 1
    columns = 1 + len(label_maps)
    head_lines = max((head.count("\n") for head in label_maps), default=0)
    tall = (PICTURE * height / width + NAME) * len(images) + HEAD + HEAD_LINE * head_lines + LEGEND_LINE * lines
    figure = Figure(figsize=(PICTURE * columns, tall), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(len(images), columns, squeeze=False)
    pictures = {"image": images} | {head: coloured(maps, classes) for head, maps in label_maps.items()}
    for place, (row, name) in enumerate(zip(axes, names, strict=True)):
        for axis, (head, of_scenes) in zip(row, pictures.items(), strict=True):
            # Between the colours of two classes there is no third; an image has to be smoothed where it is reduced.
            axis.imshow(of_scenes[place], interpolation="nearest" if head in label_maps else None)
            axis.set_xticks([])
            axis.set_yticks([])
            if place == 0:
                axis.set_title(head, fontsize=9)
        row[0].set_xlabel(name, fontsize=7, labelpad=2)
    keys = [(classes[place], palette_of(classes)[place]) for place in shown]
    keys += [(NO_CLASS, BLACK)] * any((maps == IGNORE).any() for maps in label_maps.values())
    add_legend(figure, keys)
    return figure


def add_legend(figure: Figure, keys: Sequence[tuple[str, Colour]]) -> None:
    """Say at the foot of `figure` which colour is which class."""
    from matplotlib.patches import Patch

    handles = [Patch(color="#{:02x}{:02x}{:02x}".format(*colour), label=label) for label, colour in keys]
    figure.legend(handles=handles, loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=7.5, frameon=False)

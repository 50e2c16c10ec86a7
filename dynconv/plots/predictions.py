"""Sample images with what a network takes them for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.plots.palette import save_png

COLUMNS = 8
# Inches: an image with its words, and the heading of a part.
CELL = (1.15, 1.5)
HEADING = 0.3
RIGHT, WRONG = "#1b6ca8", "#bd1f01"


def save_predictions(
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    predictions: np.ndarray[Any, Any],
    confidences: np.ndarray[Any, Any],
    *,
    classes: Sequence[str],
    drawn: int,
    path: Path,
) -> None:
    """Draw a grid of images, each with its prediction and confidence; wrong ones have a cross and their class.

    Args:
        images: uint8 (M, H, W, 3).
        labels, predictions: int64 (M,), places in `classes`.
        confidences: (M,), probabilities.
        classes: Names.
        drawn: The first so many images were drawn at random; the others, below a line, are sure and wrong.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    parts = [("drawn at random", range(drawn)), ("wrong, the surest first", range(drawn, len(images)))]
    shown = [(title, places, math.ceil(len(places) / COLUMNS)) for title, places in parts if len(places)]
    heights = [HEADING + CELL[1] * rows for _, _, rows in shown]
    figure = Figure(figsize=(CELL[0] * COLUMNS, sum(heights)), layout="constrained")
    for panel, (title, places, rows) in zip(
        figure.subfigures(len(shown), height_ratios=heights, squeeze=False).flat, shown, strict=True
    ):
        panel.suptitle(title, fontsize=9, x=0.01, ha="left")
        axes = list(panel.subplots(rows, COLUMNS, squeeze=False).flat)
        for axis in axes:
            axis.set_axis_off()
        for axis, place in zip(axes, places, strict=False):
            draw_prediction(
                axis, images[place], classes, int(labels[place]), int(predictions[place]), confidences[place]
            )
    save_png(figure, path)


def draw_prediction(
    axis: Any, image: np.ndarray[Any, Any], classes: Sequence[str], label: int, guess: int, sure: float
) -> None:
    """One image with its prediction and confidence; a wrong one has a cross and its class."""
    wrong = label != guess
    axis.imshow(image, interpolation="nearest")
    head = f"{'✗' if wrong else '✓'} {_short(classes[guess])} ({100 * sure:.0f} %)"
    below = f"is {_short(classes[label])}" if wrong else ""
    axis.set_title(f"{head}\n{below}", fontsize=7, pad=2, color=WRONG if wrong else RIGHT)


def _short(name: str, most: int = 13) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"

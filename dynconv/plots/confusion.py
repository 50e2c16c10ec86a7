"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.plots.palette import save_png

# Above so many classes no number fits into a cell, and above the other no name beside a row.
MOST_NUMBERS = 16
MOST_NAMES = 70


def save_confusion(
    counts: np.ndarray[Any, Any], classes: Sequence[str], path: Path, *, title: str = "Confusion, target test"
) -> None:
    """Draw a confusion matrix: of the images of each class (row) the per cent that get each prediction (column).

    Args:
        counts: int64 (C, C), classes by predictions. A class without images has an empty row.
        classes: C names.
        path: PNG to write.
        title: Above the figure.
    """
    from matplotlib.figure import Figure

    side = side_of(len(classes))
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    draw_confusion(figure, counts, classes, title=title)
    save_png(figure, path)


def side_of(num_classes: int) -> float:
    """Inches that a matrix of so many classes takes."""
    return min(9.0, max(4.2, 0.36 * num_classes if num_classes <= MOST_NUMBERS else 0.15 * num_classes))


def draw_confusion(figure: Any, counts: np.ndarray[Any, Any], classes: Sequence[str], *, title: str) -> None:
    """`save_confusion` into a figure of matplotlib's, or a part of one."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_invalid(np.divide(100 * counts, totals, where=totals > 0, out=np.full(counts.shape, np.nan)))
    number = len(classes)
    axis = figure.subplots()
    # Dark is much, on white as in print; cividis reads the same to everyone but has no white for "never".
    image = axis.imshow(shares, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("prediction", fontsize=9)
    axis.set_ylabel("class", fontsize=9)
    bar = figure.colorbar(image, ax=axis, pad=0.02, shrink=0.8)
    bar.set_label("% of the class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if number <= MOST_NAMES:
        size = 8 if number <= MOST_NUMBERS else 6
        longest = max(map(len, classes))
        axis.set_xticks(range(number), classes, fontsize=size, rotation=90 if longest > 2 else 0)
        axis.set_yticks(range(number), classes, fontsize=size)
    if number <= MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                colour = "white" if share > 55 else "black"
                axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)

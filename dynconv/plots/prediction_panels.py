"""What a classifier takes images for, without and with its calibrator (Calibrator, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.plots.confusion import draw_confusion, side_of
from dynconv.plots.predictions import draw_prediction
from dynconv.plots.samples import write_figure

Array = np.ndarray[Any, Any]

DPI = 130
# Inches: the strip of images below a confusion matrix, and the words above it.
STRIP, HEAD = 1.15, 0.5


@dataclass(frozen=True)
class PredictionPanel:
    """One network on the images of one side."""

    title: str
    counts: Array
    """int64 (C, C): images by class (row) and prediction (column)."""
    images: Array
    """(M, H, W, 3), float in [0, 1]: examples, as the classifier was given them."""
    labels: Array
    """int64 (M,)."""
    predictions: Array
    """int64 (M,)."""
    confidences: Array
    """float (M,): the highest probability."""


def save_prediction_panels(
    panels: Sequence[Sequence[PredictionPanel]], classes: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw a confusion matrix for each panel, in per cent of the class, and examples below it; wrong ones have a cross.

    Args:
        panels: Rows of panels.
        classes: C names.
        path: Image file to write; its suffix chooses the format.
        title: Above the figure.

    Raises:
        ValueError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    side = side_of(len(classes))
    size = ((side + 1.4) * len(panels[0]), (side + STRIP + HEAD) * len(panels) + 0.3)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    cells = figure.subfigures(len(panels), len(panels[0]), squeeze=False)
    for panel, cell in zip((one for row in panels for one in row), cells.flat, strict=True):
        above, below = cell.subfigures(2, 1, height_ratios=[side, STRIP])
        draw_confusion(above, panel.counts, classes, title=panel.title)
        axes = below.subplots(1, len(panel.images), squeeze=False)
        for axis, *example in zip(
            axes.flat, panel.images, panel.labels, panel.predictions, panel.confidences, strict=True
        ):
            axis.set_axis_off()
            image, label, prediction, confidence = example
            draw_prediction(axis, image, classes, int(label), int(prediction), float(confidence))
    write_figure(figure, path)

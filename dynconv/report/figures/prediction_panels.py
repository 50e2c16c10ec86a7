"""Predictions on source and target, of a classifier alone and behind its calibrator (Calibrator, Fig. 3)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynconv.plots.prediction_panels import PredictionPanel, save_prediction_panels
from dynconv.report.figures.calibrated import CalibratedRun, Part
from dynconv.report.figures.training import write_beside

if TYPE_CHECKING:
    from dynconv.models import DomainName

SIDES: tuple[DomainName, ...] = ("source", "target")
WAYS = ("classifier alone", "with calibrator")
# Of the images drawn below a panel.
SEED = 0


@dataclass(frozen=True)
class Predictions:
    """What one network makes of the N images of one side, in their order; all on the CPU."""

    labels: Tensor
    """int64 (N,)."""
    predictions: Tensor
    """int64 (N,)."""
    confidences: Tensor
    """float32 (N,): the highest probability."""
    samples: Tensor
    """float32 (M, 3, H, W): some of the images, as the classifier was given them."""

    @property
    def accuracy(self) -> float:
        """Share of images whose prediction is right."""
        return (self.predictions == self.labels).double().mean().item()

    def confusion(self, num_classes: int) -> Tensor:
        """int64 (C, C): images by class (row) and prediction (column)."""
        places = num_classes * self.labels + self.predictions
        return places.bincount(minlength=num_classes**2).view(num_classes, num_classes)


@torch.no_grad()
def predict_both_ways(run: CalibratedRun, parts: list[Part], drawn: Tensor) -> tuple[Predictions, Predictions]:
    """Predictions of the classifier alone, and behind the calibrator.

    Args:
        run: The run.
        parts: The domains of one side.
        drawn: int64 (M,), places in their union: the images to keep, in the order of the union.
    """
    wanted = torch.zeros(sum(len(part.split) for part in parts), dtype=torch.bool)
    wanted[drawn] = True
    ways: tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]] = ([], [])
    count = 0
    for part in parts:
        for images, labels in run.batches(part):
            own = wanted[count : count + len(images)]
            count += len(images)
            for found, batch in zip(ways, (images, run.calibrate(images)), strict=True):
                confidences, predictions = run.classify(batch, part.side).softmax(dim=1).max(dim=1)
                found.append((labels.cpu(), predictions.cpu(), confidences.cpu(), batch.cpu()[own]))
    alone, calibrated = (Predictions(*map(torch.cat, zip(*found, strict=True))) for found in ways)
    return alone, calibrated


def save_prediction_figure(run: CalibratedRun, out: Path, *, images: int | None, samples: int) -> list[Path]:
    """Draw what the classifier takes source and target images for, alone and behind the calibrator; write the counts.

    Several sources are one panel.

    Args:
        run: The run.
        out: Image file to write; the numbers are beside it, with the suffix .json.
        images: Test images of each domain, at most; None for all.
        samples: How many of each side are drawn below its panels, at random.

    Returns:
        Both files.

    Raises:
        ValueError: As `CalibratedRun.parts`; a file that cannot be written.
    """
    parts = run.parts(images)
    classes = run.loaded.classes
    letters = iter("abcd")
    panels: list[list[PredictionPanel]] = [[], []]
    numbers: dict[str, Any] = {}
    for side in SIDES:
        own = [part for part in parts if part.side == side]
        name = own[0].name if len(own) == 1 else f"{len(own)} domains"
        total = sum(len(part.split) for part in own)
        drawn = torch.randperm(total, generator=torch.Generator().manual_seed(SEED))[:samples]
        found = predict_both_ways(run, own, drawn)
        drawn = drawn.sort().values
        for row, way, made in zip(panels, WAYS, found, strict=True):
            row.append(
                PredictionPanel(
                    f"{way} on {name} ({side})\n{100 * made.accuracy:.2f} % of {total:,} right",
                    made.confusion(len(classes)).numpy(),
                    made.samples.permute(0, 2, 3, 1).numpy(),
                    *(values[drawn].numpy() for values in (made.labels, made.predictions, made.confidences)),
                )
            )
        right = [made.predictions == made.labels for made in found]
        numbers[side] = {
            "domains": [part.name for part in own],
            "images": total,
            "put_right": int((~right[0] & right[1]).sum()),
            "put_wrong": int((right[0] & ~right[1]).sum()),
            **{
                way: {"accuracy": made.accuracy, "confusion": made.confusion(len(classes)).tolist()}
                for way, made in zip(WAYS, found, strict=True)
            },
        }
    # As in the paper, row by row.
    panels = [[replace(one, title=f"({next(letters)}) {one.title}") for one in row] for row in panels]
    save_prediction_panels(panels, classes, out, title=run.title())
    facts = {**run.described(), "classes": list(classes), "rows": "classes", "columns": "predictions", **numbers}
    return [out, write_beside(out, json.dumps(facts, indent=2, ensure_ascii=False) + "\n", ".json")]

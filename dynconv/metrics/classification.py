"""Measures against labels."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from torch import Tensor


class Classification(NamedTuple):
    """How often a classifier is right."""

    accuracy: float
    """Share of samples whose highest score is at their label."""
    of_classes: tuple[float | None, ...]
    """The same among the samples of each class; None for a class without samples."""

    @property
    def class_mean(self) -> float:
        """Mean of `of_classes` over the classes that have samples: the measure of VisDA-2017."""
        return fmean(value for value in self.of_classes if value is not None)


def classification(batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> Classification:
    """Accuracy over all samples, and within each class.

    Args:
        batches: Pairs of scores (B, num_classes) and labels int64 (B,), on one device.
        num_classes: Number of classes.

    Raises:
        ValueError: There is no sample, or a score is not finite (the highest of such scores means nothing).
    """
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric: MulticlassConfusionMatrix | None = None
    for scores, labels in batches:
        if metric is None:
            metric = MulticlassConfusionMatrix(num_classes=num_classes).to(scores.device)
        if not scores.isfinite().all():
            raise ValueError(f"scores: {int((~scores.isfinite()).sum())} of {scores.numel()} are not finite")
        metric.update(scores, labels)
    confusion: list[list[int]] = [] if metric is None else metric.compute().tolist()
    counts = [sum(row) for row in confusion]
    if sum(counts) == 0:
        raise ValueError("batches: accuracy of no sample is undefined, expected at least one batch")
    right = [row[label] for label, row in enumerate(confusion)]
    of_classes = tuple(r / n if n else None for r, n in zip(right, counts, strict=True))
    return Classification(sum(right) / sum(counts), of_classes)

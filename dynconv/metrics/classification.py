"""Measures against labels."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from dynconv.distributed import all_sum
from dynconv.metrics.errors import NonFiniteError


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


def classification(
    batches: Iterable[tuple[Tensor, Tensor]], num_classes: int, *, device: torch.device | str = "cpu"
) -> Classification:
    """Accuracy over all samples, and within each class.

    Args:
        batches: Pairs of scores (B, num_classes) and labels int64 (B,), 0 to num_classes - 1, on one device. Of several
            processes, each gives those of its own share (there may be none), and all get the figures of all.
        num_classes: Number of classes.
        device: That of the batches.

    Raises:
        ValueError: There is no sample, or one without a label (a negative one).
        NonFiniteError: A score is not finite (the highest of such scores means nothing).
    """
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(num_classes=num_classes).to(device)
    broken, seen, unlabelled = 0, 0, 0
    for scores, labels in batches:
        broken, seen = broken + int((~scores.isfinite()).sum()), seen + scores.numel()
        unlabelled += int((labels < 0).sum())
        if not broken and not unlabelled and len(labels):
            metric.update(scores, labels)
    # Together, for a process that stopped by itself would be waited for in vain.
    counts = all_sum(torch.tensor([broken, seen, unlabelled], device=device)).tolist()
    if counts[0]:
        raise NonFiniteError(f"scores: {counts[0]} of {counts[1]} are not finite")
    if counts[2]:
        raise ValueError(f"labels: {counts[2]} images have none, so that their accuracy is undefined")
    if counts[1] == 0:
        raise ValueError("batches: accuracy of no sample is undefined, expected at least one batch")
    confusion: list[list[int]] = all_sum(metric.confmat).tolist()
    sizes = [sum(row) for row in confusion]
    right = [row[label] for label, row in enumerate(confusion)]
    of_classes = tuple(r / n if n else None for r, n in zip(right, sizes, strict=True))
    return Classification(sum(right) / sum(sizes), of_classes)

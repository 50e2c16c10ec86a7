"""Measures against labels."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def accuracy(batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> float:
    """Share of samples whose highest score is at their label.

    Args:
        batches: Pairs of scores (B, num_classes) and labels int64 (B,), on one device.
        num_classes: Number of classes.

    Raises:
        ValueError: There is no sample, or a score is not finite (the highest of such scores means nothing).
    """
    from torchmetrics.classification import MulticlassAccuracy

    metric: MulticlassAccuracy | None = None
    for scores, labels in batches:
        if metric is None:
            metric = MulticlassAccuracy(num_classes=num_classes, average="micro").to(scores.device)
        if not scores.isfinite().all():
            raise ValueError(f"scores: {int((~scores.isfinite()).sum())} of {scores.numel()} are not finite")
        metric.update(scores, labels)
    if metric is None:
        raise ValueError("batches: accuracy of no sample is undefined, expected at least one batch")
    return float(metric.compute())

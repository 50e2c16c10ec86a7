"""Measures that need no label, so that a model can be chosen by the target's images alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Prediction(NamedTuple):
    """How a classifier predicts on a set of unlabelled images (nats)."""

    entropy: float
    """Mean entropy of the predictions: low where the classifier is sure."""
    information_maximisation: float
    """Entropy of the mean prediction minus `entropy`: high where it is sure of each and uses all classes. Unlike the
    entropy alone it does not reward the prediction of one class everywhere (Shi and Sha, ICML 2012)."""


def prediction_statistics(batches: Iterable[Tensor]) -> Prediction:
    """Statistics of scores (B, num_classes), batch by batch; computed in float64.

    Raises:
        ValueError: There is no sample, or a score is not finite.
    """
    count = 0
    entropy = 0.0
    total: Tensor | None = None
    for scores in batches:
        if not scores.isfinite().all():
            raise ValueError(f"scores: {int((~scores.isfinite()).sum())} of {scores.numel()} are not finite")
        logs = scores.double().log_softmax(dim=1)
        probabilities = logs.exp()
        entropy -= float((probabilities * logs).sum())
        total = probabilities.sum(dim=0) if total is None else total + probabilities.sum(dim=0)
        count += len(scores)
    if total is None or count == 0:
        raise ValueError("batches: the entropy of no prediction is undefined, expected at least one sample")
    mean = total / count
    of_mean = float(-torch.special.xlogy(mean, mean).sum())
    return Prediction(entropy / count, of_mean - entropy / count)

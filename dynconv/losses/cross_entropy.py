"""Cross entropy with the label smoothing of the released code of DRT, of images and of label maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dynconv.distributed import all_sum, world_size
from dynconv.losses.precision import widened

IGNORE = 255
"""The label of a pixel without a class. In label maps alone: 255 is a class among the 345 of DomainNet."""


def cross_entropy(scores: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy against 1 - smoothing on the label and smoothing / (C - 1) on each other class.

    DRT eq. 7 at smoothing 0. `torch.nn.functional.cross_entropy` also spreads smoothing on the label itself,
    so its argument is smoothing * C / (C - 1).

    Of label maps the mean is over the pixels that have a class: over several processes over those of all of them, who
    have unequally many (the micro-batches of a step count alike). Where no pixel has one, it is 0 and so are its
    gradients.

    Args:
        scores: (B, C) or (B, C, H, W), C >= 2.
        labels: (B,) or (B, H, W), int64; in maps `IGNORE` where there is none.
        smoothing: From 0 to (C - 1) / C, which is the uniform distribution.

    Returns:
        A scalar in float32, or float64 for float64 scores.

    Raises:
        ValueError: For a smoothing outside its range, or scores of label maps that are of another size than these.
    """
    classes = scores.shape[1]
    spread = smoothing * classes / (classes - 1) if smoothing else 0.0
    if not 0 <= spread <= 1:
        limit = (classes - 1) / classes
        raise ValueError(f"smoothing: expected 0 to (C - 1) / C = {limit:.3g} for {classes} classes, got {smoothing}")
    scores = widened(scores)
    if scores.dim() == 2:
        return F.cross_entropy(scores, labels, label_smoothing=spread)
    if scores.dim() != 4 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise ValueError(
            f"scores, labels: expected (B, C, H, W) and (B, H, W), got {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    # Summed afterwards: on CUDA the sum over maps within `F.cross_entropy` has no fixed order.
    losses = F.cross_entropy(scores, labels, ignore_index=IGNORE, label_smoothing=spread, reduction="none")
    # The mean of the processes' gradients is to be that of all labelled pixels, so each divides by their mean number.
    labelled = all_sum((labels != IGNORE).sum()).clamp(min=1)
    return losses.sum() * world_size() / labelled

"""Cross entropy with the label smoothing of the released code of DRT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(scores: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy against 1 - smoothing on the label and smoothing / (C - 1) on each other class.

    DRT eq. 7 at smoothing 0. `torch.nn.functional.cross_entropy` also spreads smoothing on the label itself,
    so its argument is smoothing * C / (C - 1).

    Args:
        scores: (B, C), C >= 2.
        labels: (B,), int64.
        smoothing: From 0 to (C - 1) / C, which is the uniform distribution.

    Returns:
        A scalar in float32, or float64 for float64 scores.

    Raises:
        ValueError: For a smoothing outside its range.
    """
    classes = scores.shape[1]
    spread = smoothing * classes / (classes - 1) if smoothing else 0.0
    if not 0 <= spread <= 1:
        limit = (classes - 1) / classes
        raise ValueError(f"smoothing: expected 0 to (C - 1) / C = {limit:.3g} for {classes} classes, got {smoothing}")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return F.cross_entropy(scores, labels, label_smoothing=spread)

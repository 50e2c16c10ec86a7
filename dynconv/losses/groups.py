"""The Calibrator's game of groups (Ye et al., CVPR 2020, eq. 5 to 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.losses.precision import widened


def group_loss(logits: Sequence[Tensor], groups: Sequence[int]) -> Tensor:
    """-sum_i E log softmax(logits_i)[groups_i]: the loss of the discriminators (eq. 5 and 6) and, with group 0 for all,
    that of the calibrator (eq. 7).

    Args:
        logits: Of each kind of images, (B_i, G).
        groups: Which group each kind is to be taken for.

    Returns:
        A scalar in float32, or float64 for float64 logits.
    """
    return torch.stack([_cross_entropy(own, group) for own, group in zip(logits, groups, strict=True)]).sum()


def group_accuracy(logits: Sequence[Tensor], groups: Sequence[int]) -> Tensor:
    """Share of images whose group is told, each kind counting alike: a scalar."""
    right = [(own.argmax(dim=1) == group).float().mean() for own, group in zip(logits, groups, strict=True)]
    return torch.stack(right).mean()


def _cross_entropy(logits: Tensor, group: int) -> Tensor:
    return F.cross_entropy(widened(logits), torch.full((len(logits),), group, device=logits.device))

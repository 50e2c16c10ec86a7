"""Losses of domain discriminators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.losses.precision import widened


def domain_losses(logits: Tensor, domains: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum_i weights[i, m] * H(sigmoid(logits[i, m]), domains[i]) for each discriminator m (GSDA eq. 6, 7 and 8).

    Args:
        logits: (N, M), one column per discriminator.
        domains: (N,), 1 for a source sample and 0 for a target sample.
        weights: (N, M), how much a sample counts for a discriminator; None for 1.

    Returns:
        (M,) in float32, or float64 for float64 logits: sums, which the caller may divide by N.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check(logits, domains, weights)
    logits = widened(logits)
    losses = F.softplus((1 - 2 * domains.to(logits.dtype))[:, None] * logits)
    return (losses if weights is None else weights * losses).sum(dim=0)


def domain_accuracies(logits: Tensor, domains: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted share of samples whose domain each discriminator tells.

    Args:
        logits: (N, M), one column per discriminator.
        domains: (N,), 1 for a source sample and 0 for a target sample.
        weights: (N, M), how much a sample counts for a discriminator; None for 1.

    Returns:
        (M,) in float32, from 0 to 1; 0.5 for a discriminator that no sample counts for.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check(logits, domains, weights)
    right = ((logits > 0) == (domains > 0)[:, None]).to(torch.float32)
    weights = torch.ones_like(right) if weights is None else weights.to(torch.float32)
    total = weights.sum(dim=0)
    share = (weights * right).sum(dim=0) / total.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(total > 0, share, 0.5)


def _check(logits: Tensor, domains: Tensor, weights: Tensor | None) -> None:
    if logits.dim() != 2 or domains.shape != logits.shape[:1]:
        raise ValueError(
            f"logits, domains: expected (N, M) and (N,), got {tuple(logits.shape)} and {tuple(domains.shape)}"
        )
    if weights is not None and weights.shape != logits.shape:
        raise ValueError(f"weights: expected {tuple(logits.shape)} as logits, got {tuple(weights.shape)}")

"""How far the norms of features are from where adaptive feature norm wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.distributed import all_mean
from dynconv.losses.precision import wide


def hard_norm_loss(features: Tensor, radius: float) -> Tensor:
    """(mean_b ||f_b|| - radius)^2: the mean norm of one domain against one number (HAFN, Xu et al., ICCV 2019,
    objective C1).

    Args:
        features: (B, F), B >= 1; over several processes, the mean is over the batches of all of them.
        radius: What the mean norm is to be.

    Returns:
        A scalar in float32, or float64 for float64 features.

    Raises:
        ValueError: Where the features are no matrix or have no row.
    """
    return (all_mean(_norms(features).mean()) - radius).square()


def stepwise_norm_loss(features: Tensor, step_size: float) -> Tensor:
    """mean_b (||f_b||' + step_size - ||f_b||)^2, where ||f_b||' is a constant: every norm is to grow (SAFN, Xu et al.,
    ICCV 2019, objective C2).

    The paper takes ||f_b||' from the parameters before the update, as the released code does by detaching the norm. So
    the value is step_size^2 at all times and says nothing; what trains is the gradient, -2 step_size / B times that of
    the sum of norms. A feature of norm 0 gets the subgradient 0.

    Args:
        features: (B, F), B >= 1.
        step_size: By how much a norm is to grow.

    Returns:
        A scalar in float32, or float64 for float64 features.

    Raises:
        ValueError: Where the features are no matrix or have no row.
    """
    norms = _norms(features)
    return (norms.detach() + step_size - norms).square().mean()


def mean_norm(features: Tensor) -> Tensor:
    """mean_b ||f_b||, for logs.

    Args:
        features: (B, F), B >= 1.

    Returns:
        A scalar without gradient, in float32, or float64 for float64 features.

    Raises:
        ValueError: Where the features are no matrix or have no row.
    """
    return _norms(features.detach()).mean()


def _norms(features: Tensor) -> Tensor:
    if features.dim() != 2 or len(features) == 0:
        raise ValueError(f"features: expected (B, F) with at least one row, got {tuple(features.shape)}")
    # In half precision a sum of 1000 squares loses its last bits, and above 65504 it overflows.
    return torch.linalg.vector_norm(features, dim=1, dtype=wide(features.dtype))

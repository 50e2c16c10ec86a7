"""Batch spectral penalisation: the largest singular values of a batch of features."""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.distributed import all_sum, world_size
from dynconv.losses.precision import widened, without_autocast


def spectral_penalty(features: Tensor, count: int = 1) -> Tensor:
    """sum_{i <= count} sigma_i^2 of the largest singular values sigma_i of features (BSP, Chen et al., ICML 2019).

    It is ||F V||^2 with the right singular vectors V of the `count` largest values. Held constant, they give the exact
    gradient 2 sum_i sigma_i u_i v_i^T: the sum of the largest squares is the maximum of ||F V||^2 over all V with
    orthonormal columns, so its derivative through V is zero. Automatic differentiation of an SVD divides by the
    differences of singular values instead, and gives NaN where two are equal; here such a tie gives one subgradient.

    Args:
        features: (B, F) of one domain; over several processes, the matrix is that of all rows of all of them.
        count: k, at least 1; beyond the number of singular values it takes them all.

    Returns:
        A scalar in float32, or float64 for float64 features: 0 without a row, not finite where the features are not.

    Raises:
        ValueError: Where the features are no matrix, or for a count below 1.
    """
    if features.dim() != 2:
        raise ValueError(f"features: expected (B, F), got {tuple(features.shape)}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    # Autocast would multiply in bfloat16, whose 8 bits are too few for a decomposition.
    with without_autocast(features):
        features = widened(features)
        return all_sum((features @ _leading_directions(features.detach(), count)).square().sum())


def _leading_directions(features: Tensor, count: int) -> Tensor:
    """The right singular vectors (F, <= count) of the largest singular values of every process's features together."""
    # A loss that is not finite is the caller's to see and to name; a decomposition of NaN only says that it failed.
    features = features.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    if world_size() == 1:
        return torch.linalg.svd(features, full_matrices=False).Vh[:count].t()
    # F^T F of all rows is the sum of each process's, and its eigenvectors are the right singular vectors; eigh gives
    # the largest eigenvalue last.
    return torch.linalg.eigh(all_sum(features.t() @ features)).eigenvectors[:, -count:]

"""The seeded draws that make subsets and hold-outs of labelled images."""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.data.errors import DataError

# The share of a training split that is held out, of each class.
HOLD_OUT = 0.2


def _ranked_within_class(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """For each image, its place in a seeded shuffle of its class, and the size of that class (both float64 (N,))."""
    generator = torch.Generator().manual_seed(seed)
    shuffle = torch.randperm(labels.shape[0], generator=generator)
    by_class = shuffle[torch.argsort(labels[shuffle], stable=True)]
    counts = torch.bincount(labels)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.empty(labels.shape[0], dtype=torch.float64)
    rank[by_class] = (torch.arange(labels.shape[0]) - starts).to(torch.float64)
    return rank, counts[labels].to(torch.float64)


def stratified_hold_out(labels: Tensor, seed: int, fraction: float = HOLD_OUT) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of indices that together cover `labels` (N,): kept, and held out (`fraction` of each class).

    A class of two or more images has at least one on each side; a single image is kept.
    """
    rank, size = _ranked_within_class(labels, seed)
    held = torch.where(size > 1, torch.minimum((size * fraction).round().clamp(min=1), size - 1), 0.0)
    mask = rank < held
    return torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()


def stratified_draw(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices, ascending, of `count` images in which every class keeps its share and none is lost.

    Raises:
        DataError: `count` is below the number of classes present.
    """
    present = int(torch.unique(labels).numel())
    if count < present:
        raise DataError(f"a limit of {count} images cannot hold the {present} classes present: give at least {present}")
    rank, size = _ranked_within_class(labels, seed)
    # The first of each class goes in whatever its share; then the classes advance at the same relative pace.
    key = torch.where(rank == 0, 0.0, (rank + 0.5) / size)
    return torch.argsort(key, stable=True)[:count].sort().values


def uniform_draw(total: int, count: int, seed: int) -> Tensor:
    """Indices, ascending, of `count` of `total` images, drawn without a look at any label."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values

"""Label maps' features and scores as what linear layers take: one row per place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Of these a discriminator's activations are in memory together: with layers of 512 and 256 features 4 kB a row, 0.3 GB.
# Score maps of 24 images of 768 x 768 have 14 million rows, which would take 60 GB at once.
ROWS_AT_ONCE = 2**16


def as_rows(tensor: Tensor) -> Tensor:
    """Maps (B, C, h, w) to rows (B * h * w, C), of one image after another; a matrix (B, C) as it is.

    A linear layer on the rows is a 1x1 convolution on the maps. Of maps in channels_last the rows are a view.

    Raises:
        ValueError: For a tensor of another number of dimensions.
    """
    if tensor.dim() == 2:
        return tensor
    if tensor.dim() != 4:
        raise ValueError(f"tensor: expected a matrix (B, C) or maps (B, C, h, w), got {tuple(tensor.shape)}")
    return tensor.permute(0, 2, 3, 1).flatten(0, 2)


def by_pieces(network: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`network`'s outputs (N, G) of rows (N, C), in memory for the activations of `ROWS_AT_ONCE` of them.

    Of more rows one piece follows another, and the backward pass computes each of them again, with the same draws of
    dropout. Outputs and gradients are those of all rows at once.

    Args:
        network: Gives each row's output by that row alone, as linear layers do and batch normalisation does not.
        rows: Of as many places as there are.
    """
    if len(rows) <= ROWS_AT_ONCE:
        return network(rows)
    pieces = rows.split(ROWS_AT_ONCE)
    if not torch.is_grad_enabled():
        return torch.cat([network(piece) for piece in pieces])
    return torch.cat([checkpoint(network, piece, use_reentrant=False) for piece in pieces])

"""Label maps' features and scores as what linear layers take: one row per place."""

from __future__ import annotations

from torch import Tensor


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

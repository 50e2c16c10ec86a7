"""From bytes to what a network is fed."""

from __future__ import annotations

import functools
from typing import Literal, get_args

import torch
from torch import Tensor

Normalisation = Literal["half", "imagenet", "unit"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def normalise(
    images: Tensor, device: torch.device | str | None = None, normalisation: Normalisation = "half"
) -> Tensor:
    """uint8 (B, C, H, W) to float32 of the same shape, channels_last, on `device` (default: where they are).

    Args:
        images: Values from 0 to 255.
        device: Where to put them.
        normalisation: "half": to [-1, 1]. "imagenet": from [0, 1], less the mean and divided by the deviation of each
            channel over ImageNet, as torchvision's pretrained networks want it. "unit": to [0, 1], as released ERFNet
            wants it.

    Raises:
        ValueError: an unknown normalisation, or "imagenet" for images without three channels.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation: expected one of {', '.join(NORMALISATIONS)}, got {normalisation!r}")
    images = images.to(device=device, non_blocking=True)
    values = images.to(dtype=torch.float32, memory_format=torch.channels_last)
    if normalisation == "half":
        return values.div_(127.5).sub_(1.0)
    if normalisation == "unit":
        return values.div_(255.0)
    if images.shape[1] != 3:
        raise ValueError(f"normalisation: 'imagenet' is for three channels, got images {tuple(images.shape)}")
    factor, offset = _imagenet(images.device)
    return values.mul_(factor).sub_(offset)


def black_and_span(normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """What `normalise` makes of 0, and of 255 less that: float32 (1, 3, 1, 1) each. Pixels in [0, 1], times the second
    and plus the first, are normalised."""
    black, white = (
        normalise(torch.full((1, 3, 1, 1), value, dtype=torch.uint8), normalisation=normalisation) for value in (0, 255)
    )
    return black, white - black


@functools.lru_cache
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Factors and offsets (1, 3, 1, 1) on `device`: made once, for each copy to a GPU waits for it."""
    mean, deviation = (torch.tensor(row).view(1, 3, 1, 1) for row in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (1 / (255 * deviation)).to(device), (mean / deviation).to(device)

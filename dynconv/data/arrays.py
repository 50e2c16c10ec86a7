"""Arrays of decoded images to a `Split` of the size and channels asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dynconv.data.base import Split

_CHUNK = 4096
_LUMA = (0.2989, 0.5870, 0.1140)


def to_split(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], *, image_size: int, channels: int) -> Split:
    """uint8 (N, H, W) grey or (N, H, W, 3) colour and integer labels (N,) to a `Split` of square images.

    Resizing is bilinear with antialiasing, rounded back to uint8. Grey becomes three equal channels; colour becomes
    one by its luma (ITU-R BT.601).
    """
    planes = torch.from_numpy(images)
    planes = planes[:, None] if planes.ndim == 3 else planes.permute(0, 3, 1, 2)
    collapse = channels == 1 and planes.shape[1] == 3
    if collapse or tuple(planes.shape[2:]) != (image_size, image_size):
        # In chunks: the float copy of all of MNIST would be 245 MB.
        planes = torch.cat([_resample(chunk, image_size, collapse) for chunk in torch.split(planes, _CHUNK)])
    else:
        planes = planes.contiguous()
    if channels == 3 and planes.shape[1] == 1:
        planes = planes.expand(-1, 3, -1, -1)
    return Split(planes, torch.from_numpy(labels.astype(np.int64)))


def _resample(chunk: torch.Tensor, image_size: int, collapse: bool) -> torch.Tensor:
    values = chunk.to(torch.float32)
    if collapse:
        values = (values * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    if tuple(values.shape[2:]) != (image_size, image_size):
        values = F.interpolate(values, size=(image_size, image_size), mode="bilinear", antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8)

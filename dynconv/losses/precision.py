"""Sums too long, or of numbers too near one another, for half precision: losses are taken in float32 at least."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, and else `dtype`: what losses of such values are computed in."""
    return torch.promote_types(dtype, torch.float32)


def widened(values: Tensor) -> Tensor:
    """`values` in float32 at least."""
    return values.to(wide(values.dtype))


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Within the context, operations on the device of `tensor` keep the dtype they are given."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()

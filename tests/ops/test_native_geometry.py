"""The native ``dynamic_conv2d`` with a geometry beyond 64-bit offsets, past the checks of `dynconv.functional`."""

from __future__ import annotations

import pytest
import torch

import dynconv.functional  # noqa: F401  defines the operators and loads the native ones
from dynconv import backends

MOST = 2**63 - 1


# In the second and third case y has the size that the products, wrapped at 64 bits, come to.
@pytest.mark.parametrize(
    ("height", "stride", "padding", "dilation"),
    [(1, MOST, 1, 1), (4, 1, MOST, 1), (10, 1, 0, MOST), (6, 1, -1, 1), (6, 0, 0, 1), (6, 1, 0, 0)],
    ids=["stride", "padding", "dilation", "negative padding", "no stride", "no dilation"],
)
def test_a_geometry_out_of_range_is_refused(height: int, stride: int, padding: int, dilation: int) -> None:
    if reason := backends.native_missing("cpu"):
        pytest.skip(f"no native operators for the CPU: {reason}")
    x, weight, y = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3), torch.empty(1, 4, height, 6)
    geometry = ([stride, 1], [padding, 0], [dilation, 1], 1)
    with pytest.raises(RuntimeError, match="stride, padding or dilation is out of range"):
        torch.ops.dynconv.dynamic_conv2d_native_forward(y, x, weight, None, None, None, None, *geometry)

"""Problems for the native ``coefficients``, and both ways to compute them."""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv import reference

KINDS = {"sigmoid": 0, "hard": 1}
# float32 sums of at most a few thousand terms of order one, whatever the input's dtype.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}


def make(
    shape: tuple[int, int, int, int],
    device: str,
    dtype: torch.dtype = torch.float64,
    *,
    outputs: int = 9,
    hidden: int = 5,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape) + outputs)
    shapes = (shape, (hidden, shape[1]), (outputs, hidden))
    x, w1, w2 = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    # A mean over pixels would leave nothing of centred noise for the branch to see.
    x = x + torch.randn(*shape[:2], 1, 1, generator=generator, dtype=torch.float64)
    return x.to(device, dtype), w1.to(device, dtype), w2.to(device, dtype)


def native(
    x: Tensor, w1: Tensor, w2: Tensor, num_bases: int, temperature: float = 1.7, scale_activation: str = "sigmoid"
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tau = torch.tensor(temperature, dtype=dtype, device=x.device)
    return torch.ops.dynconv.coefficients_native_forward(x, w1, w2, tau, num_bases, KINDS[scale_activation])[:2]


def oracle(
    x: Tensor, w1: Tensor, w2: Tensor, num_bases: int, temperature: float = 1.7, scale_activation: str = "sigmoid"
) -> tuple[Tensor, Tensor]:
    num_scales = w2.shape[0] - num_bases
    pi, s = reference.coefficients(
        x.double(),
        w1.double(),
        w2.double(),
        num_bases=num_bases,
        num_scales=num_scales,
        temperature=temperature,
        scale_activation=scale_activation,
    )
    empty = x.new_zeros(x.shape[0], 0, dtype=torch.float64)
    return empty if pi is None else pi, empty if s is None else s


def assert_agree(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)

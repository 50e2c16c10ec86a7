"""One tolerance per dtype, for results whose size is about one; for bf16 and fp16 a few units in the last place."""

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def assert_agrees(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None, what: str = "") -> None:
    """``actual`` agrees with the float64 ``expected`` in relative L2 and in its largest entry; both must be finite."""
    dtype = dtype or actual.dtype
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    difference = (actual.double() - expected.double()).norm()
    bound = RELATIVE[dtype] * max(expected.double().norm().item(), 1e-6)
    assert difference <= bound, f"{what}: |difference| = {difference:.3g}, allowed {bound:.3g} for {dtype}"
    largest = (actual.double() - expected.double()).abs().max()
    ceiling = 4 * RELATIVE[dtype] * max(expected.double().abs().max().item(), 1e-6)
    assert largest <= ceiling, f"{what}: max |difference| = {largest:.3g}, allowed {ceiling:.3g} for {dtype}"

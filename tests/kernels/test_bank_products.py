"""The products of discriminator banks alone, where what `feature_gradient_norms` rounds would hide them."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton kernels need triton")

from dynconv.kernels import bank_products  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton kernels need a CUDA device, or TRITON_INTERPRET=1 set before the first import of triton",
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_float16_gradients_of_any_size_neither_vanish_nor_overflow() -> None:
    """Gradients of 1e-7 (p is small) or 1e5 (a gradient scaler) are beyond float16 where they meet h and t."""
    generator = torch.Generator().manual_seed(3)
    gates, hidden, direction = (
        torch.randn(4, 17, size, generator=generator).to(DEVICE, torch.float16) for size in (48, 32, 32)
    )
    size = torch.tensor([1e-7, 1e5, 1.0, 0.0], device=DEVICE)[:, None]
    dz, dg = (size * torch.randn(4, 17, generator=generator).to(DEVICE) for _ in range(2))
    out = torch.empty(4, 48, 32, device=DEVICE)
    bank_products.outer(gates, hidden, direction, dz, dg, out)
    inner = dz.double()[:, :, None] * hidden.double() + dg.double()[:, :, None] * direction.double()
    expected = gates.double().transpose(1, 2) @ inner
    assert ((out - expected).abs().amax(dim=(1, 2)) <= 1e-3 * expected.abs().amax(dim=(1, 2))).all()

"""Writes each sample's kernel W_b = s_b W0 + sum_i pi_bi Phi_i, for the variant whose implicit GEMM then reads it.

One pass at memory speed: a program holds one block of W0 and of the K bases in registers and goes through its samples,
so that they are read once per SAMPLES kernels written.
"""

# Tuples grow in @triton.jit functions, which mypy reads as Python.
# mypy: disable-error-code="assignment"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynconv.kernels.layout import contiguous, dense, static_kernel

BLOCK = 1024
WARPS = 4
# Kernels that a program writes: W0 and four bases, read once, are 5 to these 16 blocks.
SAMPLES = 16
# A thread holds 8 elements of each basis: 16 take 128 registers.
MOST_BASES = 16


@triton.jit(do_not_specialize=["batch", "out_channels", "kernel_h", "kernel_w", "basis_h", "basis_w"])
def materialise_kernel(
    weight, scale, basis, coefficients, out,
    batch, out_channels, in_channels, kernel_h, kernel_w, basis_h, basis_w,
    NUM_BASES: tl.constexpr, SAMPLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    taps = kernel_h * kernel_w
    size = out_channels * taps * in_channels
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = element < size
    output = element // (taps * in_channels)
    if weight is not None:
        static = tl.load(weight + element, mask=valid, other=0.0).to(tl.float32)
    if basis is not None:
        # Where the basis, placed at the kernel's centre, has a tap.
        tap = element // in_channels % taps
        tap_h = tap // kernel_w - (kernel_h - basis_h) // 2
        tap_w = tap % kernel_w - (kernel_w - basis_w) // 2
        in_basis = valid & (tap_h >= 0) & (tap_h < basis_h) & (tap_w >= 0) & (tap_w < basis_w)
        place = ((output * basis_h + tap_h) * basis_w + tap_w) * in_channels + element % in_channels
        basis_stride = out_channels.to(tl.int64) * basis_h * basis_w * in_channels
        phi = ()
        for i in tl.static_range(NUM_BASES):
            phi = phi + (tl.load(basis + i * basis_stride + place, mask=in_basis, other=0.0).to(tl.float32),)
    first = tl.program_id(1).to(tl.int64) * SAMPLES
    for step in range(SAMPLES):
        b = first + step
        in_batch = b < batch
        # Not `valid & in_batch`: Triton 3.9's interpreter makes an int32 of a block and a scalar of one bit.
        in_out = element < tl.where(in_batch, size, 0)
        mixed = tl.zeros((BLOCK,), dtype=tl.float32)
        if weight is not None:
            if scale is None:
                mixed += static
            else:
                s = tl.load(scale + b * out_channels + output, mask=in_out, other=0.0)
                mixed += static * s.to(tl.float32)
        if basis is not None:
            for i in tl.static_range(NUM_BASES):
                mixed += phi[i] * tl.load(coefficients + b * NUM_BASES + i, mask=in_batch, other=0.0).to(tl.float32)
        tl.store(out + b * size + element, mixed.to(out.dtype.element_ty), mask=in_out)


def materialise(
    weight: Tensor | None, scale: Tensor | None, basis: Tensor | None, coefficients: Tensor | None, batch: int
) -> Tensor:
    """W_b as (batch, Cout, kh, kw, Cin/groups), in the kernels' dtype, summed in float32."""
    weight, basis, scale, coefficients = dense(weight), dense(basis), contiguous(scale), contiguous(coefficients)
    static = static_kernel(weight, basis)
    num_bases = 0 if coefficients is None else coefficients.shape[1]
    out_channels = static.shape[0] if weight is not None else static.shape[0] // num_bases
    in_channels, kernel_h, kernel_w = static.shape[1:]
    out = torch.empty((batch, out_channels, kernel_h, kernel_w, in_channels), dtype=static.dtype, device=static.device)
    if out.numel() == 0:
        return out
    basis_size = (kernel_h, kernel_w) if basis is None else tuple(basis.shape[2:])
    grid = (triton.cdiv(out[0].numel(), BLOCK), triton.cdiv(batch, SAMPLES))
    with torch.cuda.device_of(static):
        materialise_kernel[grid](
            weight, scale, basis, coefficients, out,
            batch, out_channels, in_channels, kernel_h, kernel_w, *basis_size,
            NUM_BASES=num_bases, SAMPLES=SAMPLES, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return out

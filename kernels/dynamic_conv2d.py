"""Launchers of `dynamic_conv2d`'s forward and input gradient, in each of the variants of `dynconv.kernels.variants`.

    y_b = s_b * conv(x_b, W0) + sum_i pi_bi conv(x_b, Phi_i) + bias          (DRT eq. 2 to 5)

Each is an implicit GEMM over channels_last tensors that sums in float32; no variant but *materialised* lets a
per-sample weight reach DRAM, none a per-basis output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynconv.kernels import layout
from dynconv.kernels.basis_shared import basis_shared
from dynconv.kernels.implicit_gemm import implicit_gemm
from dynconv.kernels.materialise import materialise
from dynconv.kernels.tiles import REGISTERS, Tile, choose_tile
from dynconv.kernels.variants import FORMS, variant_reasons

Pair = tuple[int, int]


@dataclass(frozen=True)
class _Call:
    """The parts of one launch; ``kernel_size`` is W0's also where W0 is not among them."""

    weight: Tensor | None
    bias: Tensor | None
    scale: Tensor | None
    basis: Tensor | None
    coefficients: Tensor | None
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    gradient: bool
    # Elements from one sample's weight to the next: 0 where all share one.
    weight_stride: int = 0


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    basis: Tensor | None,
    coefficients: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    *,
    variant: str = "linear",
    tile: Tile | None = None,
) -> Tensor:
    """y (B, Cout, Hout, Wout) of `dynamic_conv2d`, in x's dtype, channels_last.

    Arguments are as `dynconv.functional.dynamic_conv2d` checks them; `dynconv.kernels.layout.reasons` tells which the
    kernels do not take, `dynconv.kernels.variants.variant_reasons` which this variant does not (ValueError). ``tile``
    overrides the choice by size.
    """
    _check(variant, weight, basis, scale, coefficients)
    static = layout.static_kernel(weight, basis)
    num_bases = 1 if coefficients is None else coefficients.shape[1]
    out_channels = static.shape[0] if weight is not None else static.shape[0] // num_bases
    pixels = (
        (size + 2 * pad - dil * (kernel - 1) - 1) // step + 1
        for size, pad, dil, kernel, step in zip(x.shape[2:], padding, dilation, static.shape[2:], stride, strict=True)
    )
    out_size = (x.shape[0], out_channels, *pixels)
    if math.prod(out_size) == 0:
        return layout.empty_output(out_size, x)
    kernel_size = (static.shape[2], static.shape[3])
    parts = (weight, bias, scale, basis, coefficients)
    call = _Call(*parts, kernel_size, stride, padding, dilation, groups, gradient=False)
    x = layout.channels_innermost(x)
    if not variant.startswith("vendor"):
        return _run(x, layout.empty_output(out_size, x), call, variant, tile)
    only_static = scale is None and basis is None
    # The vendor's fast path for half types is channels_last in all three.
    static = static.contiguous(memory_format=torch.channels_last)
    y = torch.conv2d(x, static, bias if only_static else None, stride, padding, dilation, groups)
    y = y.contiguous(memory_format=torch.channels_last)
    return y if only_static else _run(x, y, replace(call, weight=None), variant, tile)


def input_gradient(
    dy: Tensor,
    weight: Tensor | None,
    scale: Tensor | None,
    basis: Tensor | None,
    coefficients: Tensor | None,
    input_size: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    *,
    variant: str = "linear",
    tile: Tile | None = None,
) -> Tensor:
    """dx of shape `input_size` (B, Cin, H, W), in the dtype of dy (B, Cout, Hout, Wout), channels_last.

    Variants and tiles as for `forward`.
    """
    _check(variant, weight, basis, scale, coefficients)
    static = layout.static_kernel(weight, basis)
    if math.prod(input_size) == 0 or dy.numel() == 0:
        return layout.empty_output(input_size, dy).zero_()
    kernel_size = (static.shape[2], static.shape[3])
    parts = (weight, None, scale, basis, coefficients)
    call = _Call(*parts, kernel_size, stride, padding, dilation, groups, gradient=True)
    dy = layout.channels_innermost(dy)
    if not variant.startswith("vendor"):
        return _run(dy, layout.empty_output(input_size, dy), call, variant, tile)
    into_static = dy
    if scale is not None:
        into_static = torch.mul(dy, scale[:, :, None, None], out=torch.empty_like(dy))
    # Of the input only shape and layout count here, and the latter decides which one torch computes in: beside an
    # NCHW input, or an expanded one, it would copy dy to NCHW.
    stand_in = layout.empty_output(input_size, dy)
    geometry = (stride, padding, dilation, False, [0, 0], groups)
    dx, _, _ = torch.ops.aten.convolution_backward(
        into_static, stand_in, layout.dense(static), None, *geometry, [True, False, False]
    )
    dx = dx.contiguous(memory_format=torch.channels_last)
    return dx if basis is None else _run(dy, dx, replace(call, weight=None, scale=None), variant, tile)


def _check(
    variant: str, weight: Tensor | None, basis: Tensor | None, scale: Tensor | None, coefficients: Tensor | None
) -> None:
    num_bases = 0 if coefficients is None else coefficients.shape[1]
    found = variant_reasons(variant, layout.size(weight), layout.size(basis), scale is not None, num_bases)
    if found:
        raise ValueError(f"variant {variant!r} cannot run this dynamic_conv2d: " + "; ".join(found) + ".")


def _run(source: Tensor, out: Tensor, call: _Call, variant: str, tile: Tile | None) -> Tensor:
    """One launch (two for *materialised*) into ``out``, to which a vendor variant adds in place."""
    if variant == "materialised":
        kernels = materialise(call.weight, call.scale, call.basis, call.coefficients, source.shape[0])
        call = replace(call, scale=None, basis=None, coefficients=None, weight_stride=kernels[0].numel())
        # (B, Cout, kh, kw, Cin) reads as a stack of dense weights, the first of which the launch sees.
        return _launch(source, out, replace(call, weight=kernels[0].permute(0, 3, 1, 2)), "one sample", tile)
    return _launch(source, out, call, FORMS[variant], tile, accumulate=variant.startswith("vendor"))


def _launch(
    source: Tensor, out: Tensor, call: _Call, form: str, tile: Tile | None, *, accumulate: bool = False
) -> Tensor:
    weight, basis = layout.dense(call.weight), layout.dense(call.basis)
    batch, channels, source_h, source_w = source.shape
    _, out_channels, out_h, out_w = out.shape
    stride, gradient = call.stride, call.gradient
    reduction, columns = channels // call.groups, out_channels // call.groups
    num_bases = 0 if call.coefficients is None else call.coefficients.shape[1]
    phases = stride[0] * stride[1] if gradient else 1
    pixels = triton.cdiv(out_h, stride[0]) * triton.cdiv(out_w, stride[1]) if gradient else out_h * out_w
    tile = tile or choose_tile(
        layout.kind(source, reduction, columns),
        batch * pixels * phases if form == "linear" else pixels,
        columns,
        reduction,
        call.groups,
        layout.capability(source),
        form=form,
        pieces=1 if form == "linear" else batch * phases,
        bases=num_bases if form == "mixed" else 0,
    )
    # Elements from the first sample of a tile to the end of its last, in the source, the output and the scale; only
    # the linear form spans several samples by OFFSET.
    apart = tile.rows // pixels + 1 if form == "linear" else 0
    reach = max(apart * t.stride(0) + layout.sample_span(t) for t in (source, out))
    reach = max(reach, (apart + 1) * max(channels, out_channels))
    # An output position meets every tap; under a stride, an input position meets every tap_step-th one.
    tap_steps = [s // math.gcd(s, d) if gradient else 1 for s, d in zip(stride, call.dilation, strict=True)]
    tensors = (
        source,
        weight,
        layout.contiguous(call.bias),
        layout.contiguous(call.scale),
        basis,
        layout.contiguous(call.coefficients),
        out,
    )
    strides = [t.stride(axis) for t in (source, out) for axis in (0, 2, 3)]
    sizes = (batch, source_h, source_w, out_h, out_w, *strides, reduction, columns, call.groups)
    taps = (*stride, *call.padding, *call.dilation, *tap_steps)
    options = {
        "GRADIENT": gradient,
        "PRECISION": layout.precision(source.dtype),
        "WIDEN": layout.widen(source.dtype),
        "OFFSET": tl.int32 if reach < layout.NARROW_REACH else tl.int64,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.reduction,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "maxnreg": REGISTERS,
        # float32 without TF32 runs on fused multiply-adds; Triton 3.10 no longer fuses by default.
        "enable_fp_fusion": True,
    }
    tiles_n = triton.cdiv(columns, tile.columns) * call.groups * phases
    with torch.cuda.device_of(source):
        if form == "shared":
            grid = (triton.cdiv(batch, tile.samples) * triton.cdiv(pixels, tile.rows) * tiles_n,)
            options |= {"NUM_BASES": num_bases, "SAMPLES": tile.samples}
            basis_shared[grid](*tensors, *sizes, *call.kernel_size, *taps, **options)
            return out
        tiles_m = triton.cdiv(batch * pixels, tile.rows)
        if form != "linear":
            tiles_m = batch * triton.cdiv(pixels, tile.rows)
        options |= {
            "ACCUMULATE": accumulate,
            "ONE_SAMPLE": form != "linear",
            "MIXED": num_bases if form == "mixed" else 0,
        }
        basis_size = call.kernel_size if basis is None else basis.shape[2:]
        kernels = (num_bases, *call.kernel_size, *basis_size, call.weight_stride)
        implicit_gemm[(tiles_m * tiles_n,)](*tensors, *sizes, *kernels, *taps, **options)
    return out

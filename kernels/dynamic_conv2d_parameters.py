"""Launchers of `dynamic_conv2d`'s gradients for W0, s, Phi and pi: `dynconv.kernels.contract` and the sums after it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynconv.kernels import layout
from dynconv.kernels.contract import contract
from dynconv.kernels.parameter_tiles import MAX_BASES, choose_parameter_tile, choose_split
from dynconv.kernels.tiles import PROGRAMS_WANTED, REGISTERS


class _Found(NamedTuple):
    """Gradients of one launch, float32: dW0 (Cout, taps, Cin/groups), ds, dPhi (K, Cout, taps, Cin/groups), dpi."""

    weight: Tensor | None
    scale: Tensor | None
    basis: Tensor | None
    coefficients: Tensor | None


def _launch(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    scale: Tensor | None,
    basis: Tensor | None,
    coefficients: Tensor | None,
    kernel_size: tuple[int, int],
    taps: tuple[int, int],
    geometry: tuple[tuple[int, int], tuple[int, int], tuple[int, int], int],
    wanted: tuple[bool, bool, bool, bool],
) -> _Found:
    """The gradients in `wanted`, over the `taps` in the kernel's middle; `weight` and `basis` both have these taps."""
    stride, padding, dilation, groups = geometry
    batch, channels = grad.shape[:2]
    pixels = grad.shape[2] * grad.shape[3]
    outputs, inputs = channels // groups, x.shape[1] // groups
    bases = coefficients.shape[1] if coefficients is not None and (wanted[2] or wanted[3]) else 0
    kinds = (layout.kind(x, inputs, outputs), layout.kind(grad, inputs, outputs))
    kind = next((kind for kind in kinds if kind.startswith("ragged")), kinds[0])
    tile = choose_parameter_tile(kind, outputs, inputs, bases, layout.capability(x))
    tiles_c = triton.cdiv(inputs, tile.columns)
    tap_count = taps[0] * taps[1]
    tiles = triton.cdiv(outputs, tile.rows) * tiles_c * groups * tap_count
    # The interpreter runs one program after another: there a split is only more work.
    multiprocessors = 1 if layout.INTERPRETED else PROGRAMS_WANTED
    blocks = triton.cdiv(pixels, tile.pixels)
    split = choose_split(tiles, batch, blocks, bases + any(wanted[:2]), multiprocessors)

    def partial(is_wanted: bool, *shape: int) -> Tensor | None:
        return torch.empty(shape, dtype=torch.float32, device=x.device) if is_wanted else None

    kernel_shape = (channels, tap_count, inputs)
    dweight = partial(wanted[0], split.programs, *kernel_shape)
    dscale = partial(wanted[1], tap_count * tiles_c, batch, split.chunks, channels)
    dbasis = partial(wanted[2], split.programs, bases, *kernel_shape)
    dcoefficients = partial(wanted[3], tiles, batch, split.chunks, bases)
    # Elements that one sample spans.
    reach = max(layout.sample_span(t) for t in (x, grad))
    with torch.cuda.device_of(x):
        contract[(tiles * split.programs,)](
            grad,
            x,
            weight if wanted[1] else None,
            scale if wanted[0] else None,
            basis if wanted[3] else None,
            coefficients if wanted[2] else None,
            dweight,
            dscale,
            dbasis,
            dcoefficients,
            batch,
            split.chunks,
            split.blocks,
            split.items,
            *x.shape[2:],
            grad.shape[3],
            pixels,
            *(grad.stride(axis) for axis in (0, 2, 3)),
            *(x.stride(axis) for axis in (0, 2, 3)),
            outputs,
            inputs,
            groups,
            *((kernel_size[axis] - taps[axis]) // 2 for axis in (0, 1)),
            *taps,
            *stride,
            *padding,
            *dilation,
            0,
            BASES=bases,
            PADDED=triton.next_power_of_2(bases) if bases else 1,
            PRECISION=layout.precision(x.dtype),
            WIDEN=layout.widen(x.dtype),
            OFFSET=tl.int32 if reach < layout.NARROW_REACH else tl.int64,
            BLOCK_N=tile.rows,
            BLOCK_C=tile.columns,
            BLOCK_P=tile.pixels,
            num_warps=tile.warps,
            num_stages=tile.stages,
            maxnreg=REGISTERS,
            # float32 without TF32 runs on fused multiply-adds; Triton 3.10 no longer fuses by default.
            enable_fp_fusion=True,
        )
    return _Found(
        _added(dweight, 0),
        _added(dscale, 0, 2),
        _added(dbasis, 0),
        _added(dcoefficients, 0, 2),
    )


def _added(partial: Tensor | None, *axes: int) -> Tensor | None:
    """The sum over the axes of slots, a view where each has one."""
    if partial is None:
        return None
    if all(partial.shape[axis] == 1 for axis in axes):
        return partial.squeeze(axes)
    return partial.sum(axes)


def _zeros(tensor: Tensor | None, is_wanted: bool) -> Tensor | None:
    return torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and is_wanted else None


def _joined(parts: list[Tensor | None], axis: int) -> Tensor | None:
    """The parts of all launches, or None where they are not wanted."""
    found = [part for part in parts if part is not None]
    return None if not found else found[0] if len(found) == 1 else torch.cat(found, axis)


def _shaped(gradient: Tensor | None, tensor: Tensor | None) -> Tensor | None:
    """(..., Cout, taps, Cin/groups) as a view of the kernel's shape (Cout, Cin/groups, kh, kw), channels innermost."""
    if gradient is None or tensor is None:
        return None
    rows, inputs, height, width = tensor.shape
    return gradient.reshape(rows, height, width, inputs).permute(0, 3, 1, 2)


def parameter_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    scale: Tensor | None,
    basis: Tensor | None,
    coefficients: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    *,
    wanted: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(dweight, dscale, dbasis, dcoefficients) of `dynamic_conv2d` for `grad` (B, Cout, Hout, Wout), all in float32.

    Each has its argument's shape, and is None where `wanted`, in that order, does not ask for it or its argument is
    None. Arguments are as `dynconv.functional.dynamic_conv2d` checks them; `layout.reasons` tells which the kernels do
    not take. Bases go in chunks of MAX_BASES; each chunk forms the products G_b anew.
    """
    given = (weight, scale, basis, coefficients)
    if x.numel() == 0 or grad.numel() == 0:
        zeros = [_zeros(tensor, want) for tensor, want in zip(given, wanted, strict=True)]
        return zeros[0], zeros[1], zeros[2], zeros[3]
    kernel_height, kernel_width = layout.static_kernel(weight, basis).shape[2:]
    kernel_size = (kernel_height, kernel_width)
    geometry = (stride, padding, dilation, groups)
    grad, x = layout.channels_innermost(grad), layout.channels_innermost(x)
    # W0 is read for ds alone, and Phi for dpi.
    weight, scale = layout.dense(weight) if wanted[1] else weight, layout.contiguous(scale)
    dweight = dscale = dbasis = dcoefficients = None
    wants_static = (wanted[0] and weight is not None, wanted[1] and scale is not None)
    wants_basis = (wanted[2] and basis is not None, wanted[3] and basis is not None)
    is_together = any(wants_basis) and basis is not None and basis.shape[2:] == kernel_size
    if any(wants_static) and not is_together:
        found = _launch(
            grad, x, weight, scale, None, None, kernel_size, kernel_size, geometry, (*wants_static, False, False)
        )
        dweight, dscale = found.weight, found.scale
    if any(wants_basis) and basis is not None and coefficients is not None:
        num_bases, channels = coefficients.shape[1], grad.shape[1]
        basis = basis.contiguous(memory_format=torch.channels_last) if wanted[3] else basis
        taps = (basis.shape[2], basis.shape[3])
        size = triton.cdiv(num_bases, triton.cdiv(num_bases, MAX_BASES))
        parts = []
        for first in range(0, num_bases, size):
            chunk = slice(first, min(first + size, num_bases))
            static = wants_static if is_together and first == 0 else (False, False)
            parts.append(
                _launch(
                    grad,
                    x,
                    weight,
                    scale,
                    basis[chunk.start * channels : chunk.stop * channels],
                    coefficients[:, chunk].contiguous(),
                    kernel_size,
                    taps,
                    geometry,
                    (*static, *wants_basis),
                )
            )
        if is_together:
            dweight, dscale = parts[0].weight, parts[0].scale
        dbasis = _joined([part.basis for part in parts], 0)
        dcoefficients = _joined([part.coefficients for part in parts], 1)
    return _shaped(dweight, weight), dscale, _shaped(dbasis, basis), dcoefficients

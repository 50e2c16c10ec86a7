"""Triton gradients of `dynamic_conv2d` for W0, s, Phi and pi, fused.

With G_b = dy_b x_b^T for one tap, (Cout, Cin/groups), summed over the pixels of sample b (gradients of DRT eq. 2 to 5):

    dW0 = sum_b s_b G_b    ds_bo = <W0[o], G_b[o]>    dPhi_i = sum_b pi_bi G_b    dpi_bi = <Phi_i, G_b>

A program owns one tap and one tile of (Cout, Cin/groups) and walks through samples. G_b's tile is a float32 accumulator
of tl.dot over the sample's pixels and is contracted in registers as soon as it is whole, so a product is formed once,
is used by all four gradients and never reaches memory. The sums over samples (dW0, every dPhi_i) stay in registers
until the end; so do the tiles of W0 and Phi, in the input's dtype. A 1x1 basis has only the centre tap; where W0 and s
ask for the other taps, they get a launch of their own with wider tiles.

Everything is linear in G, so a sample's pixels may be cut into chunks, and chunks be dealt to several programs. What a
program knows only in part (its share of dpi and ds; of dW0 and dPhi where samples are dealt out) goes to a slot of its
own, and torch adds the slots in a fixed order. There are no atomics: two runs agree in every bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynconv.kernels import layout
from dynconv.kernels.parameter_tiles import MAX_BASES, choose_parameter_tile, choose_split
from dynconv.kernels.tiles import PROGRAMS_WANTED, REGISTERS


@triton.jit
def _dots(acc, tiles, COUNT: tl.constexpr, PADDED: tl.constexpr):
    """<tiles[i], acc> for i < COUNT, (PADDED,): the products are joined first, so that the warps meet once for all."""
    joined = tl.tuple(())
    for i in tl.static_range(PADDED):
        joined = joined + (acc * tiles[i].to(tl.float32) if i < COUNT else tl.zeros_like(acc),)
    for level in tl.static_range(1, 4):
        if PADDED >> level > 0:
            pairs = tl.tuple(())
            for i in tl.static_range(PADDED >> level):
                pairs = pairs + (tl.join(joined[i], joined[i + (PADDED >> level)]),)
            joined = pairs
    products = tl.reshape(joined[0], (acc.shape[0], acc.shape[1], PADDED))
    return tl.sum(tl.sum(products, axis=1), axis=0)


@triton.jit(
    do_not_specialize=[
        "samples", "chunks", "blocks", "items", "x_h", "x_w", "out_w", "pixels", "groups",
        "first_tap_h", "first_tap_w", "taps_h", "taps_w", "stride_h", "stride_w", "padding_h", "padding_w",
        "dilation_h", "dilation_w", "never",
    ]
)  # fmt: skip
def contract(
    dy, x, weight, scale, basis, coefficients, dweight, dscale, dbasis, dcoefficients,
    samples, chunks, blocks, items, x_h, x_w, out_w, pixels,
    dy_stride_b, dy_stride_h, dy_stride_w, x_stride_b, x_stride_h, x_stride_w,
    outputs, inputs, groups, first_tap_h, first_tap_w, taps_h, taps_w,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, never,
    BASES: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One tile of (output channels, input channels) of one tap, over `items` chunks of `blocks` blocks of pixels.

    outputs, inputs: channels of a group. taps_h, taps_w: the taps of every kernel here, W0 and Phi alike, from tap
    (first_tap_h, first_tap_w) of the convolution on. All kernels and their gradients lie as (Cout, taps, Cin/groups).
    """
    pid = tl.program_id(0).to(tl.int64)
    taps = taps_h * taps_w
    tiles_n = tl.cdiv(outputs, BLOCK_N)
    tiles_c = tl.cdiv(inputs, BLOCK_C)
    # The tiles of one share of the samples run next to each other: they read the same pixels.
    tiles = (taps * groups).to(tl.int64) * tiles_c * tiles_n
    split = pid // tiles
    slot = pid - split * tiles
    tile_n = (slot % tiles_n).to(tl.int32)
    tile_c = (slot // tiles_n % tiles_c).to(tl.int32)
    group = (slot // tiles_n // tiles_c % groups).to(tl.int32)
    tap = (slot // tiles_n // tiles_c // groups).to(tl.int32)
    tap_h = tap // taps_w
    tap_w = tap - tap_h * taps_w
    shift_h = (first_tap_h + tap_h) * dilation_h - padding_h
    shift_w = (first_tap_w + tap_w) * dilation_w - padding_w

    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)
    in_n = n < outputs
    in_c = c < inputs
    in_tile = in_n[:, None] & in_c[None, :]
    channels = groups * outputs
    size = channels * taps * inputs
    place = ((group * outputs + n) * taps + tap)[:, None] * inputs + c[None, :]
    dy += group * outputs
    x += group * inputs

    total = tl.zeros((BLOCK_N, BLOCK_C), dtype=tl.float32)
    totals = tl.tuple(())
    phi = tl.tuple(())
    if dscale is not None:
        w0 = tl.load(weight + place, mask=in_tile, other=0.0)
    for i in tl.static_range(BASES):
        if dbasis is not None:
            totals = totals + (total,)
        if dcoefficients is not None:
            phi = phi + (tl.load(basis + i * size + place, mask=in_tile, other=0.0),)

    PER_SAMPLE: tl.constexpr = BASES > 0 or scale is not None or dscale is not None
    chunks_in_all = samples * chunks
    first = split.to(tl.int32) * items
    count = tl.minimum(items, chunks_in_all - first)
    acc = tl.zeros((BLOCK_N, BLOCK_C), dtype=tl.float32)
    # One flat loop over chunks and blocks: nested, the software pipeline would drain at each sample, and at 7x7 a
    # sample is one block.
    for step in range(count * blocks):
        block = step % blocks
        chunk = first + step // blocks
        sample = chunk // chunks
        row = ((chunk - sample * chunks) * blocks + block) * BLOCK_P + tl.arange(0, BLOCK_P)
        out_row = row // out_w
        out_column = row - out_row * out_w
        h = out_row * stride_h + shift_h
        w = out_column * stride_w + shift_w
        inside = (row < pixels) & (h >= 0) & (h < x_h) & (w >= 0) & (w < x_w)
        dy_offset = out_row.to(OFFSET) * dy_stride_h + out_column.to(OFFSET) * dy_stride_w
        x_offset = h.to(OFFSET) * x_stride_h + w.to(OFFSET) * x_stride_w
        # 64-bit offsets to the sample, OFFSET within it: 32 bits halve the registers of its addresses.
        dy_sample = dy + sample.to(tl.int64) * dy_stride_b
        x_sample = x + sample.to(tl.int64) * x_stride_b
        g = tl.load(dy_sample + (dy_offset[:, None] + n[None, :]), mask=inside[:, None] & in_n[None, :], other=0.0)
        a = tl.load(x_sample + (x_offset[:, None] + c[None, :]), mask=inside[:, None] & in_c[None, :], other=0.0)
        # Asked for before the product, so that they are there when it is.
        if dweight is not None and scale is not None:
            s = tl.load(scale + sample.to(tl.int64) * channels + group * outputs + n, mask=in_n, other=0.0)
        if dbasis is not None:
            pi = tl.tuple(())
            for i in tl.static_range(BASES):
                pi = pi + (tl.load(coefficients + sample.to(tl.int64) * BASES + i).to(tl.float32),)
        if WIDEN:
            g = g.to(tl.float32)
            a = a.to(tl.float32)
        acc = tl.dot(tl.trans(g), a, acc, input_precision=PRECISION)
        if PER_SAMPLE and block == blocks - 1:
            if dweight is not None:
                if scale is not None:
                    total += s.to(tl.float32)[:, None] * acc
                else:
                    total += acc
            if dscale is not None:
                dots_n = tl.sum(acc * w0.to(tl.float32), axis=1)
                part = (tap * tiles_c + tile_c).to(tl.int64) * chunks_in_all + chunk
                tl.store(dscale + part * channels + group * outputs + n, dots_n, mask=in_n)
                w0 = tl.where(never != 0, acc.to(w0.dtype), w0)
            if dbasis is not None:
                moved = tl.tuple(())
                for i in tl.static_range(BASES):
                    moved = moved + (totals[i] + pi[i] * acc,)
                totals = moved
            if dcoefficients is not None:
                dots = _dots(acc, phi, BASES, PADDED)
                kept = tl.tuple(())
                for i in tl.static_range(BASES):
                    # `never` is 0. A tile that the loop might change is kept in the layout of `acc`, and packed;
                    # one that it cannot is laid out anew for each sample, through shared memory and with two
                    # barriers (an estimated 180 cycles each, beside 690 for a block's loads).
                    kept = kept + (tl.where(never != 0, acc.to(phi[i].dtype), phi[i]),)
                phi = kept
                which = tl.arange(0, PADDED)
                row_of = (slot * chunks_in_all + chunk) * BASES
                tl.store(dcoefficients + row_of + which, dots, mask=which < BASES)
            acc = tl.zeros((BLOCK_N, BLOCK_C), dtype=tl.float32)
    if not PER_SAMPLE:
        total = acc
    if dweight is not None:
        tl.store(dweight + split * size + place, total, mask=in_tile)
    if dbasis is not None:
        for i in tl.static_range(BASES):
            tl.store(dbasis + (split * BASES + i) * size + place, totals[i], mask=in_tile)


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

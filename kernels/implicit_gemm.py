"""The implicit GEMM of `dynamic_conv2d`: one Triton kernel whose constexpr flags make up most of the variants.

A row is a pixel, a column an output channel, the reduction runs over taps and input channels, channels innermost.

Linear form (MIXED = 0). The pixels of several samples share a tile (s and pi are gathered per row), so 7x7 maps fill
tiles as well as 56x56 ones, and a weight is read once per tile of pixels, not once per sample. Each conv(x, Phi_i) is
summed in a float32 accumulator of its own and joins the result times pi_bi in float32. Scaling the input rows by pi_bi
instead would need one accumulator less, but rounds pi*x to the input's dtype (2^-9 relative in bfloat16, for each
product) and takes the left operand of each product through registers. Likewise s multiplies the static accumulator in
registers, before the bases.

Mixed form (MIXED = K). A tile holds pixels of one sample, and its right operand sum_i pi_bi Phi_i is formed in
registers, in float32, and rounded once: 1/K of the arithmetic for K times the loads of weights. It pays where the basis
is 1x1 and small enough to stay in the L1 cache.

ACCUMULATE adds to what `out` holds, times s: the vendor's static convolution, which the residual joins in place.
ONE_SAMPLE with a weight stride per sample runs the kernels that `dynconv.kernels.materialise` wrote.

Input gradient (GRADIENT): the source is dy, the reduction runs over output channels, and a row is an input pixel, which
gathers the output pixels that read it: no atomics, a fixed summation order. Under a stride an input pixel meets only
the taps of its residue class; each class is a phase of the grid with its own taps, so strided layers do 1x the work and
not stride^2 times. There s lies along the reduction, so dy*s is formed in float32 and rounded to dy's dtype.
"""

# Tuples grow in @triton.jit functions, which mypy reads as Python.
# mypy: disable-error-code="assignment"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def walk(phase, size, stride, padding, dilation, tap_step, GRADIENT: tl.constexpr):
    """One axis: (first tap, number of taps, source position of row 0 at the first tap, its move to the next tap).

    Forward: tap t of row r reads r*stride - padding + t*dilation. Gradient: row r is input position r*stride + phase,
    and tap t reads (position + padding - t*dilation) / stride where that divides: every tap_step-th tap from the first
    one that does.
    """
    if GRADIENT:
        first = size
        for tap in range(tap_step):
            first = tl.where((phase + padding - tap * dilation) % stride == 0, tl.minimum(tap, size), first)
        count = (size - first + tap_step - 1) // tap_step
        return first, count, (phase + padding - first * dilation) // stride, -(tap_step * dilation // stride)
    else:
        return 0, size, -padding, dilation


@triton.jit
def _accumulate(
    acc, source, row_offset, row_h, row_w, row_valid, source_h, source_w, source_stride_h, source_stride_w,
    weight, mixing, basis_stride, column, reduction, columns, kernel_h, kernel_w, phase_h, phase_w,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tap_step_h, tap_step_w, scale, scale_offset,
    GRADIENT: tl.constexpr, ONE_SAMPLE: tl.constexpr, MIXED: tl.constexpr, PRECISION: tl.constexpr,
    WIDEN: tl.constexpr, OFFSET: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """acc (BLOCK_M, BLOCK_N) += the convolution of the tile's rows with one weight, channels innermost in both.

    With MIXED, the weight is sum_i mixing[i] * (the weight basis_stride * i elements on).
    """
    first_h, count_h, start_h, move_h = walk(phase_h, kernel_h, stride_h, padding_h, dilation_h, tap_step_h, GRADIENT)
    first_w, count_w, start_w, move_w = walk(phase_w, kernel_w, stride_w, padding_w, dilation_w, tap_step_w, GRADIENT)
    if GRADIENT:
        weight_stride_k = kernel_h * kernel_w * columns
        weight_stride_n = 1
        weight_stride_tap = columns
    else:
        weight_stride_k = 1
        weight_stride_n = kernel_h * kernel_w * reduction
        weight_stride_tap = reduction
    # One flat loop over taps and channel blocks: nested, the software pipeline would drain at each tap, and with 64
    # channels a tap is one block.
    blocks = tl.cdiv(reduction, BLOCK_K)
    taps_w = tl.maximum(count_w, 1)
    for step in range(count_h * count_w * blocks):
        tap = step // blocks
        k = (step - tap * blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        tap_h = tap // taps_w
        tap_w = tap - tap_h * taps_w
        h = row_h + (start_h + tap_h * move_h)
        w = row_w + (start_w + tap_w * move_w)
        inside = row_valid & (h >= 0) & (h < source_h) & (w >= 0) & (w < source_w)
        offset = row_offset + h.to(OFFSET) * source_stride_h + w.to(OFFSET) * source_stride_w
        in_k = k < reduction
        a = tl.load(source + (offset[:, None] + k[None, :]), mask=inside[:, None] & in_k[None, :], other=0.0)
        if GRADIENT and scale is not None:
            if ONE_SAMPLE:
                s = tl.load(scale + k, mask=in_k, other=0.0)[None, :]
            else:
                place = scale_offset[:, None] + k[None, :]
                s = tl.load(scale + place, mask=row_valid[:, None] & in_k[None, :], other=0.0)
            a = (a.to(tl.float32) * s.to(tl.float32)).to(a.dtype)
        tap_offset = ((first_h + tap_h * tap_step_h) * kernel_w + first_w + tap_w * tap_step_w) * weight_stride_tap
        at = weight + tap_offset
        place = k[:, None] * weight_stride_k + column[None, :] * weight_stride_n
        in_weight = in_k[:, None] & (column < columns)[None, :]
        if MIXED:
            mixed = tl.load(at + place, mask=in_weight, other=0.0).to(tl.float32) * mixing[0]
            for i in tl.static_range(1, MIXED):
                phi = tl.load(at + i * basis_stride + place, mask=in_weight, other=0.0)
                mixed += phi.to(tl.float32) * mixing[i]
            b = mixed.to(a.dtype)
        else:
            b = tl.load(at + place, mask=in_weight, other=0.0)
        if WIDEN:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _column_scale(scale, scale_offset, row_valid, column, in_columns, ONE_SAMPLE: tl.constexpr):
    """s of the tile's samples and output channels, (BLOCK_M, BLOCK_N) or, for one sample, (1, BLOCK_N)."""
    if ONE_SAMPLE:
        return tl.load(scale + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
    else:
        place = scale_offset[:, None] + column[None, :]
        return tl.load(scale + place, mask=row_valid[:, None] & in_columns[None, :], other=0.0).to(tl.float32)


@triton.jit(
    do_not_specialize=[
        "batch", "source_h", "source_w", "out_h", "out_w", "groups", "num_bases", "kernel_h", "kernel_w",
        "basis_h", "basis_w", "stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w",
        "tap_step_h", "tap_step_w",
    ]
)  # fmt: skip
def implicit_gemm(
    source, weight, bias, scale, basis, coefficients, out,
    batch, source_h, source_w, out_h, out_w,
    source_stride_b, source_stride_h, source_stride_w, out_stride_b, out_stride_h, out_stride_w,
    reduction, columns, groups, num_bases, kernel_h, kernel_w, basis_h, basis_w, weight_stride_b,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    GRADIENT: tl.constexpr, ACCUMULATE: tl.constexpr, ONE_SAMPLE: tl.constexpr, MIXED: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """source, out: x, y in the forward, dy, dx in the gradient. reduction, columns: their channels per group.

    `weight_stride_b` is specialised: without its 16-byte alignment a sample's weights are loaded one by one.
    """
    pid = tl.program_id(0).to(tl.int64)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    if GRADIENT:
        in_channels = columns
        out_channels = reduction
        rows_h = (out_h + stride_h - 1) // stride_h
        rows_w = (out_w + stride_w - 1) // stride_w
        phases = stride_h * stride_w
    else:
        in_channels = reduction
        out_channels = columns
        rows_h = out_h
        rows_w = out_w
        phases = 1
    pixels = rows_h * rows_w
    # 64-bit offsets to the tile's first sample, OFFSET within the tile: 32 bits halve the registers of its addresses.
    if ONE_SAMPLE:
        # Pixels vary fastest: neighbouring programs read the same weights, which differ from sample to sample.
        tiles_m = tl.cdiv(pixels, BLOCK_M)
        tile_m = (pid % tiles_m).to(tl.int32)
        rest = pid // tiles_m
        phase = (rest % phases).to(tl.int32)
        rest = rest // phases
        tile_n = (rest % tiles_n).to(tl.int32)
        rest = rest // tiles_n
        group = rest % groups
        first_sample = rest // groups
        pixel = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        row_valid = pixel < pixels
        sample = tl.zeros_like(pixel)
    else:
        # Columns and groups vary fastest: neighbouring programs read the same pixels.
        tiles_m = (batch.to(tl.int64) * pixels + BLOCK_M - 1) // BLOCK_M
        tile_n = (pid % tiles_n).to(tl.int32)
        group = pid // tiles_n % groups
        tile = pid // tiles_n // groups
        if GRADIENT:
            phase = (tile // tiles_m).to(tl.int32)
            tile = tile % tiles_m
        first_row = tile * BLOCK_M
        first_sample = first_row // pixels
        row = (first_row - first_sample * pixels).to(tl.int32) + tl.arange(0, BLOCK_M)
        sample = row // pixels
        pixel = row % pixels
        row_valid = first_sample + sample < batch
    row_h = pixel // rows_w
    row_w = pixel % rows_w
    if GRADIENT:
        phase_h = phase // stride_w
        phase_w = phase % stride_w
        step_h = 1
        step_w = 1
    else:
        phase_h = 0
        phase_w = 0
        step_h = stride_h
        step_w = stride_w
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_columns = column < columns

    source += first_sample * source_stride_b + group * reduction
    row_offset = sample.to(OFFSET) * source_stride_b
    # Weights are (output channels, taps, input channels of a group): the group picks output channels.
    group_offset = group * out_channels * in_channels
    if scale is not None:
        scale += (first_sample * groups + group) * out_channels
    scale_offset = sample.to(OFFSET) * (groups * out_channels)

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if weight is not None:
        if ONE_SAMPLE:
            weight += first_sample * weight_stride_b
        acc = _accumulate(
            acc, source, row_offset, row_h * step_h, row_w * step_w, row_valid,
            source_h, source_w, source_stride_h, source_stride_w,
            weight + group_offset * (kernel_h * kernel_w), None, 0,
            column, reduction, columns, kernel_h, kernel_w, phase_h, phase_w,
            stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
            scale, scale_offset, GRADIENT, ONE_SAMPLE, 0, PRECISION, WIDEN, OFFSET, BLOCK_K,
        )  # fmt: skip
        if scale is not None and not GRADIENT:
            acc *= _column_scale(scale, scale_offset, row_valid, column, in_columns, ONE_SAMPLE)
    if basis is not None:
        # The basis sits at the kernel's centre: a convolution of its own with less padding (1x1: the centre tap).
        basis_padding_h = padding_h - dilation_h * ((kernel_h - basis_h) // 2)
        basis_padding_w = padding_w - dilation_w * ((kernel_w - basis_w) // 2)
        basis += group_offset * (basis_h * basis_w)
        basis_stride = groups.to(tl.int64) * out_channels * in_channels * basis_h * basis_w
        coefficients += first_sample * num_bases
        if MIXED:
            mixing = ()
            for i in tl.static_range(MIXED):
                mixing = mixing + (tl.load(coefficients + i).to(tl.float32),)
            acc = _accumulate(
                acc, source, row_offset, row_h * step_h, row_w * step_w,
                row_valid, source_h, source_w, source_stride_h, source_stride_w,
                basis, mixing, basis_stride, column, reduction, columns, basis_h, basis_w,
                phase_h, phase_w, stride_h, stride_w, basis_padding_h, basis_padding_w, dilation_h, dilation_w,
                tap_step_h, tap_step_w, None, scale_offset,
                GRADIENT, ONE_SAMPLE, MIXED, PRECISION, WIDEN, OFFSET, BLOCK_K,
            )  # fmt: skip
        else:
            for i in range(num_bases):
                part = _accumulate(
                    tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32), source, row_offset, row_h * step_h, row_w * step_w,
                    row_valid, source_h, source_w, source_stride_h, source_stride_w,
                    basis + i * basis_stride, None, 0, column, reduction, columns, basis_h, basis_w,
                    phase_h, phase_w, stride_h, stride_w, basis_padding_h, basis_padding_w, dilation_h, dilation_w,
                    tap_step_h, tap_step_w, None, scale_offset,
                    GRADIENT, ONE_SAMPLE, 0, PRECISION, WIDEN, OFFSET, BLOCK_K,
                )  # fmt: skip
                pi = tl.load(coefficients + i + sample.to(OFFSET) * num_bases, mask=row_valid, other=0.0)
                acc += part * pi.to(tl.float32)[:, None]
    if bias is not None:
        acc += tl.load(bias + group * columns + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
    if GRADIENT:
        row_h = row_h * stride_h + phase_h
        row_w = row_w * stride_w + phase_w
        row_valid = row_valid & (row_h < out_h) & (row_w < out_w)
    out += first_sample * out_stride_b + group * columns
    offset = sample.to(OFFSET) * out_stride_b + row_h.to(OFFSET) * out_stride_h + row_w.to(OFFSET) * out_stride_w
    place = offset[:, None] + column[None, :]
    in_out = row_valid[:, None] & in_columns[None, :]
    if ACCUMULATE:
        # Last, and not as the accumulator's start: through the products its addresses spill 8 bytes on sm_80.
        static = tl.load(out + place, mask=in_out, other=0.0).to(tl.float32)
        if scale is not None:
            static *= _column_scale(scale, scale_offset, row_valid, column, in_columns, ONE_SAMPLE)
        acc += static
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=in_out)

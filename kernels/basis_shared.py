"""A full basis at small maps: several samples per program share each block of W0 and of the bases.

At 512 channels and 7x7 pixels the kernels W_b of 64 samples are 302 MB, and reading K+1 blocks for each sample and tile
of pixels 590 MB and more of L2 traffic; the linear form pays (K+1) times the arithmetic. Here a program loads the K+1
blocks of one tap and channel block once, forms W_b = s_b W0 + sum_i pi_bi Phi_i in registers for each of its samples in
turn, and multiplies it with that sample's pixels into that sample's accumulator: 1x the arithmetic, and 1/SAMPLES of
the loads of weights.
"""

# Tuples grow in @triton.jit functions, which mypy reads as Python.
# mypy: disable-error-code="assignment,misc,var-annotated"
from __future__ import annotations

import triton
import triton.language as tl

from dynconv.kernels.implicit_gemm import walk


@triton.jit(
    do_not_specialize=[
        "batch", "source_h", "source_w", "out_h", "out_w", "groups", "kernel_h", "kernel_w",
        "stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "tap_step_h", "tap_step_w",
    ]
)  # fmt: skip
def basis_shared(
    source, weight, bias, scale, basis, coefficients, out,
    batch, source_h, source_w, out_h, out_w,
    source_stride_b, source_stride_h, source_stride_w, out_stride_b, out_stride_h, out_stride_w,
    reduction, columns, groups, kernel_h, kernel_w,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    GRADIENT: tl.constexpr, NUM_BASES: tl.constexpr, SAMPLES: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Arguments as in `dynconv.kernels.implicit_gemm.implicit_gemm`; the basis has the kernel's size."""
    pid = tl.program_id(0).to(tl.int64)
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
    # Samples vary fastest, then pixels: programs that run together read the same weights.
    packs = tl.cdiv(batch, SAMPLES)
    tiles_m = tl.cdiv(pixels, BLOCK_M)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    first_sample = pid % packs * SAMPLES
    rest = pid // packs
    pixel = (rest % tiles_m).to(tl.int32) * BLOCK_M + tl.arange(0, BLOCK_M)
    rest = rest // tiles_m
    phase = (rest % phases).to(tl.int32)
    rest = rest // phases
    tile_n = (rest % tiles_n).to(tl.int32)
    group = rest // tiles_n

    row_valid = pixel < pixels
    row_h = pixel // rows_w
    row_w = pixel % rows_w
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_columns = column < columns
    if GRADIENT:
        phase_h = phase // stride_w
        phase_w = phase % stride_w
        source_row_h = row_h
        source_row_w = row_w
        out_row_h = row_h * stride_h + phase_h
        out_row_w = row_w * stride_w + phase_w
        out_valid = row_valid & (out_row_h < out_h) & (out_row_w < out_w)
        weight_stride_k = kernel_h * kernel_w * columns
        weight_stride_n = 1
        weight_stride_tap = columns
    else:
        phase_h = 0
        phase_w = 0
        source_row_h = row_h * stride_h
        source_row_w = row_w * stride_w
        out_row_h = row_h
        out_row_w = row_w
        out_valid = row_valid
        weight_stride_k = 1
        weight_stride_n = kernel_h * kernel_w * reduction
        weight_stride_tap = reduction

    source += group * reduction
    group_offset = group * out_channels * in_channels * (kernel_h * kernel_w)
    basis_stride = groups.to(tl.int64) * out_channels * in_channels * kernel_h * kernel_w
    basis += group_offset
    if weight is not None:
        weight += group_offset

    acc = ()
    mixing = ()
    column_scale = ()
    for b in tl.static_range(SAMPLES):
        acc = acc + (tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32),)
        in_batch = first_sample + b < batch
        for i in tl.static_range(NUM_BASES):
            at = coefficients + (first_sample + b) * NUM_BASES + i
            mixing = mixing + (tl.load(at, mask=in_batch, other=0.0).to(tl.float32),)
        if scale is not None and not GRADIENT:
            s = scale + ((first_sample + b) * groups + group) * out_channels + column
            in_scale = column < tl.where(in_batch, columns, 0)
            column_scale = column_scale + (tl.load(s, mask=in_scale, other=0.0).to(tl.float32),)

    first_h, count_h, start_h, move_h = walk(phase_h, kernel_h, stride_h, padding_h, dilation_h, tap_step_h, GRADIENT)
    first_w, count_w, start_w, move_w = walk(phase_w, kernel_w, stride_w, padding_w, dilation_w, tap_step_w, GRADIENT)
    blocks = tl.cdiv(reduction, BLOCK_K)
    taps_w = tl.maximum(count_w, 1)
    for step in range(count_h * count_w * blocks):
        tap = step // blocks
        k = (step - tap * blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        in_k = k < reduction
        tap_h = tap // taps_w
        tap_w = tap - tap_h * taps_w
        h = source_row_h + (start_h + tap_h * move_h)
        w = source_row_w + (start_w + tap_w * move_w)
        inside = row_valid & (h >= 0) & (h < source_h) & (w >= 0) & (w < source_w)
        offset = h.to(OFFSET) * source_stride_h + w.to(OFFSET) * source_stride_w
        tap_offset = ((first_h + tap_h * tap_step_h) * kernel_w + first_w + tap_w * tap_step_w) * weight_stride_tap
        place = tap_offset + (k[:, None] * weight_stride_k + column[None, :] * weight_stride_n)
        in_weight = in_k[:, None] & in_columns[None, :]
        phi = ()
        for i in tl.static_range(NUM_BASES):
            phi = phi + (tl.load(basis + i * basis_stride + place, mask=in_weight, other=0.0),)
        if weight is not None:
            static = tl.load(weight + place, mask=in_weight, other=0.0)
        sums = ()
        for b in tl.static_range(SAMPLES):
            # Not `in_k & in_batch`: Triton 3.9's interpreter makes an int32 of a block and a scalar of one bit.
            in_sample = k < tl.where(first_sample + b < batch, reduction, 0)
            place_a = offset[:, None] + k[None, :]
            in_a = inside[:, None] & in_sample[None, :]
            a = tl.load(source + (first_sample + b) * source_stride_b + place_a, mask=in_a, other=0.0)
            mixed = phi[0].to(tl.float32) * mixing[b * NUM_BASES]
            for i in tl.static_range(1, NUM_BASES):
                mixed += phi[i].to(tl.float32) * mixing[b * NUM_BASES + i]
            if weight is not None:
                if scale is None:
                    mixed += static.to(tl.float32)
                elif GRADIENT:
                    row_scale = scale + ((first_sample + b) * groups + group) * out_channels + k
                    rows = tl.load(row_scale, mask=in_sample, other=0.0).to(tl.float32)
                    mixed += static.to(tl.float32) * rows[:, None]
                else:
                    mixed += static.to(tl.float32) * column_scale[b][None, :]
            right = mixed.to(a.dtype)
            if WIDEN:
                a = a.to(tl.float32)
                right = right.to(tl.float32)
            sums = sums + (tl.dot(a, right, acc[b], input_precision=PRECISION),)
        acc = sums

    out += group * columns
    offset = out_row_h.to(OFFSET) * out_stride_h + out_row_w.to(OFFSET) * out_stride_w
    place = offset[:, None] + column[None, :]
    for b in tl.static_range(SAMPLES):
        in_out = out_valid[:, None] & (column < tl.where(first_sample + b < batch, columns, 0))[None, :]
        result = acc[b]
        if bias is not None:
            result += tl.load(bias + group * columns + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
        tl.store(out + (first_sample + b) * out_stride_b + place, result.to(out.dtype.element_ty), mask=in_out)

"""The products of `feature_gradient_norms`: two batched GEMMs over a bank of discriminators, and a weighted sum.

A row is a sample, a batch entry m a discriminator with weights of its own, which serve few rows: N is 72 where a weight
is 1024 x 2048. So the kernels wait for the weights, and a program holds all rows of a block of columns where a tile has
as many: then each product reads each weight once. What a product's result is for is its epilogue, so that a
pre-activation, a row of dz/df or a per-sample parameter gradient never reaches memory; activation derivatives are kept
as one bit a unit, 32 to a word.

Sums over columns end in one partial sum per tile of columns, which the launcher adds up in order: no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynconv.kernels import layout
from dynconv.kernels.bank_tiles import choose_bank_tile
from dynconv.kernels.tiles import REGISTERS, Tile

# Terms and columns of a block of `weighted_sum`, and its warps.
SUM_BLOCK = (8, 256)
SUM_WARPS = 4


@triton.jit
def _word_of(row, column, columns):
    """Place of the word that holds the bit of each (row, column)."""
    return row[:, None] * ((columns + 31) // 32) + (column // 32)[None, :]


@triton.jit
def _derivative(words, drop, slope, row, column, columns, inside, LEAKY: tl.constexpr):
    """The activation's derivative times the dropout mask, from the bits, (BLOCK_M, BLOCK_N) in float32."""
    word = tl.load(words + _word_of(row, column, columns), mask=inside, other=0)
    bit = (word >> (column % 32)[None, :]) & 1
    found = tl.where(bit != 0, 1.0, slope) if LEAKY else bit.to(tl.float32)
    if drop is not None:
        found *= tl.load(drop + (row[:, None] * columns + column[None, :]), mask=inside, other=0.0).to(tl.float32)
    return found


@triton.jit(do_not_specialize=["num", "samples", "slope"])
def bank_product(
    left, weight, bias, words, drop, last, row_scale, out, gated, partial,
    num, samples, columns, reduction, left_stride, slope,
    EPILOGUE: tl.constexpr, TRANSPOSED: tl.constexpr, LEAKY: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """left_m (N, reduction) times weight_m^T (``TRANSPOSED``; weight_m is (columns, reduction)) or weight_m.

    ``left_stride`` is 0 where all discriminators share ``left``. Epilogues:

    * "activate": a = product + ``bias``. Writes the bits a > 0 to ``words``, h = act(a) * ``drop`` to ``out``, and
      where ``last`` holds the weights of the last layer, z's partial sums h . last to ``partial`` and
      act'(a) * drop * last to ``gated``.
    * "gate": product * act' * ``drop``, act' from ``words``, to ``out``.
    * "norm": each row's partial sum of squares to ``partial``.
    * "scale": product * ``row_scale`` (M, N), to ``out``.
    """
    pid = tl.program_id(0).to(tl.int64)
    tiles_m = tl.cdiv(samples, BLOCK_M)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    # Rows vary fastest: the programs that read one block of a weight run side by side, all but the first from L2.
    tile_m = (pid % tiles_m).to(tl.int32)
    tile_n = (pid // tiles_m % tiles_n).to(tl.int32)
    m = pid // tiles_m // tiles_n
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows = row < samples
    in_columns = column < columns
    inside = in_rows[:, None] & in_columns[None, :]
    # 64-bit offsets to the discriminator, 32 bits within it.
    left += m * left_stride
    weight += m * columns * reduction

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(tl.cdiv(reduction, BLOCK_K)):
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        in_k = k < reduction
        a = tl.load(left + (row[:, None] * reduction + k[None, :]), mask=in_rows[:, None] & in_k[None, :], other=0.0)
        place = k[:, None] + column[None, :] * reduction if TRANSPOSED else k[:, None] * columns + column[None, :]
        b = tl.load(weight + place, mask=in_k[:, None] & in_columns[None, :], other=0.0)
        if WIDEN:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    unit = m * samples * columns
    place = row[:, None] * columns + column[None, :]
    if drop is not None:
        drop += unit
    if words is not None:
        words += m * samples * ((columns + 31) // 32)
    if EPILOGUE == "activate":
        if bias is not None:
            acc += tl.load(bias + m * columns + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
        positive = acc > 0
        if words is not None:
            # Beyond the columns weights and bias are 0, and so are the bits.
            bits = tl.reshape(positive.to(tl.int32), (BLOCK_M, BLOCK_N // 32, 32))
            packed = tl.sum(bits << tl.arange(0, 32)[None, None, :], axis=2)
            group = tile_n * (BLOCK_N // 32) + tl.arange(0, BLOCK_N // 32)
            per_row = (columns + 31) // 32
            in_words = in_rows[:, None] & (group < per_row)[None, :]
            tl.store(words + (row[:, None] * per_row + group[None, :]), packed, mask=in_words)
        # Not a product with act', which would make NaN of an infinite pre-activation, nor a maximum, which drops NaN.
        h = tl.where(acc <= 0, slope * acc if LEAKY else 0.0, acc)
        if drop is not None:
            h *= tl.load(drop + place, mask=inside, other=0.0).to(tl.float32)
        if out is not None:
            tl.store(out + unit + place, h.to(out.dtype.element_ty), mask=inside)
        if last is not None:
            w = tl.load(last + m * columns + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
            at = (tile_n * num.to(tl.int64) + m) * samples
            tl.store(partial + at + row, tl.sum(h * w, axis=1), mask=in_rows)
            v = tl.where(positive, w, slope * w if LEAKY else 0.0)
            if drop is not None:
                # Loaded again: held beside acc and h, it spills 200 bytes with 128 columns.
                v *= tl.load(drop + place, mask=inside, other=0.0).to(tl.float32)
            tl.store(gated + unit + place, v.to(gated.dtype.element_ty), mask=inside)
    elif EPILOGUE == "gate":
        acc *= _derivative(words, drop, slope, row, column, columns, inside, LEAKY)
        tl.store(out + unit + place, acc.to(out.dtype.element_ty), mask=inside)
    elif EPILOGUE == "norm":
        at = (tile_n * num.to(tl.int64) + m) * samples
        tl.store(partial + at + row, tl.sum(acc * acc, axis=1), mask=in_rows)
    else:
        tl.static_assert(EPILOGUE == "scale")
        acc *= tl.load(row_scale + m * samples + row, mask=in_rows, other=0.0)[:, None]
        tl.store(out + unit + place, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["samples"])
def bank_outer(
    gates, hidden, direction, grad_logits, grad_gains, amplitude, out,
    samples, rows, columns, hidden_stride,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out_m = amplitude_m * sum_i gates_mi (grad_logits_mi * hidden_mi + grad_gains_mi * direction_mi)^T, for each m.

    gates (M, N, rows), hidden and direction (M, N, columns), grad_logits and grad_gains (M, N), amplitude (M,).

    The one product forms both terms of a weight's gradient: their sum is formed in float32 and rounded once.
    ``hidden_stride`` is 0 where all discriminators share ``hidden`` (the features). The reduction runs over samples.
    """
    pid = tl.program_id(0).to(tl.int64)
    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    tile_m = (pid % tiles_m).to(tl.int32)
    tile_n = (pid // tiles_m % tiles_n).to(tl.int32)
    m = pid // tiles_m // tiles_n
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows = row < rows
    in_columns = column < columns
    gates += m * samples * rows
    hidden += m * hidden_stride
    direction += m * samples * columns
    grad_logits += m * samples
    grad_gains += m * samples

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(tl.cdiv(samples, BLOCK_K)):
        i = step * BLOCK_K + tl.arange(0, BLOCK_K)
        in_i = i < samples
        a = tl.load(gates + (row[:, None] + i[None, :] * rows), mask=in_rows[:, None] & in_i[None, :], other=0.0)
        place = i[:, None] * columns + column[None, :]
        in_b = in_i[:, None] & in_columns[None, :]
        by_logits = tl.load(grad_logits + i, mask=in_i, other=0.0)[:, None]
        by_gains = tl.load(grad_gains + i, mask=in_i, other=0.0)[:, None]
        b = by_logits * tl.load(hidden + place, mask=in_b, other=0.0).to(tl.float32)
        b += by_gains * tl.load(direction + place, mask=in_b, other=0.0).to(tl.float32)
        if WIDEN:
            # Rounded as it is on a device.
            a = a.to(tl.float32)
            b = b.to(hidden.dtype.element_ty).to(tl.float32)
        else:
            b = b.to(a.dtype)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    if amplitude is not None:
        acc *= tl.load(amplitude + m)
    out += m * rows * columns
    place = row[:, None] * columns + column[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])


@triton.jit(do_not_specialize=["terms"])
def weighted_sum(
    first, second, first_weight, second_weight, out,
    terms, columns, stride_b, stride_t, weight_stride_b, weight_stride_t,
    ACCUMULATE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out_b (columns) = sum_t first_weight_bt * first_bt + second_weight_bt * second_bt, in float32.

    Both weights have the same strides, and so have both summands; ``second`` may be absent. ``ACCUMULATE`` adds to
    what ``out`` holds.
    """
    pid = tl.program_id(0).to(tl.int64)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    b = pid // tiles_n
    column = (pid % tiles_n).to(tl.int32) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_columns = column < columns
    acc = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for step in range(tl.cdiv(terms, BLOCK_T)):
        t = (step * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
        in_t = t < terms
        place = b * stride_b + t[:, None] * stride_t + column[None, :]
        inside = in_t[:, None] & in_columns[None, :]
        at = b * weight_stride_b + t * weight_stride_t
        w = tl.load(first_weight + at, mask=in_t, other=0.0)[:, None]
        term = w * tl.load(first + place, mask=inside, other=0.0).to(tl.float32)
        if second is not None:
            w = tl.load(second_weight + at, mask=in_t, other=0.0)[:, None]
            term += w * tl.load(second + place, mask=inside, other=0.0).to(tl.float32)
        acc += tl.sum(term, axis=0)
    place = b * columns + column
    if ACCUMULATE:
        acc += tl.load(out + place, mask=in_columns, other=0.0)
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=in_columns)


def product(
    left: Tensor,
    weight: Tensor,
    epilogue: str,
    slope: float,
    *,
    transposed: bool,
    bias: Tensor | None = None,
    words: Tensor | None = None,
    drop: Tensor | None = None,
    last: Tensor | None = None,
    row_scale: Tensor | None = None,
    out: Tensor | None = None,
    gated: Tensor | None = None,
) -> Tensor:
    """`bank_product` of ``left``, (N, H) or (M, N, H); what its epilogue sums over columns, (M, N), or else nothing."""
    num, samples = weight.shape[0], left.shape[-2]
    columns, reduction = weight.shape[1:] if transposed else (weight.shape[2], weight.shape[1])
    kind = _kind((columns, reduction), left, weight)
    tile = choose_bank_tile("product", kind, samples, columns, num, layout.capability(left))
    tiles_m, tiles_n = triton.cdiv(samples, tile.rows), triton.cdiv(columns, tile.columns)
    sums = epilogue == "norm" or last is not None
    partial = left.new_empty((tiles_n if sums else 0, num, samples), dtype=torch.float32)
    with torch.cuda.device_of(left):
        bank_product[(tiles_m * tiles_n * num,)](
            left, weight, bias, words, drop, last, row_scale, out, gated, partial if sums else None,
            num, samples, columns, reduction, left.stride(0) if left.dim() == 3 else 0, slope,
            EPILOGUE=epilogue, TRANSPOSED=transposed, LEAKY=slope != 0,
            BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=tile.reduction, **_options(left, tile),
        )  # fmt: skip
    return partial.sum(dim=0) if sums else partial


def outer(
    gates: Tensor, hidden: Tensor, direction: Tensor | None, grad_logits: Tensor, grad_gains: Tensor, out: Tensor
) -> None:
    """`bank_outer` into ``out``: a weight's gradient (M, H_l, H_{l-1}), from v_l, h_{l-1} and t_{l-1}."""
    num, rows, columns = out.shape
    amplitude = None
    if gates.dtype == torch.float16:
        # What comes from p = 1e-6 would vanish in float16, and what a gradient scaler multiplied would overflow.
        amplitude = torch.maximum(grad_logits.abs(), grad_gains.abs()).amax(dim=1)
        amplitude = torch.where(amplitude == 0, 1.0, amplitude)
        grad_logits, grad_gains = grad_logits / amplitude[:, None], grad_gains / amplitude[:, None]
    kind = _kind((rows, columns), gates, hidden, direction)
    tile = choose_bank_tile("outer", kind, rows, columns, num, layout.capability(gates))
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) * num,)
    with torch.cuda.device_of(gates):
        bank_outer[grid](
            gates, hidden, direction, grad_logits, grad_gains, amplitude, out,
            gates.shape[1], rows, columns, hidden.stride(0) if hidden.dim() == 3 else 0,
            BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=tile.reduction, **_options(gates, tile),
        )  # fmt: skip


def sum_weighted(
    first: Tensor,
    second: Tensor | None,
    first_weight: Tensor,
    second_weight: Tensor | None,
    out: Tensor,
    strides: tuple[int, int, int, int],
    *,
    accumulate: bool = False,
) -> None:
    """`weighted_sum` into ``out``, whose first axis is the batch; the axis of ``first`` that is not is summed over."""
    columns = first.shape[2]
    terms = first.shape[0] * first.shape[1] // out.shape[0]
    grid = (triton.cdiv(columns, SUM_BLOCK[1]) * out.shape[0],)
    with torch.cuda.device_of(first):
        weighted_sum[grid](
            first, second, first_weight, second_weight, out, terms, columns, *strides,
            ACCUMULATE=accumulate, BLOCK_T=SUM_BLOCK[0], BLOCK_N=SUM_BLOCK[1],
            num_warps=SUM_WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def _precision(dtype: torch.dtype) -> str:
    """tl.dot's ``input_precision``: "tf32" for float32 where torch allows it in its own matrix products."""
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed and dtype == torch.float32 else "ieee"


def _options(tensor: Tensor, tile: Tile) -> dict[str, object]:
    return {
        "PRECISION": _precision(tensor.dtype),
        "WIDEN": layout.widen(tensor.dtype),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "maxnreg": REGISTERS,
        # float32 without TF32 runs on fused multiply-adds; Triton 3.10 no longer fuses by default.
        "enable_fp_fusion": True,
    }


def _kind(sizes: tuple[int, int], *operands: Tensor | None) -> str:
    """The `dynconv.kernels.layout.arithmetic` of a product of operands whose rows are as long as ``sizes`` say."""
    tensors = [tensor for tensor in operands if tensor is not None]
    dtype = tensors[0].dtype
    return layout.arithmetic(dtype, _precision(dtype), *sizes, *(tensor.data_ptr() for tensor in tensors))

"""Triton forward and input gradient of `dynamic_conv2d` in the linear form.

    y_b = s_b * conv(x_b, W0) + sum_i pi_bi conv(x_b, Phi_i) + bias          (DRT eq. 2 to 5)

One launch, an implicit GEMM: a row is a pixel, a column an output channel, the reduction runs over taps and input
channels. The pixels of several samples share a tile (s and pi are gathered per row), so 7x7 maps fill tiles as well as
56x56 ones, and a weight is read once per tile of pixels, not once per sample. Neither a per-sample weight nor a
per-basis output reaches DRAM.

Mixing. Each conv(x, Phi_i) is summed in a float32 accumulator of its own and joins the result times pi_bi in float32.
Scaling the input rows by pi_bi instead would need one accumulator less, but rounds pi*x to the input's dtype (2^-9
relative in bfloat16, for each product) and takes the left operand of each product through registers. Likewise s
multiplies the static accumulator in registers, before the bases.

Input gradient: the same kernel. The source is dy, the reduction runs over output channels, and a row is an input pixel,
which gathers the output pixels that read it: no atomics, a fixed summation order. Under a stride an input pixel meets
only the taps of its residue class; each class is a phase of the grid with its own taps, so strided layers do 1x the
work and not stride^2 times. There s lies along the reduction, so dy*s is formed in float32 and rounded to dy's dtype.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynconv.kernels.tiles import REGISTERS, choose_tile

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Elements that 32-bit offsets span.
NARROW_REACH = 2**31
# A quarter of that: positions run past a sample's and a weight's end by padding, dilation and one tile.
LIMIT = 2**29


@triton.jit
def _walk(phase, size, stride, padding, dilation, tap_step, GRADIENT: tl.constexpr):
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
    weight, column, reduction, columns, kernel_h, kernel_w, phase_h, phase_w,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tap_step_h, tap_step_w, scale, scale_offset,
    GRADIENT: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr, OFFSET: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """acc (BLOCK_M, BLOCK_N) += the convolution of the tile's rows with one weight, channels innermost in both."""
    first_h, count_h, start_h, move_h = _walk(phase_h, kernel_h, stride_h, padding_h, dilation_h, tap_step_h, GRADIENT)
    first_w, count_w, start_w, move_w = _walk(phase_w, kernel_w, stride_w, padding_w, dilation_w, tap_step_w, GRADIENT)
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
            place = scale_offset[:, None] + k[None, :]
            s = tl.load(scale + place, mask=row_valid[:, None] & in_k[None, :], other=0.0)
            a = (a.to(tl.float32) * s.to(tl.float32)).to(a.dtype)
        tap_offset = ((first_h + tap_h * tap_step_h) * kernel_w + first_w + tap_w * tap_step_w) * weight_stride_tap
        place = k[:, None] * weight_stride_k + column[None, :] * weight_stride_n
        b = tl.load(weight + tap_offset + place, mask=in_k[:, None] & (column < columns)[None, :], other=0.0)
        if WIDEN:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit(
    do_not_specialize=[
        "batch", "source_h", "source_w", "out_h", "out_w", "groups", "num_bases", "kernel_h", "kernel_w",
        "basis_h", "basis_w", "stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w",
        "tap_step_h", "tap_step_w",
    ]
)  # fmt: skip
def _linear(
    source, weight, bias, scale, basis, coefficients, out,
    batch, source_h, source_w, out_h, out_w,
    source_stride_b, source_stride_h, source_stride_w, out_stride_b, out_stride_c, out_stride_h, out_stride_w,
    reduction, columns, groups, num_bases, kernel_h, kernel_w, basis_h, basis_w,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    GRADIENT: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """source, out: x, y in the forward, dy, dx in the gradient. reduction, columns: their channels per group."""
    pid = tl.program_id(0).to(tl.int64)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    # Columns and groups vary fastest: neighbouring programs read the same pixels.
    tile_n = (pid % tiles_n).to(tl.int32)
    group = pid // tiles_n % groups
    tile = pid // tiles_n // groups
    if GRADIENT:
        in_channels = columns
        out_channels = reduction
        rows_h = (out_h + stride_h - 1) // stride_h
        rows_w = (out_w + stride_w - 1) // stride_w
        tiles_m = (batch.to(tl.int64) * rows_h * rows_w + BLOCK_M - 1) // BLOCK_M
        phase = (tile // tiles_m).to(tl.int32)
        tile = tile % tiles_m
        phase_h = phase // stride_w
        phase_w = phase % stride_w
        step_h = 1
        step_w = 1
    else:
        in_channels = reduction
        out_channels = columns
        rows_h = out_h
        rows_w = out_w
        phase_h = 0
        phase_w = 0
        step_h = stride_h
        step_w = stride_w
    pixels = rows_h * rows_w

    # 64-bit offsets to the tile's first sample, OFFSET within the tile: 32 bits halve the registers of its addresses.
    first_row = tile * BLOCK_M
    first_sample = first_row // pixels
    row = (first_row - first_sample * pixels).to(tl.int32) + tl.arange(0, BLOCK_M)
    sample = row // pixels
    pixel = row % pixels
    row_h = pixel // rows_w
    row_w = pixel % rows_w
    row_valid = first_sample + sample < batch
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
        acc = _accumulate(
            acc, source, row_offset, row_h * step_h, row_w * step_w, row_valid,
            source_h, source_w, source_stride_h, source_stride_w,
            weight + group_offset * (kernel_h * kernel_w), column, reduction, columns, kernel_h, kernel_w,
            phase_h, phase_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
            scale, scale_offset, GRADIENT, PRECISION, WIDEN, OFFSET, BLOCK_K,
        )  # fmt: skip
        if scale is not None and not GRADIENT:
            place = scale_offset[:, None] + column[None, :]
            acc *= tl.load(scale + place, mask=row_valid[:, None] & in_columns[None, :], other=0.0).to(tl.float32)
    if basis is not None:
        # The basis sits at the kernel's centre: a convolution of its own with less padding (1x1: the centre tap).
        basis_padding_h = padding_h - dilation_h * ((kernel_h - basis_h) // 2)
        basis_padding_w = padding_w - dilation_w * ((kernel_w - basis_w) // 2)
        basis += group_offset * (basis_h * basis_w)
        basis_stride = groups.to(tl.int64) * out_channels * in_channels * basis_h * basis_w
        coefficients += first_sample * num_bases
        for i in range(num_bases):
            part = _accumulate(
                tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32), source, row_offset, row_h * step_h, row_w * step_w,
                row_valid, source_h, source_w, source_stride_h, source_stride_w,
                basis + i * basis_stride, column, reduction, columns, basis_h, basis_w,
                phase_h, phase_w, stride_h, stride_w, basis_padding_h, basis_padding_w, dilation_h, dilation_w,
                tap_step_h, tap_step_w, None, scale_offset, GRADIENT, PRECISION, WIDEN, OFFSET, BLOCK_K,
            )  # fmt: skip
            pi = tl.load(coefficients + i + sample.to(OFFSET) * num_bases, mask=row_valid, other=0.0)
            acc += part * pi.to(tl.float32)[:, None]
    if bias is not None:
        acc += tl.load(bias + group * columns + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]

    if GRADIENT:
        row_h = row_h * stride_h + phase_h
        row_w = row_w * stride_w + phase_w
        row_valid = row_valid & (row_h < out_h) & (row_w < out_w)
    out += first_sample * out_stride_b + group * columns * out_stride_c
    offset = sample.to(OFFSET) * out_stride_b + row_h.to(OFFSET) * out_stride_h + row_w.to(OFFSET) * out_stride_w
    place = offset[:, None] + (column.to(OFFSET) * out_stride_c)[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=row_valid[:, None] & in_columns[None, :])


INTERPRETED = not isinstance(_linear, triton.JITFunction)


def reasons(
    x: Tensor,
    weight: Tensor | None,
    basis: Tensor | None,
    scale: Tensor | None,
    coefficients: Tensor | None,
    groups: int,
) -> list[str]:
    """Why the kernels cannot run these tensors, one sentence each; empty where they can."""
    found = []
    for name, tensor in {"weight": weight, "basis": basis, "scale": scale, "coefficients": coefficients}.items():
        if tensor is not None and tensor.device != x.device:
            found.append(f"{name} is on {tensor.device}, x on {x.device}")
    if x.device.type == "cpu" and not INTERPRETED:
        found.append("x is on the CPU, where Triton runs only with TRITON_INTERPRET=1 set before its first import")
    elif x.device.type not in ("cpu", "cuda"):
        found.append(f"x is on {x.device}; the kernels run on CUDA devices")
    elif x.device.type == "cuda" and not INTERPRETED and _capability(x) < 80:
        found.append(f"{x.device} has compute capability {_capability(x) / 10}; the kernels need 8.0")
    if x.dtype not in DTYPES:
        found.append(f"x has dtype {x.dtype}; the kernels take {', '.join(map(str, DTYPES))} and sum in float32")
    for name, tensor in {"weight": weight, "basis": basis}.items():
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            found.append(f"{name} has dtype {tensor.dtype}, x has {x.dtype}")
        if tensor.shape[1] * groups != x.shape[1]:
            found.append(f"{name} has {tensor.shape[1]} channels for each of {groups} groups, x {x.shape[1]} in all")
        if tensor.numel() >= LIMIT:
            found.append(f"{name} has {tensor.numel()} elements; the kernels take fewer than {LIMIT}")
    if x.shape[2] * x.shape[3] >= LIMIT:
        found.append(f"x has {x.shape[2] * x.shape[3]} pixels a sample; the kernels take fewer than {LIMIT}")
    return found


def _capability(tensor: Tensor) -> int:
    """The device's compute capability times ten, as the tiles see it; 80 for the interpreter, which any tile suits."""
    if tensor.device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(tensor.device)
    # sm_120 has neither wgmma nor tcgen05, and 99 KiB of shared memory: it takes the tiles of sm_80.
    return 80 if major == 12 else 10 * major + minor


def _static(weight: Tensor | None, basis: Tensor | None) -> Tensor:
    """The tensor that sets the kernel's size: W0, or where there is none the basis."""
    if weight is not None:
        return weight
    if basis is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    return basis


def _channels_innermost(tensor: Tensor) -> Tensor:
    """The tensor itself where neighbouring channels are neighbours in memory, else a channels_last copy.

    The copy is one pass; reading NCHW in place would make every load of the kernel, one per tap and basis, uncoalesced.
    """
    if tensor.shape[1] == 1 or tensor.stride(1) == 1:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def _dense(weight: Tensor | None) -> Tensor | None:
    """(Cout, Cin, kh, kw) stored as (Cout, kh, kw, Cin): a block of the reduction is one contiguous read per column."""
    return None if weight is None else weight.contiguous(memory_format=torch.channels_last)


def _empty(size: tuple[int, ...], source: Tensor, kernel: Tensor) -> Tensor:
    """An output, channels_last where the source or the kernel is; contiguous where that is ambiguous (one channel)."""
    last = any(t.stride(1) == 1 and t.shape[1] > 1 and not t.is_contiguous() for t in (source, kernel))
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(size, dtype=source.dtype, device=source.device, memory_format=memory_format)


def _kind(source: Tensor, reduction: int, columns: int, precision: str) -> str:
    """Which tiles suit: by arithmetic, and whether 16 channels at a time can be loaded as one (Triton's own test)."""
    numbers = (reduction, columns, source.data_ptr(), *(source.stride(axis) for axis in (0, 2, 3)))
    ragged = any(number % 16 for number in numbers)
    if source.dtype == torch.float32 and precision == "ieee":
        return "ragged float32" if ragged else "float32"
    return "ragged" if ragged else "tf32" if source.dtype == torch.float32 else "half"


def _launch(
    source: Tensor,
    out: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    basis: Tensor | None,
    coefficients: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    *,
    gradient: bool,
) -> Tensor:
    if out.numel() == 0:
        return out
    source, weight, basis = _channels_innermost(source), _dense(weight), _dense(basis)
    kernel_size = _static(weight, basis).shape[2:]
    basis_size = kernel_size if basis is None else basis.shape[2:]
    batch, channels, source_h, source_w = source.shape
    _, out_channels, out_h, out_w = out.shape
    reduction, columns = channels // groups, out_channels // groups
    phases = stride[0] * stride[1] if gradient else 1
    pixels = triton.cdiv(out_h, stride[0]) * triton.cdiv(out_w, stride[1]) if gradient else out_h * out_w
    # torch's own switch; the older `allow_tf32` cannot be read once the newer one was set.
    tf32 = source.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    precision = "tf32" if tf32 else "ieee"
    tile = choose_tile(
        _kind(source, reduction, columns, precision),
        batch * pixels * phases,
        columns,
        reduction,
        groups,
        _capability(source),
    )
    # Elements that the samples of one tile span, in the source, the output and the scale.
    reach = (tile.rows // pixels + 2) * max(source.stride(0), out.stride(0), channels)
    # An output position meets every tap; under a stride, an input position meets every tap_step-th one.
    tap_steps = [s // math.gcd(s, d) if gradient else 1 for s, d in zip(stride, dilation, strict=True)]
    grid = (triton.cdiv(batch * pixels, tile.rows) * triton.cdiv(columns, tile.columns) * groups * phases,)
    with torch.cuda.device_of(source):
        _linear[grid](
            source,
            weight,
            None if bias is None else bias.contiguous(),
            None if scale is None else scale.contiguous(),
            basis,
            None if coefficients is None else coefficients.contiguous(),
            out,
            batch,
            source_h,
            source_w,
            out_h,
            out_w,
            source.stride(0),
            source.stride(2),
            source.stride(3),
            *out.stride(),
            reduction,
            columns,
            groups,
            0 if coefficients is None else coefficients.shape[1],
            *kernel_size,
            *basis_size,
            *stride,
            *padding,
            *dilation,
            *tap_steps,
            GRADIENT=gradient,
            PRECISION=precision,
            # Triton 3.9's interpreter would multiply the bit patterns of bfloat16 operands, as unsigned integers.
            WIDEN=INTERPRETED and source.dtype == torch.bfloat16,
            OFFSET=tl.int32 if reach < NARROW_REACH else tl.int64,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.columns,
            BLOCK_K=tile.reduction,
            num_warps=tile.warps,
            num_stages=tile.stages,
            maxnreg=REGISTERS,
            # float32 without TF32 runs on fused multiply-adds; Triton 3.10 no longer fuses by default.
            enable_fp_fusion=True,
        )
    return out


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    basis: Tensor | None,
    coefficients: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """y (B, Cout, Hout, Wout) of `dynamic_conv2d`, in x's dtype; channels_last where x or the kernel is.

    Arguments are as `dynconv.functional.dynamic_conv2d` checks them; `reasons` tells which the kernels do not take.
    """
    static = _static(weight, basis)
    num_bases = 1 if coefficients is None else coefficients.shape[1]
    out_channels = static.shape[0] if weight is not None else static.shape[0] // num_bases
    out_size = (
        (size + 2 * pad - dil * (kernel - 1) - 1) // step + 1
        for size, pad, dil, kernel, step in zip(x.shape[2:], padding, dilation, static.shape[2:], stride, strict=True)
    )
    out = _empty((x.shape[0], out_channels, *out_size), x, static)
    return _launch(x, out, weight, bias, scale, basis, coefficients, stride, padding, dilation, groups, gradient=False)


def input_gradient(
    dy: Tensor,
    weight: Tensor | None,
    scale: Tensor | None,
    basis: Tensor | None,
    coefficients: Tensor | None,
    input_size: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """dx of shape `input_size` (B, Cin, H, W), in the dtype of dy (B, Cout, Hout, Wout).

    channels_last where dy or the kernel is.
    """
    out = _empty(tuple(input_size), dy, _static(weight, basis))
    return _launch(dy, out, weight, None, scale, basis, coefficients, stride, padding, dilation, groups, gradient=True)

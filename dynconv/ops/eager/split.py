"""*split*: the static part by the vendor's convolution, a 1x1 residual as one batched matrix product added in place.

With R_b = sum_i pi_bi Phi_i, y_b = s_b * conv(x_b, W0) + R_b x_b: per sample R_b is k*k times smaller than W0, so
forming it costs little, and the product adds 1/(k*k) of the convolution's work.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dynconv.ops.problem import Gradients, Mask, Problem, channel_sum, is_channels_last, pixel_dot, scaled, unviewed

# Samples are taken in chunks whose (Cout, Cin) products fit a cache of this many bytes: dPhi and dpi read them at once.
_CHUNK_BYTES = 1 << 23


class _Window(NamedTuple):
    """Where the centre tap falls: output pixels ``out`` read input pixels ``inp`` of the same count, per axis."""

    out: tuple[slice, slice]
    inp: tuple[slice, slice]
    is_whole: bool


def _window(problem: Problem) -> _Window:
    out: list[slice] = []
    inp: list[slice] = []
    whole = True
    for axis in (0, 1):
        size, outputs, stride = problem.x.shape[2 + axis], problem.output_size[axis], problem.stride[axis]
        offset = problem.dilation[axis] * (problem.kernel_size[axis] - 1) // 2 - problem.padding[axis]
        first = max(0, -(offset // stride))
        last = max(first, min(outputs, (size - 1 - offset) // stride + 1))
        start = first * stride + offset
        out.append(slice(first, last))
        inp.append(slice(start, start + (last - first - 1) * stride + 1, stride) if last > first else slice(0, 0))
        whole = whole and first == 0 and last == outputs
    return _Window((out[0], out[1]), (inp[0], inp[1]), whole)


def _crop(tensor: Tensor, window: tuple[slice, slice]) -> Tensor:
    return tensor[:, :, window[0], window[1]]


def _pixels(tensor: Tensor, groups: int, channels_last: bool) -> Tensor:
    """(B, C, H, W) -> (B*groups, C/groups, H*W), a view where the memory allows one."""
    batch, channels, height, width = tensor.shape
    if channels_last:
        rows = tensor.permute(0, 2, 3, 1).reshape(batch, height * width, groups, channels // groups)
        return rows.permute(0, 2, 3, 1).reshape(batch * groups, channels // groups, height * width)
    return tensor.reshape(batch * groups, channels // groups, height * width)


def _add_product(target: Tensor, left: Tensor, right: Tensor, groups: int) -> None:
    """target += left @ right, where target is (B, C, H, W) of any strides and the product (B*groups, C/groups, H*W)."""
    channels_last = is_channels_last(target)
    dense = target.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    batch, channels, height, width = target.shape
    if dense and not channels_last:
        target.view(batch * groups, channels // groups, height * width).baddbmm_(left, right)
    elif dense and groups == 1:
        # The transposed product writes rows of channels, the order in which this memory lies.
        rows = target.permute(0, 2, 3, 1).view(batch, height * width, channels)
        rows.baddbmm_(right.transpose(1, 2), left.transpose(1, 2))
    else:
        target += torch.bmm(left, right).view(target.shape)


def _residual_weight(problem: Problem) -> Tensor:
    """R_b = sum_i pi_bi Phi_i as (B*groups, Cout/groups, Cin/groups), mixed in the accumulation dtype."""
    mixed = problem.mixing() @ problem.bases().to(problem.accumulation_dtype)
    batch, inputs = problem.x.shape[0], problem.x.shape[1] // problem.groups
    return mixed.to(problem.x.dtype).view(batch * problem.groups, problem.out_channels // problem.groups, inputs)


def forward(problem: Problem, keep_static: bool) -> tuple[Tensor, Tensor | None]:
    """y (B, Cout, Hout, Wout), and conv(x, W0) where the scale's gradient will want it (``keep_static``)."""
    static: Tensor | None = None
    if problem.weight is not None:
        bias = problem.bias if problem.scale is None else None
        static = problem.convolve(problem.x, problem.weight, bias).contiguous(memory_format=problem.memory_format)
        y = static
        if problem.scale is not None:
            y = scaled(static, problem.scale) if keep_static else static.mul_(problem.scale[:, :, None, None])
            if problem.bias is not None:
                y += problem.bias[:, None, None]
    else:
        shape = (problem.x.shape[0], problem.out_channels, *problem.output_size)
        y = torch.zeros(shape, dtype=problem.x.dtype, device=problem.x.device)
        y = y.contiguous(memory_format=problem.memory_format)
        if problem.bias is not None:
            y += problem.bias[:, None, None]
    if problem.basis is not None:
        window = _window(problem)
        pixels = _pixels(_crop(problem.x, window.inp), problem.groups, is_channels_last(problem.x))
        target = y if window.is_whole else _crop(y, window.out)
        _add_product(target, _residual_weight(problem), pixels, problem.groups)
    return y, static if keep_static else None


def backward(problem: Problem, grad: Tensor, static: Tensor | None, mask: Mask) -> Gradients:
    """Gradients for ``grad`` (B, Cout, Hout, Wout); ``static`` is conv(x, W0), computed again if None."""
    dx = dweight = dscale = dbasis = dcoefficients = None
    if problem.weight is not None:
        into_static = scaled(grad, problem.scale) if mask.x or mask.weight else grad
        dx, dweight = problem.convolve_backward(into_static, problem.x, problem.weight, (mask.x, mask.weight))
    elif mask.x:
        dx = torch.zeros_like(problem.x)
    if mask.scale and problem.weight is not None:
        if static is None:
            static = problem.convolve(problem.x, problem.weight)
        dscale = pixel_dot(grad, static, problem.accumulation_dtype)
    if problem.basis is not None and (mask.x or mask.basis or mask.coefficients):
        window = _window(problem)
        rows = _pixels(_crop(grad, window.out), problem.groups, is_channels_last(grad))
        if dx is not None:
            into = dx if dx.shape == _crop(dx, window.inp).shape else _crop(dx, window.inp)
            _add_product(into, _residual_weight(problem).transpose(1, 2), rows, problem.groups)
        if mask.basis or mask.coefficients:
            columns = _pixels(_crop(problem.x, window.inp), problem.groups, is_channels_last(problem.x))
            dbasis, dcoefficients = _parameter_gradients(problem, rows, columns, mask)
    dbias = channel_sum(grad) if mask.bias else None
    return Gradients(dx, dweight, dbias, dscale, dbasis, dcoefficients)


def _parameter_gradients(
    problem: Problem, rows: Tensor, columns: Tensor, mask: Mask
) -> tuple[Tensor | None, Tensor | None]:
    """dPhi_i = sum_b pi_bi G_b and dpi_bi = <Phi_i, G_b> with G_b = dy_b x_b^T, a chunk of samples at a time."""
    batch, dtype = problem.x.shape[0], problem.accumulation_dtype
    mixing, bases = problem.mixing(), problem.bases().to(dtype)
    dbases = torch.zeros_like(bases) if mask.basis else None
    dmixing = torch.empty_like(mixing) if mask.coefficients else None
    chunk = max(1, _CHUNK_BYTES // (bases.shape[1] * bases.element_size()))
    for start in range(0, batch, chunk):
        samples = slice(start, min(start + chunk, batch))
        grouped = slice(samples.start * problem.groups, samples.stop * problem.groups)
        products = torch.bmm(rows[grouped], columns[grouped].transpose(1, 2))
        products = products.to(dtype).view(samples.stop - samples.start, -1)
        if dbases is not None:
            dbases.addmm_(mixing[samples].t(), products)
        if dmixing is not None:
            torch.mm(products, bases.t(), out=dmixing[samples])
    dbasis = unviewed(dbases, problem.basis.shape) if dbases is not None and problem.basis is not None else None
    return dbasis, dmixing

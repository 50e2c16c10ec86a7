"""*linear*: one whole-batch convolution per basis, its output weighted by pi_i and added (the form DRT released).

K + 1 times the arithmetic, but each weight is read once for the batch. It uses plain differentiable operators, so it
is also the form that :mod:`torch.export` and ONNX get, with a dynamic batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.ops.problem import Gradients, Mask, Problem, channel_sum, pixel_dot, scaled


def _taps(problem: Problem) -> tuple[slice, slice, tuple[int, int]]:
    """The rows and columns of the input, and the padding, with which a basis is convolved.

    A 1x1 basis stands at the centre tap, ``offset`` input pixels from the kernel's reach: as much is cropped on each
    side where the padding falls short of it, and as much padded where it goes beyond; then the output size is the
    kernel's.
    """
    if problem.basis is None or problem.basis.shape[2:] == problem.kernel_size:
        return slice(None), slice(None), problem.padding
    offsets = [problem.dilation[i] * (problem.kernel_size[i] - 1) // 2 - problem.padding[i] for i in (0, 1)]
    rows, columns = (slice(max(0, offsets[i]), problem.x.shape[2 + i] - max(0, offsets[i])) for i in (0, 1))
    return rows, columns, (max(0, -offsets[0]), max(0, -offsets[1]))


def _basis_output(problem: Problem, phi: Tensor) -> Tensor:
    """conv(x, Phi_i), (B, Cout, Hout, Wout)."""
    rows, columns, padding = _taps(problem)
    x = problem.x[:, :, rows, columns]
    return torch.conv2d(x, phi, None, problem.stride, padding, problem.dilation, problem.groups)


def forward(problem: Problem) -> Tensor:
    """y (B, Cout, Hout, Wout), differentiable by torch; summed in the accumulation dtype."""
    dtype = problem.accumulation_dtype
    y: Tensor | None = None
    if problem.weight is not None:
        y = problem.convolve(problem.x, problem.weight).to(dtype)
        if problem.scale is not None:
            y = y * problem.scale.to(dtype)[:, :, None, None]
    if problem.basis is not None:
        mixing = problem.mixing()
        for phi, share in zip(problem.basis.chunk(problem.num_bases), mixing.unbind(1), strict=True):
            part, share = _basis_output(problem, phi).to(dtype), share[:, None, None, None]
            y = part * share if y is None else torch.addcmul(y, part, share)
    if y is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    if problem.bias is not None:
        y = y + problem.bias.to(dtype)[:, None, None]
    return y.to(problem.x.dtype).contiguous(memory_format=problem.memory_format)


def backward(problem: Problem, grad: Tensor, mask: Mask) -> Gradients:
    """Gradients for ``grad`` (B, Cout, Hout, Wout). The outputs that pi and s need are computed again, not kept."""
    dtype = problem.accumulation_dtype
    dx = dweight = dscale = dbasis = dmixing = None
    if problem.weight is not None:
        if mask.x or mask.weight:
            into_static = scaled(grad, problem.scale)
            dx, dweight = problem.convolve_backward(into_static, problem.x, problem.weight, (mask.x, mask.weight))
        if mask.scale:
            dscale = pixel_dot(grad, problem.convolve(problem.x, problem.weight), dtype)
    if problem.basis is not None and (mask.x or mask.basis or mask.coefficients):
        dx_basis, dbasis, dmixing = _basis_gradients(problem, grad, mask)
        if dx_basis is not None:
            dx = dx_basis.to(grad.dtype) if dx is None else dx.add_(dx_basis.to(grad.dtype))
    return Gradients(dx, dweight, channel_sum(grad) if mask.bias else None, dscale, dbasis, dmixing)


def _basis_gradients(problem: Problem, grad: Tensor, mask: Mask) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if problem.basis is None:
        return None, None, None
    dtype, mixing = problem.accumulation_dtype, problem.mixing()
    rows, columns, padding = _taps(problem)
    x = problem.x[:, :, rows, columns]
    dx = torch.zeros_like(problem.x, dtype=dtype) if mask.x else None
    dbases: list[Tensor] = []
    dmixing = torch.empty_like(mixing) if mask.coefficients else None
    for index, phi in enumerate(problem.basis.chunk(problem.num_bases)):
        if dmixing is not None:
            dmixing[:, index] = pixel_dot(grad, _basis_output(problem, phi), dtype).sum(1)
        if mask.x or mask.basis:
            share = scaled(grad, mixing[:, index : index + 1])
            geometry = (problem.stride, padding, problem.dilation, False, [0, 0], problem.groups)
            part, dphi, _ = torch.ops.aten.convolution_backward(
                share, x, phi, None, *geometry, [mask.x, mask.basis, False]
            )
            if dx is not None:
                dx[:, :, rows, columns] += part
            dbases.append(dphi)
    return dx, torch.cat(dbases) if mask.basis else None, dmixing

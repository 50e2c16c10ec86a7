"""*aggregate* and *loop*: form each sample's kernel W_b = s_b W0 + sum_i pi_bi Phi_i, then convolve with it.

The arithmetic is that of one static convolution, but B kernels are written and read. *aggregate* forms all of them and
runs one convolution with B groups; *loop* forms one at a time, just before its use, so that it is still in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv.ops.problem import Gradients, Mask, Problem, channel_sum, unviewed


def _centre(problem: Problem) -> tuple[int, int]:
    kernel = problem.kernel_size
    return (kernel[0] - 1) // 2, (kernel[1] - 1) // 2


def _aggregate(problem: Problem, samples: slice) -> Tensor:
    """W_b of some samples, (b, Cout, Cin/groups, kh, kw) in the input's dtype, summed in the accumulation dtype."""
    dtype, kernel = problem.accumulation_dtype, problem.kernel_size
    shape = (-1, problem.out_channels, *problem.static.shape[1:])
    residual: Tensor | None = None
    if problem.basis is not None:
        residual = problem.mixing()[samples] @ problem.bases().to(dtype)
        residual = residual.view(-1, problem.out_channels, *problem.basis.shape[1:])
    if problem.weight is None and residual is not None:
        return residual.to(problem.x.dtype)
    static = problem.static.to(dtype).expand(problem.x[samples].shape[0], *shape[1:])
    if problem.scale is not None:
        static = static * problem.scale[samples].to(dtype)[:, :, None, None, None]
    if residual is None:
        return static.to(problem.x.dtype)
    if residual.shape[-2:] != kernel:
        top, left = _centre(problem)
        weights = static.clone(memory_format=torch.contiguous_format)
        weights[..., top, left] += residual[..., 0, 0]
        return weights.to(problem.x.dtype)
    return residual.add_(static).to(problem.x.dtype)


def _merge(tensor: Tensor) -> Tensor:
    """(B, C, H, W) -> (1, B * C, H, W), contiguous.

    A plain reshape of one channels_last sample keeps all strides but the batch's, and from these torch 2.15 computes a
    wrong float64 weight gradient for groups > 1.
    """
    batch, channels, height, width = tensor.shape
    return tensor.contiguous().view(1, batch * channels, height, width)


def aggregate_forward(problem: Problem) -> Tensor:
    """y (B, Cout, Hout, Wout), by one convolution with B * groups groups."""
    batch = problem.x.shape[0]
    weights = _aggregate(problem, slice(None)).flatten(0, 1)
    y = problem.convolve(_merge(problem.x), weights, None, batch * problem.groups)
    y = unviewed(y, (batch, problem.out_channels, *problem.output_size))
    if problem.bias is not None:
        y += problem.bias[:, None, None]
    return y.contiguous(memory_format=problem.memory_format)


def aggregate_backward(problem: Problem, grad: Tensor, mask: Mask) -> Gradients:
    """Gradients for ``grad`` (B, Cout, Hout, Wout); the kernels are formed again, not kept."""
    batch = problem.x.shape[0]
    weights = _aggregate(problem, slice(None)).flatten(0, 1)
    dx, dweights = problem.convolve_backward(
        _merge(grad),
        _merge(problem.x),
        weights,
        (mask.x, _wants_kernels(mask)),
        batch * problem.groups,
    )
    sums = _KernelGradients(problem, mask)
    if dweights is not None:
        sums.add(slice(0, batch), dweights.view(batch, problem.out_channels, *weights.shape[1:]))
    return sums.result(unviewed(dx, problem.x.shape) if dx is not None else None, grad)


def loop_forward(problem: Problem) -> Tensor:
    """y (B, Cout, Hout, Wout), a sample at a time."""
    shape = (problem.x.shape[0], problem.out_channels, *problem.output_size)
    y = torch.empty(shape, dtype=problem.x.dtype, device=problem.x.device, memory_format=problem.memory_format)
    for index, (x, row) in enumerate(zip(problem.x.unbind(), y.unbind(), strict=True)):
        weight = _aggregate(problem, slice(index, index + 1))[0]
        row.copy_(problem.convolve(x.unsqueeze(0), weight, problem.bias)[0])
    return y


def loop_backward(problem: Problem, grad: Tensor, mask: Mask) -> Gradients:
    """Gradients for ``grad`` (B, Cout, Hout, Wout), a sample at a time."""
    sums = _KernelGradients(problem, mask)
    dx = torch.empty_like(problem.x) if mask.x else None
    for index in range(problem.x.shape[0]):
        sample = slice(index, index + 1)
        weight = _aggregate(problem, sample)[0]
        row, dweight = problem.convolve_backward(
            grad[sample], problem.x[sample], weight, (mask.x, _wants_kernels(mask))
        )
        if dx is not None and row is not None:
            dx[sample] = row
        if dweight is not None:
            sums.add(sample, dweight.unsqueeze(0))
    return sums.result(dx, grad)


def _wants_kernels(mask: Mask) -> bool:
    return mask.weight or mask.scale or mask.basis or mask.coefficients


class _KernelGradients:
    """Contracts dW_b, a few samples at a time, into the gradients of W0, s, Phi and pi."""

    def __init__(self, problem: Problem, mask: Mask) -> None:
        self.problem, self.mask, dtype = problem, mask, problem.accumulation_dtype
        batch, device = problem.x.shape[0], problem.x.device
        self.static = problem.weight.to(dtype) if problem.weight is not None else None
        self.bases = problem.bases().to(dtype) if problem.basis is not None else None
        self.mixing = problem.mixing() if problem.coefficients is not None else None
        self.scale = problem.scale.to(dtype) if problem.scale is not None else None
        self.dstatic = torch.zeros_like(self.static) if mask.weight and self.static is not None else None
        self.dbases = torch.zeros_like(self.bases) if mask.basis and self.bases is not None else None
        self.dmixing = torch.empty_like(self.mixing) if mask.coefficients and self.mixing is not None else None
        shape = (batch, problem.out_channels)
        self.dscale = torch.empty(shape, dtype=dtype, device=device) if mask.scale else None

    def add(self, samples: slice, dweights: Tensor) -> None:
        """Take dW_b (b, Cout, Cin/groups, kh, kw) of ``samples``."""
        dweights = dweights.to(self.problem.accumulation_dtype)
        rows = dweights.flatten(2).flatten(0, 1)
        if self.dstatic is not None:
            if self.scale is None:
                self.dstatic += dweights.sum(0)
            else:
                self.dstatic += torch.einsum("bo,boikl->oikl", self.scale[samples], dweights)
        if self.dscale is not None and self.static is not None:
            self.dscale[samples] = torch.einsum("boikl,oikl->bo", dweights, self.static)
        if self.bases is None or self.mixing is None:
            return
        if self.problem.residual_is_pointwise and self.problem.kernel_size != (1, 1):
            top, left = _centre(self.problem)
            rows = dweights[..., top, left]
        flat = rows.reshape(dweights.shape[0], -1)
        if self.dbases is not None:
            self.dbases.addmm_(self.mixing[samples].t(), flat)
        if self.dmixing is not None:
            torch.mm(flat, self.bases.t(), out=self.dmixing[samples])

    def result(self, dx: Tensor | None, grad: Tensor) -> Gradients:
        basis = self.problem.basis
        dbasis = unviewed(self.dbases, basis.shape) if self.dbases is not None and basis is not None else None
        dbias = channel_sum(grad) if self.mask.bias else None
        return Gradients(dx, self.dstatic, dbias, self.dscale, dbasis, self.dmixing)

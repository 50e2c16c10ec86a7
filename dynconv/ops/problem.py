"""What every strategy works on: the tensors of one call, its geometry, and the gradients asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]


class Gradients(NamedTuple):
    """One gradient per differentiable input, ``None`` where it was not asked for."""

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    scale: Tensor | None = None
    basis: Tensor | None = None
    coefficients: Tensor | None = None


class Mask(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    weight: bool
    bias: bool
    scale: bool
    basis: bool
    coefficients: bool


@dataclass(frozen=True)
class Problem:
    """The arguments of one dynamic convolution, checked; shapes as in :func:`dynconv.functional.dynamic_conv2d`.

    A dataclass and not a NamedTuple, for Dynamo of torch 2.10 traces no property of the latter.
    """

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    scale: Tensor | None
    basis: Tensor | None
    coefficients: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def static(self) -> Tensor:
        """W0, or where there is none the basis, which then has the kernel's size."""
        static = self.weight if self.weight is not None else self.basis
        if static is None:
            raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
        return static

    @property
    def kernel_size(self) -> Pair:
        return self.static.shape[2], self.static.shape[3]

    @property
    def num_bases(self) -> int:
        return self.coefficients.shape[1] if self.coefficients is not None else 0

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0] if self.weight is not None else self.static.shape[0] // self.num_bases

    @property
    def residual_is_pointwise(self) -> bool:
        """True where the residual is one batched matrix product, or absent."""
        return self.basis is None or self.basis.shape[2:] == (1, 1)

    @property
    def output_size(self) -> Pair:
        kernel = self.kernel_size
        height, width = (
            (self.x.shape[2 + i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1) // self.stride[i] + 1
            for i in (0, 1)
        )
        return height, width

    @property
    def memory_format(self) -> torch.memory_format:
        """channels_last where the input or the static weight is, as in torch's own convolution."""
        channels_last = is_channels_last(self.x) or is_channels_last(self.static)
        return torch.channels_last if channels_last else torch.contiguous_format

    @property
    def accumulation_dtype(self) -> torch.dtype:
        return accumulation_dtype(self.x.dtype)

    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """The differentiable arguments, in the order of :class:`Gradients`."""
        return self.x, self.weight, self.bias, self.scale, self.basis, self.coefficients

    def geometry(self) -> tuple[Pair, Pair, Pair, int]:
        """Stride, padding, dilation and groups, in the operator's order."""
        return self.stride, self.padding, self.dilation, self.groups

    def bases(self) -> Tensor:
        """Phi as (K, Cout * Cin/groups * kb * kb): row i is Phi_i, flattened."""
        if self.basis is None:
            raise ValueError("this problem has no basis.")
        return self.basis.reshape(self.num_bases, -1)

    def mixing(self) -> Tensor:
        """pi in the accumulation dtype."""
        if self.coefficients is None:
            raise ValueError("this problem has no coefficients.")
        return self.coefficients.to(self.accumulation_dtype)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int | None = None) -> Tensor:
        """A static convolution with this problem's stride, padding and dilation."""
        groups = self.groups if groups is None else groups
        return torch.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def convolve_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool], groups: int | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of :meth:`convolve` for x and weight, each only where ``wanted``."""
        if not any(wanted):
            return None, None
        groups = self.groups if groups is None else groups
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, self.dilation, False, [0, 0], groups, [*wanted, False]
        )
        return dx, dweight


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over a tensor of ``dtype`` are taken."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_is_on(device: torch.device) -> bool:
    """Whether autocast casts on this kind of device; "meta" has none, and torch raises when asked."""
    # Not by torch.amp.is_autocast_available, through which Dynamo of torch 2.10 cannot trace.
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a 4-D tensor's strides run channels first: torch's own rule, which also holds for slices."""
    smallest = 0
    for dim in (1, 3, 2, 0):
        stride = tensor.stride(dim)
        if tensor.size(dim) == 0 or stride < smallest or (dim == 0 and smallest == tensor.stride(1)):
            return False
        smallest = stride * tensor.size(dim) if tensor.size(dim) > 1 else stride
    return True


def scaled(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """``scale`` (B, C) times ``tensor`` (B, C, H, W) in the tensor's dtype, multiplied in the wider of the two."""
    if scale is None:
        return tensor
    return torch.mul(tensor, scale[:, :, None, None], out=torch.empty_like(tensor))


def channel_sum(tensor: Tensor) -> Tensor:
    """(B, C, H, W) -> (C,), in the tensor's dtype: the gradient of a bias."""
    return tensor.sum(dim=(0, 2, 3))


def pixel_dot(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C, H, W) x 2 -> (B, C): the inner product of each channel's pixels, multiplied and summed in ``dtype``."""
    return (a.to(dtype) * b).sum(dim=(2, 3))


def unviewed(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A dense tensor in another shape, and no view: autograd lets none that an operator returns be changed in place."""
    return torch.ops.aten._unsafe_view(tensor, shape)

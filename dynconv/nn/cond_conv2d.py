"""``CondConv2d``: every sample's kernel is a mixture of whole kernels, with no static one; the twin of timm's layer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynconv import functional
from dynconv.nn.dynamic_conv2d import HOOKS

_Ints = int | tuple[int, int]


class CondConv2d(nn.Module):
    """CondConv (Yang et al., NeurIPS 2019, eq. 1): y_b = conv(x_b, sum_i r_bi W_i) + sum_i r_bi b_i.

    The routing weights r come from outside, ``forward(x, routing)``, as to timm's ``CondConv2d``: several layers of a
    block share one router. Parameters have timm's names and shapes, so state_dicts go both ways.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, device, dtype: As in ``nn.Conv2d``.
        padding: An int, a pair, ``"valid"``, or ``"same"``: TensorFlow's, for any stride: the output has
            ceil(size / stride) places, and of an odd amount of zeros the larger half is below and to the right.
        num_experts: K, the number of kernels.

    Attributes:
        weight: (K, Cout * Cin/groups * kh * kw).   bias: (K, Cout) or None.

    Raises:
        ValueError: ``num_experts`` or ``groups`` out of range, or an unknown padding.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Ints,
        stride: _Ints = 1,
        padding: _Ints | str = 0,
        dilation: _Ints = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        num_experts: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_experts < 1:
            raise ValueError(f"CondConv2d: num_experts must be >= 1, got {num_experts}.")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"CondConv2d: groups must divide in_channels ({in_channels}) and out_channels ({out_channels}), "
                f"got {groups}."
            )
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"CondConv2d: padding must be 'same', 'valid', an int or a pair, got {padding!r}.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.num_experts = num_experts
        size = out_channels * (in_channels // groups) * math.prod(self.kernel_size)
        self.weight = nn.Parameter(torch.empty(num_experts, size, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(num_experts, out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each kernel and bias as ``nn.Conv2d`` draws its own: U(-b, b) with b = 1 / sqrt(Cin/groups kh kw)."""
        bound = math.sqrt(self.out_channels / self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        """x: (B, Cin, H, W); routing: (B, K), of any sign and sum. Returns (B, Cout, Hout, Wout).

        Raises:
            ValueError: Shapes do not fit.
        """
        padding: Any = self.padding
        if padding == "same":
            x, padding = F.pad(x, self._same(x)), 0
        elif padding == "valid":
            padding = 0
        kernel = (self.in_channels // self.groups, *self.kernel_size)
        if routing.dim() != 2 or routing.shape[1] != self.num_experts:
            raise ValueError(
                f"CondConv2d: routing must be (B, num_experts) = (B, {self.num_experts}), got {tuple(routing.shape)}."
            )
        y = functional.dynamic_conv2d(
            x,
            None,
            basis=self.weight.reshape(self.num_experts * self.out_channels, *kernel),
            coefficients=routing,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else y + (routing.to(self.bias.dtype) @ self.bias)[:, :, None, None]

    def _same(self, x: Tensor) -> tuple[int, int, int, int]:
        pads: list[int] = []
        for axis in (1, 0):  # F.pad takes the last axis first
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max(((size + stride - 1) // stride - 1) * stride + reach - size, 0)
            pads += [total // 2, total - total // 2]
        return pads[0], pads[1], pads[2], pads[3]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, "
            f"num_experts={self.num_experts}, bias={self.bias is not None}"
        )


def from_condconv(module: nn.Module) -> CondConv2d:
    """The twin of one of timm's ``CondConv2d``: it takes over the Parameters (not copies) and is called alike.

    Args:
        module: A ``timm.layers.CondConv2d``.

    Raises:
        TypeError: ``module`` is of another class (a subclass may compute something else).
        ValueError: ``module`` carries hooks, which a new module would drop.
    """
    kind = type(module)
    # By name, for timm need not be installed.
    if kind.__name__ != "CondConv2d" or kind.__module__.partition(".")[0] != "timm":
        raise TypeError(
            f"from_condconv: module must be a timm.layers.CondConv2d, got {kind.__module__}.{kind.__qualname__}."
        )
    if any(getattr(module, hooks) for hooks in HOOKS):
        raise ValueError("from_condconv: module carries hooks, which would be lost; remove them first.")
    source: Any = module
    twin = CondConv2d(
        source.in_channels,
        source.out_channels,
        source.kernel_size,
        source.stride,
        "same" if source.dynamic_padding else source.padding,
        source.dilation,
        source.groups,
        source.bias is not None,
        num_experts=source.num_experts,
        device=source.weight.device,
        dtype=source.weight.dtype,
    )
    twin.weight, twin.bias = source.weight, source.bias
    return twin.train(source.training)


def _pair(value: _Ints) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])

"""How the convolutions of a backbone become dynamic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from dynconv.nn import DynamicConv2d
from dynconv.nn.coefficient_branch import BranchInit, ScaleActivation
from dynconv.nn.dynamic_conv2d import Residual


@dataclass(frozen=True)
class DynamicSpec:
    """How the convolutions of a backbone become dynamic (DRT, section 3.3).

    Raises:
        ValueError: No base, no reduction, or a temperature that is no positive number.
    """

    residual: Residual = "subspace"
    """Subspace routing (eq. 4), channel attention (eq. 3) or both combined (eq. 5)."""
    num_bases: int = 4
    """K, the number of bases of the subspace (eq. 4)."""
    basis_kernel_size: Literal[1] | None = 1
    """1 for 1x1 bases at the kernel's centre, None for bases as large as the kernel."""
    reduction: int = 16
    """The branch's hidden width is max(in_channels // reduction, 4)."""
    temperature: float = 1.0
    """Of the softmax over the bases."""
    scale_activation: ScaleActivation = "sigmoid"
    """Scale of channel attention: 1 + sigmoid(z) (eq. 3), or "hard", relu6(z + 3) / 3."""
    branch_init: BranchInit = "normal"
    """Start of the branches: N(0, 0.01), or "kaiming"."""

    def __post_init__(self) -> None:
        if self.num_bases < 1:
            raise ValueError(f"num_bases: expected at least 1, got {self.num_bases}")
        if self.reduction < 1:
            raise ValueError(f"reduction: expected at least 1, got {self.reduction}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")

    def options(self) -> dict[str, Any]:
        """The fields as keyword arguments of `DynamicConv2d` and `to_dynamic`."""
        return asdict(self)

    def convolution(self, in_channels: int, out_channels: int, kernel_size: int, padding: int) -> nn.Module:
        """A `DynamicConv2d` of this description.

        Args:
            in_channels, out_channels, kernel_size, padding: As of `nn.Conv2d`.
        """
        return DynamicConv2d(in_channels, out_channels, kernel_size, padding=padding, **self.options())


def dynamic_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that dynamic convolutions add to their static twins: bases and branches, in module order.

    Args:
        module: Any module; without a dynamic convolution the list is empty.
    """
    return [
        parameter
        for convolution in module.modules()
        if isinstance(convolution, DynamicConv2d)
        for name, parameter in convolution.named_parameters()
        if name not in ("weight", "bias")
    ]

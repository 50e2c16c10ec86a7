"""Which backbones there are, and how one is built static or dynamic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from dynconv.models.lenet import LeNet, Stage, static_convolution
from dynconv.nn import DynamicConv2d

Residual = Literal["subspace", "channel", "combined"]
ScaleActivation = Literal["sigmoid", "hard"]
Norm = Literal["batch", "none"]


@dataclass(frozen=True)
class DynamicSpec:
    """How the convolutions of a backbone become dynamic (DRT, section 3.3)."""

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

    def __post_init__(self) -> None:
        if self.num_bases < 1:
            raise ValueError(f"num_bases: expected at least 1, got {self.num_bases}")
        if self.reduction < 1:
            raise ValueError(f"reduction: expected at least 1, got {self.reduction}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")

    def convolution(self, in_channels: int, out_channels: int, kernel_size: int, padding: int) -> nn.Module:
        """A `DynamicConv2d` of this description, as a `ConvFactory`."""
        return DynamicConv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=padding,
            residual=self.residual,
            num_bases=self.num_bases,
            basis_kernel_size=self.basis_kernel_size,
            reduction=self.reduction,
            temperature=self.temperature,
            scale_activation=self.scale_activation,
        )


class Network(NamedTuple):
    """A backbone and the recipe of its classifiers."""

    features: LeNet
    """Images (B, 3, 32, 32) to features (B, features.out_features)."""
    make_head: Callable[[], nn.Module]
    """A new classifier, features to scores (B, num_classes), with its own random start."""


@dataclass(frozen=True)
class _Layout:
    stages: tuple[Stage, ...]
    linear: tuple[int, ...]
    dropout: float = 0.0


_LAYOUTS = {
    # 265 k parameters, 53 MMAC per image forward: 0.09 s for a training step of 128 images on one CPU core.
    "lenet-small": _Layout((Stage(24, 5, 0, (2, 2, 0)), Stage(48, 5, 0, (2, 2, 0)), Stage(64, 3, 1)), (128,)),
    # The digits network of M3SDA (Peng et al., ICCV 2019), which DRT calls LeNet.
    "lenet-m3sda": _Layout(
        (Stage(64, 5, 2, (3, 2, 1)), Stage(64, 5, 2, (3, 2, 1)), Stage(128, 5, 2)), (3072, 2048), dropout=0.5
    ),
}
NAMES = tuple(_LAYOUTS)


def build(
    name: str,
    *,
    num_classes: int,
    dynamic: DynamicSpec | None = None,
    norm: Norm = "batch",
) -> Network:
    """A backbone from scratch.

    Args:
        name: `lenet-small` or `lenet-m3sda` (64-64-128 convolutions, 3072-2048 linear).
        num_classes: Width of each head.
        dynamic: Makes every convolution a `DynamicConv2d` of this description; None for the static network.
        norm: "none" leaves out every batch normalisation.

    Raises:
        ValueError: For an unknown name or norm, or fewer than two classes.
    """
    if name not in _LAYOUTS:
        raise ValueError(f"backbone: expected one of {', '.join(NAMES)}, got {name!r}")
    if norm not in ("batch", "none"):
        raise ValueError(f"norm: expected 'batch' or 'none', got {norm!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    layout = _LAYOUTS[name]
    features = LeNet(
        layout.stages,
        layout.linear,
        dropout=layout.dropout,
        norm=norm == "batch",
        convolution=static_convolution if dynamic is None else dynamic.convolution,
    )
    return Network(features, functools.partial(nn.Linear, features.out_features, num_classes))


def dynamic_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that dynamic convolutions add to their static twins: bases and branches, in module order."""
    return [
        parameter
        for convolution in module.modules()
        if isinstance(convolution, DynamicConv2d)
        for name, parameter in convolution.named_parameters()
        if name not in ("weight", "bias")
    ]

"""The attention branch that turns an input into the coefficients of a dynamic convolution."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from dynconv import functional

ScaleActivation = Literal["sigmoid", "hard"]
SCALE_ACTIVATIONS: tuple[ScaleActivation, ...] = ("sigmoid", "hard")
BranchInit = Literal["normal", "kaiming"]
BRANCH_INITS: tuple[BranchInit, ...] = ("normal", "kaiming")

# The hidden width of a 3-channel input would be 0 at DRT's reduction of 16.
MIN_HIDDEN = 4


class CoefficientBranch(nn.Module):
    """Global average pool -> FC -> ReLU -> FC -> softmax and scale activation (DRT, section 3.3 and figure 3).

    Both layers are without bias; there is no norm, so a batch of one works. The hidden width is
    ``max(in_channels // reduction, 4)``. The softmax's temperature is a buffer: it is in the state_dict, and it stays
    float32 through ``.to(dtype)``, for 1.3 is 1.296875 in bfloat16. Schedule it over a model with
    ``for m in model.modules(): if isinstance(m, CoefficientBranch): m.set_temperature(t)``.

    Args:
        in_channels: Channels C of the input.
        num_bases: K, the number of softmax coefficients; 0 for none.
        num_scales: Number of scales (the output channels of the convolution); 0 for none.
        reduction: C over the hidden width.
        temperature: Divides the logits of the softmax; > 0.
        scale_activation: ``"sigmoid"``: s = 1 + sigmoid(z), in (1, 2), the paper's 1 + Lambda.
            ``"hard"``: s = relu6(z + 3) / 3, in [0, 2] and exactly 1 at z = 0.
        init: Start of both layers. ``"normal"``: N(0, 0.01), as DRT's release. ``"kaiming"``: Kaiming-normal (fan in,
            ReLU), for narrow inputs: see ``reset_parameters``.
        device, dtype: Of ``w1`` and ``w2``.

    Attributes:
        w1: (hidden, C).
        w2: (K + num_scales, hidden): rows 0..K-1 give the softmax's logits, the others the scales.

    Raises:
        TypeError: A count is no int.
        ValueError: A count out of range, a temperature that is not positive, an unknown activation.
    """

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        num_bases: int,
        num_scales: int,
        *,
        reduction: int = 16,
        temperature: float = 1.0,
        scale_activation: ScaleActivation = "sigmoid",
        init: BranchInit = "normal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("num_bases", num_bases, 0),
            ("num_scales", num_scales, 0),
            ("reduction", reduction, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"CoefficientBranch: {name} must be an int, got {value!r}.")
            if value < least:
                raise ValueError(f"CoefficientBranch: {name} must be >= {least}, got {value}.")
        if num_bases + num_scales == 0:
            raise ValueError("CoefficientBranch: num_bases and num_scales are both 0; there is nothing to compute.")
        if scale_activation not in SCALE_ACTIVATIONS:
            raise ValueError(
                f"CoefficientBranch: scale_activation must be one of {SCALE_ACTIVATIONS}, got {scale_activation!r}."
            )
        if init not in BRANCH_INITS:
            raise ValueError(f"CoefficientBranch: init must be one of {BRANCH_INITS}, got {init!r}.")
        self.in_channels = in_channels
        self.num_bases = num_bases
        self.num_scales = num_scales
        self.scale_activation: ScaleActivation = scale_activation
        hidden = max(in_channels // reduction, MIN_HIDDEN)
        self.w1 = nn.Parameter(torch.empty(hidden, in_channels, device=device, dtype=dtype))
        self.w2 = nn.Parameter(torch.empty(num_bases + num_scales, hidden, device=device, dtype=dtype))
        self.register_buffer("temperature", torch.empty((), device=device, dtype=torch.float32))
        self.initial_temperature = temperature
        self.init: BranchInit = init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both layers as ``init`` says; the temperature is the constructor's again."""
        # The product of two layers of N(0, 0.01) is small: in a LeNet of 24, 48 and 64 channels the coefficients began
        # within 1e-4 of uniform, and Adam with an L2 penalty of 5e-4 kept them within 1e-3 for 1,000 steps, which made
        # the network a static one with an averaged basis.
        for layer in (self.w1, self.w2):
            if self.init == "normal":
                nn.init.normal_(layer, std=0.01)
            else:
                nn.init.kaiming_normal_(layer, nonlinearity="relu")
        self.set_temperature(self.initial_temperature)

    def set_temperature(self, value: float) -> None:
        """Set the softmax's temperature in place (compiled models and CUDA graphs see it without a recompilation).

        Between two steps: a backward pass whose forward pass saw the old value raises.

        Raises:
            ValueError: ``value`` is not a finite number above 0.
        """
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"CoefficientBranch: temperature must be a finite number > 0, got {value}.")
        with torch.no_grad():
            self.temperature.fill_(value)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """x: (B, C, H, W). Returns pi (B, K) or None, and s (B, num_scales) or None."""
        return functional.coefficients(
            x,
            self.w1,
            self.w2,
            num_bases=self.num_bases,
            num_scales=self.num_scales,
            temperature=self.temperature,
            scale_activation=self.scale_activation,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CoefficientBranch:
        exact = self.temperature
        super()._apply(fn, recurse)
        if self.temperature.dtype != torch.float32:
            self.temperature = exact.to(self.temperature.device)
        return self

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels} -> {self.w1.shape[0]} -> num_bases={self.num_bases}, num_scales={self.num_scales}, "
            f"scale_activation={self.scale_activation}"
        )

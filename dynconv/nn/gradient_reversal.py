"""Gradient reversal (Ganin and Lempitsky, 2015, section 3.1): identity forward, negated gradient backward."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class _Reverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return grads[0] * -weight, None


def gradient_reversal(x: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """Return x; in the backward pass its gradient is multiplied by ``-weight``.

    Args:
        x: Any floating tensor.
        weight: A number or a 0-dim tensor on x's device. No gradient flows to it. A tensor can change its value
            between calls without a recompilation under ``torch.compile``; a number is compiled in.

    Returns:
        A view of x.
    """
    if not isinstance(weight, Tensor):
        # float64, so that a float64 x sees the number as given; a 0-dim tensor does not promote a float32 gradient.
        weight = torch.tensor(weight, dtype=torch.float64)
    return _Reverse.apply(x, weight.detach())


class GradientReversal(nn.Module):
    """:func:`gradient_reversal` as a module whose ``weight`` may follow a schedule: ``reversal.weight = 0.3``.

    The weight is held in a buffer (of the module's dtype), so that a new value does not recompile a compiled model.
    Like dropout's rate it is a setting, not a state: it is not in the state_dict. Set it before the forward pass that
    should use it: autograd raises if it changes between a forward and its backward.

    Args:
        weight: Finite; the gradient is multiplied by ``-weight``.

    Raises:
        ValueError: ``weight`` is not finite.
    """

    _weight: Tensor

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("_weight", torch.empty(()), persistent=False)
        self.weight = weight

    @property
    def weight(self) -> float:
        """What the reversed gradient is multiplied by; finite, else setting it raises a ValueError."""
        return self._weight.item()

    @weight.setter
    def weight(self, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(f"GradientReversal: weight must be a finite number, got {value}.")
        with torch.no_grad():
            self._weight.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        return gradient_reversal(x, self._weight)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"

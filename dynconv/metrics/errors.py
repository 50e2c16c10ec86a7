"""What goes wrong in a measurement."""

from __future__ import annotations

from torch import Tensor


class NonFiniteError(ValueError):
    """A network gave infinities or NaN, from which nothing can be measured."""


def check_finite_values(**tensors: Tensor) -> None:
    """Raise a NonFiniteError that names the first of `tensors` with a value that is not finite."""
    for name, tensor in tensors.items():
        if count := int((~tensor.isfinite()).sum()):
            raise NonFiniteError(f"{name}: {count} of {tensor.numel()} are not finite")


class UnlabelledError(ValueError):
    """There is no labelled pixel to judge by."""

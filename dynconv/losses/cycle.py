"""Losses of CycleGAN (Zhu et al., ICCV 2017)."""

from __future__ import annotations

from torch import Tensor

from dynconv.losses.precision import widened


def least_squares(judged: Tensor, wanted: float) -> Tensor:
    """mean (D(x) - wanted)^2: what replaces the logarithms of eq. 1 (section 4), with 1 for real and 0 for translated.

    Args:
        judged: What a discriminator gives, of any shape.
        wanted: What it should have given.

    Returns:
        A scalar in float32, or float64 for float64.
    """
    return (widened(judged) - wanted).square().mean()


def absolute_difference(images: Tensor, wanted: Tensor) -> Tensor:
    """mean |x - wanted|: the cycle consistency of eq. 2, and the identity loss of section 5.2.

    Args:
        images: (B, C, H, W), of a generator.
        wanted: The same shape.

    Returns:
        A scalar in float32, or float64 for float64.
    """
    return (widened(images) - widened(wanted)).abs().mean()

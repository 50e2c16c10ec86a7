"""The two sides of ADDA's game and GAM's: the discriminator's loss, and what the encoders make of it."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from dynconv.losses.precision import widened

MappingForm = Literal["inverted", "minimax", "confusion"]


def discrimination_loss(source: Tensor, target: Tensor) -> Tensor:
    """-E_s log D - E_t log(1 - D) with D = sigmoid(logit), the probability of being of the source (ADDA, Tzeng et al.,
    CVPR 2017, the L_advD of eq. 9).

    Args:
        source: Logits of source samples, any shape.
        target: Logits of target samples, any shape.

    Returns:
        A scalar in float32, or float64 for float64 logits; 2 log 2 where D is 1/2 everywhere.
    """
    source, target = widened(source), widened(target)
    return F.softplus(-source).mean() + F.softplus(target).mean()


def mapping_loss(source: Tensor, target: Tensor, form: MappingForm) -> Tensor:
    """What the encoders minimise (ADDA, the choices of section 3.2).

    Args:
        source: Logits of source samples, any shape; "inverted" does not look at them.
        target: Logits of target samples, any shape.
        form: "inverted" labels, -E_t log D (eq. 7); "minimax", the discriminator's loss negated (eq. 6); "confusion",
            the cross entropy against a uniform distribution on both domains (eq. 8).

    Returns:
        A scalar in float32, or float64 for float64 logits.

    Raises:
        ValueError: For another form.
    """
    if form == "inverted":
        return F.softplus(-widened(target)).mean()
    if form == "minimax":
        return -discrimination_loss(source, target)
    if form == "confusion":
        return _confusion(widened(source)) + _confusion(widened(target))
    raise ValueError(f"form: expected 'inverted', 'minimax' or 'confusion', got {form!r}")


def least_squares_discrimination_loss(source: Tensor, target: Tensor) -> Tensor:
    """(E_s (D - 1)^2 + E_t D^2) / 2, where D is the discriminator's output as it is (LSGAN, Mao et al., ICCV 2017, eq.
    2 with a = 0 and b = 1; what GAM takes for segmentation).

    Args:
        source: Outputs of source samples, any shape.
        target: Outputs of target samples, any shape.

    Returns:
        A scalar in float32, or float64 for float64 outputs; 1/4 where D is 1/2 everywhere.
    """
    return ((widened(source) - 1).square().mean() + widened(target).square().mean()) / 2


def least_squares_mapping_loss(target: Tensor) -> Tensor:
    """E_t (D - 1)^2 / 2: the target's samples with the source's label (LSGAN, eq. 2 with c = 1).

    Args:
        target: Outputs of target samples, any shape.

    Returns:
        A scalar in float32, or float64 for float64 outputs.
    """
    return (widened(target) - 1).square().mean() / 2


def _confusion(logits: Tensor) -> Tensor:
    return (F.softplus(-logits) + F.softplus(logits)).mean() / 2

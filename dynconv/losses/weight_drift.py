"""How far an adapted network has gone from the one it began as (GAM: Huang, Huang and Kraehenbuehl, ECCV 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from dynconv.losses.precision import widened

DriftForm = Literal["sum", "mean"]


def weight_drift(source: Iterable[Tensor], target: Iterable[Tensor], form: DriftForm = "sum") -> Tensor:
    """||theta_s - theta_t||^2 (eq. 1 and 3), differentiable in both.

    Args:
        source: The parameters of one network.
        target: Those of the other in the same order, each of the same shape.
        form: "sum" over all weights (the paper), or the sum over the tensors of each one's "mean" (released code),
            which weighs a weight by one over the size of its tensor.

    Returns:
        A scalar in float32, or float64 for float64 parameters.

    Raises:
        ValueError: For another form, no parameter, or networks whose parameters do not pair off.
    """
    if form not in ("sum", "mean"):
        raise ValueError(f"form: expected 'sum' or 'mean', got {form!r}")
    theirs, own = list(source), list(target)
    if not own or [each.shape for each in theirs] != [each.shape for each in own]:
        raise ValueError(
            f"source, target: expected the parameters of two networks of one kind, got {len(theirs)} and {len(own)} "
            "tensors, or others in shape"
        )
    squares = [widened(one).sub(widened(other)).square() for one, other in zip(theirs, own, strict=True)]
    return torch.stack([each.mean() if form == "mean" else each.sum() for each in squares]).sum()

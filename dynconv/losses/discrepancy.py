"""How far two classifiers disagree."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dynconv.losses.precision import wide


def probabilities(scores: Tensor) -> Tensor:
    """Softmax over classes.

    Args:
        scores: (B, C) or (B, C, H, W), before the softmax, of any floating dtype.

    Returns:
        Of the same shape, in float32, or float64 for float64 scores. Half-precision scores are raised first: a mean
        over B * C small differences loses its last bits in them.
    """
    return scores.softmax(dim=1, dtype=wide(scores.dtype))


def classifier_discrepancy(first: Tensor, second: Tensor, *, distance: Literal["l1", "l2"] = "l1") -> Tensor:
    """mean over samples and classes of |softmax(first) - softmax(second)| (MCD, Saito et al., CVPR 2018, eq. 2); of
    label maps every pixel is a sample, whether it has a label or not.

    Args:
        first: Scores of one classifier, (B, C) or (B, C, H, W).
        second: Scores of the other for the same samples, of the same shape.
        distance: "l1", or "l2" for the mean of the squared differences.

    Returns:
        A scalar from 0 (the same predictions) to 2 / C, in float32, or float64 for float64 scores.

    Raises:
        ValueError: Where the scores are no matrices or maps of one shape, or for another distance.
    """
    if distance not in ("l1", "l2"):
        raise ValueError(f"distance: expected 'l1' or 'l2', got {distance!r}")
    if first.dim() not in (2, 4) or first.shape != second.shape:
        raise ValueError(
            f"first, second: expected two score matrices (B, C) or score maps (B, C, H, W) of one shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    difference = probabilities(first) - probabilities(second)
    return (difference.abs() if distance == "l1" else difference.square()).mean()

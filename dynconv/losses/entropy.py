"""Losses on the distribution of predictions."""

from __future__ import annotations

from torch import Tensor

from dynconv.losses.discrepancy import probabilities


def class_balance(scores: Tensor, *, eps: float = 1e-6) -> Tensor:
    """-mean_c log(mean_b softmax(scores)_bc + eps): smallest where a batch's predictions are spread evenly on classes.

    The term of the released code of DRT and MCD, in neither paper. Its minimum is log C (up to eps).

    Args:
        scores: (B, C).
        eps: Keeps the logarithm finite where no sample of the batch goes to a class.

    Raises:
        ValueError: Where the scores are no matrix.
    """
    if scores.dim() != 2:
        raise ValueError(f"scores: expected (B, C), got {tuple(scores.shape)}")
    return -(probabilities(scores).mean(dim=0) + eps).log().mean()

"""Losses on the distribution of predictions."""

from __future__ import annotations

from torch import Tensor

from dynconv.distributed import all_mean
from dynconv.losses.discrepancy import probabilities
from dynconv.losses.precision import wide
from dynconv.losses.rows import as_rows


def class_balance(scores: Tensor, *, eps: float = 1e-6) -> Tensor:
    """-mean_c log(mean_b softmax(scores)_bc + eps): smallest where a batch's predictions are spread evenly on classes.

    The term of the released code of DRT and MCD, in neither paper. Its minimum is log C (up to eps).

    Args:
        scores: (B, C), or (B, C, H, W) whose pixels are the samples; over several processes, the mean is over the
            batches of all of them.
        eps: Keeps the logarithm finite where no sample of the batch goes to a class.

    Raises:
        ValueError: Where the scores are neither a matrix nor maps.
    """
    _check(scores)
    return -(all_mean(as_rows(probabilities(scores)).mean(dim=0)) + eps).log().mean()


def conditional_entropy(scores: Tensor) -> Tensor:
    """-sum_c p_bc log p_bc of p = softmax(scores), for each sample (GSDA eq. 4; Grandvalet and Bengio, 2005).

    Args:
        scores: (B, C) or (B, C, H, W).

    Returns:
        (B,) or (B, H, W) from 0 to log C, in float32, or float64 for float64 scores.

    Raises:
        ValueError: Where the scores are neither a matrix nor maps.
    """
    _check(scores)
    logs = scores.log_softmax(dim=1, dtype=wide(scores.dtype))
    return -(logs.exp() * logs).sum(dim=1)


def _check(scores: Tensor) -> None:
    if scores.dim() not in (2, 4):
        raise ValueError(f"scores: expected (B, C) or (B, C, H, W), got {tuple(scores.shape)}")

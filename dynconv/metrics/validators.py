"""Validators: measures that need no label of the target, so that a model can be chosen by what it makes of the
target's images alone.

Those here take the class scores (N, C) of unlabelled target images; `deep_embedded_validation` also takes features and
labelled source images. All of them are computed in float64 and on the CPU, for thousands of images at most.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from dynconv.metrics.errors import check_finite_values

ValidatorName = Literal[
    "entropy",
    "information-maximisation",
    "soft-neighbourhood-density",
    "nuclear-norm",
    "deep-embedded-validation",
]
VALIDATORS: tuple[ValidatorName, ...] = get_args(ValidatorName)
LOWER_IS_BETTER: frozenset[ValidatorName] = frozenset({"entropy", "deep-embedded-validation"})


def entropy(scores: Tensor) -> float:
    """Mean entropy of the predictions in nats, 0 to log C; lower is better: the classifier is sure.

    Minimal entropy on the target chooses the model in Morerio, Cavazza and Murino, "Minimal-entropy correlation
    alignment" (ICLR 2018, section 4). It is lowest of all where one class is predicted everywhere.

    Args:
        scores: (N, C), before the softmax.

    Raises:
        ValueError: No matrix, or no sample in it.
        NonFiniteError: A score is not finite.
    """
    return _entropy(_log_probabilities(scores))


def information_maximisation(scores: Tensor) -> float:
    """Entropy of the mean prediction minus the mean entropy, in nats, 0 to log C; higher is better.

    The mutual information of image and predicted class: high where the classifier is sure of each image and uses all
    classes, so that unlike `entropy` it does not reward one class everywhere (Shi and Sha, ICML 2012, eq. 8).

    Args:
        scores: (N, C), before the softmax.

    Raises:
        ValueError: No matrix, or no sample in it.
        NonFiniteError: A score is not finite.
    """
    logs = _log_probabilities(scores)
    mean = logs.exp().mean(dim=0)
    return float(-torch.special.xlogy(mean, mean).sum()) - _entropy(logs)


def soft_neighbourhood_density(scores: Tensor, *, temperature: float = 0.05) -> float:
    """How many other images each image has close by, in nats, 0 to log(N - 1); higher is better.

    With f_i the predicted probabilities of image i, divided by their L2 norm, and P_ij the softmax over j != i of
    f_i . f_j / temperature: the mean over i of -sum_j P_ij log P_ij (Saito et al., "Tune it the right way", ICCV 2021,
    eq. 2 to 4, which takes the softmax's output for f). It, too, rewards one class predicted everywhere.

    Args:
        scores: (N, C), before the softmax; the matrix of similarities is (N, N). A single image has no neighbour: 0.
        temperature: The paper's 0.05.

    Raises:
        ValueError: No matrix, no sample in it, or a temperature that is not positive.
        NonFiniteError: A score is not finite.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected more than 0, got {temperature}")
    features = torch.nn.functional.normalize(_log_probabilities(scores).exp(), dim=1)
    if len(features) == 1:
        return 0.0
    logs = (features @ features.T).div_(temperature).fill_diagonal_(-math.inf).log_softmax(dim=1)
    # 0 log 0 of the image itself.
    logs.fill_diagonal_(0)
    return float(-logs.exp().fill_diagonal_(0).mul_(logs).sum()) / len(features)


def nuclear_norm(scores: Tensor) -> float:
    """Nuclear norm of the probabilities (N, C) over its bound sqrt(N min(N, C)), above 0 to 1; higher is better.

    1 where every prediction is sure and all classes are predicted equally often: the quantity of batch nuclear-norm
    maximisation (BNM: Cui et al., CVPR 2020, eq. 8 and the bound of section 3.3).

    Args:
        scores: (N, C), before the softmax.

    Raises:
        ValueError: No matrix, or no sample in it.
        NonFiniteError: A score is not finite.
    """
    probabilities = _log_probabilities(scores).exp()
    bound = math.sqrt(len(probabilities) * min(probabilities.shape))
    return float(torch.linalg.svdvals(probabilities).sum()) / bound


def prediction_validators(scores: Tensor) -> dict[str, float]:
    """Those of `VALIDATORS` that need the target's scores alone, by name.

    Args:
        scores: (N, C), before the softmax.

    Raises:
        ValueError: No matrix, or no sample in it.
        NonFiniteError: A score is not finite.
    """
    return {
        "entropy": entropy(scores),
        "information-maximisation": information_maximisation(scores),
        "soft-neighbourhood-density": soft_neighbourhood_density(scores),
        "nuclear-norm": nuclear_norm(scores),
    }


def _log_probabilities(scores: Tensor) -> Tensor:
    if scores.dim() != 2 or len(scores) == 0:
        raise ValueError(f"scores: expected (N, C) with at least one sample, got {tuple(scores.shape)}")
    check_finite_values(scores=scores)
    return scores.detach().cpu().double().log_softmax(dim=1)


def _entropy(logs: Tensor) -> float:
    return float(-(logs.exp() * logs).sum(dim=1).mean())

"""Each validator against its formula written out, and where its extremes are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dynconv.metrics import (
    LOWER_IS_BETTER,
    VALIDATORS,
    NonFiniteError,
    entropy,
    information_maximisation,
    nuclear_norm,
    prediction_validators,
    soft_neighbourhood_density,
)

OF_SCORES = [entropy, information_maximisation, soft_neighbourhood_density, nuclear_norm]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sure(labels: list[int], classes: int = 3) -> Tensor:
    """Scores whose softmax is one-hot in float64."""
    return torch.eye(classes)[torch.tensor(labels)] * 1e4


def test_entropy_and_information_agree_with_torchs_distributions() -> None:
    scores = normal(11, 5) * 3
    p = scores.softmax(dim=1)
    mean_entropy = torch.distributions.Categorical(p).entropy().mean().item()
    of_mean = torch.distributions.Categorical(p.mean(dim=0)).entropy().item()
    assert entropy(scores) == pytest.approx(mean_entropy, rel=1e-12)
    assert information_maximisation(scores) == pytest.approx(of_mean - mean_entropy, rel=1e-12)


def test_density_agrees_with_loops_over_the_images() -> None:
    scores = normal(9, 4)
    probabilities = scores.softmax(dim=1)
    unit = [p / p.square().sum().sqrt() for p in probabilities]
    entropies = []
    for i in range(9):
        weights = [math.exp(float(unit[i] @ unit[j]) / 0.05) for j in range(9) if j != i]
        shares = [weight / sum(weights) for weight in weights]
        entropies.append(-sum(share * math.log(share) for share in shares))
    assert soft_neighbourhood_density(scores) == pytest.approx(sum(entropies) / 9, rel=1e-12)
    assert soft_neighbourhood_density(scores, temperature=0.5) > soft_neighbourhood_density(scores)


def test_nuclear_norm_is_the_trace_of_the_root_over_its_bound() -> None:
    for shape in ((12, 4), (4, 12)):
        p = (normal(*shape) * 2).softmax(dim=1)
        values = torch.linalg.eigvalsh(p.T @ p).clamp(min=0).sqrt()
        # Rounding of the product, whose smallest values are zero for the wide matrix.
        assert nuclear_norm(p.log()) == pytest.approx(float(values.sum()) / math.sqrt(4 * shape[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "entropies", "information", "density", "norm"),
    [
        # Every class equally often: each image has one other beside it, and exp(-20) of the others.
        ([0, 1, 2, 0, 1, 2], 0.0, math.log(3), 0.0, 1.0),
        # One class everywhere: all others are as close, and the norm is sqrt(6) of at most sqrt(18).
        ([1, 1, 1, 1, 1, 1], 0.0, 0.0, math.log(5), 1 / math.sqrt(3)),
    ],
)
def test_sure_predictions(labels: list[int], entropies: float, information: float, density: float, norm: float) -> None:
    scores = sure(labels)
    assert entropy(scores) == pytest.approx(entropies, abs=1e-12)
    assert information_maximisation(scores) == pytest.approx(information, abs=1e-12)
    assert soft_neighbourhood_density(scores) == pytest.approx(density, abs=1e-6)
    assert nuclear_norm(scores) == pytest.approx(norm, rel=1e-12)


def test_an_undecided_classifier_is_worst_by_all_but_the_density() -> None:
    scores = torch.zeros(6, 3)
    assert entropy(scores) == pytest.approx(math.log(3))
    assert information_maximisation(scores) == pytest.approx(0, abs=1e-12)
    assert nuclear_norm(scores) == pytest.approx(1 / 3)
    assert soft_neighbourhood_density(scores) == pytest.approx(math.log(5))


def test_the_density_counts_the_neighbours() -> None:
    assert soft_neighbourhood_density(sure([0] * 10 + [1] * 10)) == pytest.approx(math.log(9), abs=1e-6)
    assert soft_neighbourhood_density(sure([0] * 5 + [1] * 5 + [2] * 5)) == pytest.approx(math.log(4), abs=1e-6)
    # Of 20 classes each image has its own: all others are as far.
    assert soft_neighbourhood_density(sure(list(range(20)), 20)) == pytest.approx(math.log(19))


def test_the_image_itself_is_no_neighbour() -> None:
    assert soft_neighbourhood_density(normal(1, 3)) == 0.0
    # Of two images each has the other alone, however far: with itself it would be log 2 for equal ones.
    assert soft_neighbourhood_density(sure([0, 0])) == 0.0
    assert soft_neighbourhood_density(normal(2, 3)) == 0.0


@pytest.mark.parametrize("measure", OF_SCORES)
def test_neither_order_nor_shift_nor_precision_matters(measure: Callable[[Tensor], float]) -> None:
    scores = normal(30, 4)
    value = measure(scores)
    assert measure(scores.flip(0) + 7) == pytest.approx(value, rel=1e-12)
    assert measure(scores.float()) == pytest.approx(value, rel=1e-5)
    assert measure(scores.clone().requires_grad_()) == value


@pytest.mark.parametrize("measure", OF_SCORES)
def test_scores_that_mean_nothing_are_errors(measure: Callable[[Tensor], float]) -> None:
    with pytest.raises(NonFiniteError, match="scores: 1 of 6 are not finite"):
        measure(torch.tensor([[0.0, 1, 2], [float("inf"), 1, 2]]))
    for shape in ((0, 3), (4,)):
        with pytest.raises(ValueError, match="at least one sample"):
            measure(torch.zeros(shape))
    with pytest.raises(ValueError, match="temperature"):
        soft_neighbourhood_density(torch.zeros(2, 3), temperature=0.0)


def test_every_validator_has_a_name_and_a_direction() -> None:
    good, bad = sure([0, 1, 2] * 4), normal(12, 3) * 0.1
    better, worse = prediction_validators(good), prediction_validators(bad)
    assert [*better, "deep-embedded-validation"] == list(VALIDATORS)
    for name in ("entropy", "information-maximisation", "nuclear-norm"):
        assert (better[name] < worse[name]) == (name in LOWER_IS_BETTER)
    assert set(VALIDATORS) >= LOWER_IS_BETTER == {"entropy", "deep-embedded-validation"}

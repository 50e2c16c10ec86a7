"""Losses against their formulas, written out, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from dynconv.losses import class_balance, classifier_discrepancy, cross_entropy


@pytest.fixture
def scores() -> torch.Tensor:
    return 3 * torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_discrepancy_is_the_mean_absolute_difference_of_probabilities(scores: torch.Tensor) -> None:
    other = scores.flip(0)
    total = 0.0
    for a, b in zip(scores.tolist(), other.tolist(), strict=True):
        p, q = ([math.exp(v) / sum(map(math.exp, row)) for v in row] for row in (a, b))
        total += sum(abs(x - y) for x, y in zip(p, q, strict=True))
    assert classifier_discrepancy(scores, other).item() == pytest.approx(total / 30, rel=1e-12)
    assert classifier_discrepancy(other, scores).item() == pytest.approx(total / 30, rel=1e-12)


def test_discrepancy_runs_from_zero_to_two_over_classes(scores: torch.Tensor) -> None:
    assert classifier_discrepancy(scores, scores + 7).item() == pytest.approx(0, abs=1e-15)
    sure = 1e3 * torch.eye(5, dtype=torch.float64)
    assert classifier_discrepancy(sure, sure.roll(1, 0)).item() == pytest.approx(2 / 5)


def test_half_precision_scores_give_float32_losses(scores: torch.Tensor) -> None:
    half = scores.bfloat16()
    exact = half.double()
    labels = torch.arange(6) % 5
    for loss, wanted in (
        (classifier_discrepancy(half, half.flip(0)), classifier_discrepancy(exact, exact.flip(0))),
        (class_balance(half), class_balance(exact)),
        (cross_entropy(half, labels, smoothing=0.1), cross_entropy(exact, labels, smoothing=0.1)),
    ):
        assert loss.dtype == torch.float32
        assert wanted.dtype == torch.float64
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_discrepancy_refuses_scores_that_do_not_match(scores: torch.Tensor) -> None:
    for other in (scores[:1], scores[0], scores[..., None]):
        with pytest.raises(ValueError, match="first, second: expected two score matrices"):
            classifier_discrepancy(scores, other)


def test_class_balance_is_minus_the_mean_log_of_mean_predictions(scores: torch.Tensor) -> None:
    mean = scores.softmax(1).mean(0)
    wanted = -sum(math.log(p + 1e-6) for p in mean.tolist()) / 5
    assert class_balance(scores).item() == pytest.approx(wanted, rel=1e-12)


def test_class_balance_is_least_where_predictions_are_spread(scores: torch.Tensor) -> None:
    sure = 50 * torch.eye(5, dtype=torch.float64)
    assert class_balance(sure).item() == pytest.approx(math.log(5), abs=1e-4)
    assert class_balance(sure) < class_balance(scores) < class_balance(sure[:1].expand(5, -1))
    assert class_balance(sure[:1]).isfinite()
    with pytest.raises(ValueError, match=r"scores: expected \(B, C\) or \(B, C, H, W\), got \(5,\)"):
        class_balance(sure[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.1, 0.8])
def test_smoothing_goes_to_the_other_classes_alone(scores: torch.Tensor, smoothing: float) -> None:
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    targets = torch.full((6, 5), smoothing / 4, dtype=torch.float64)
    targets[torch.arange(6), labels] = 1 - smoothing
    wanted = -(targets * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(scores, labels, smoothing=smoothing), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [-0.1, 0.81])
def test_smoothing_beyond_uniform_is_refused(scores: torch.Tensor, smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"smoothing: expected 0 to \(C - 1\) / C = 0.8 for 5 classes, got"):
        cross_entropy(scores, torch.zeros(6, dtype=torch.int64), smoothing=smoothing)

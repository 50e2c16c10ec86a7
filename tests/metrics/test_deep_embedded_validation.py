"""DEV: its control variate by hand, and what its weights know of two domains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dynconv.metrics import NonFiniteError, controlled_risk, deep_embedded_validation, density_ratio


def normal(*shape: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_risk_is_the_papers_formula() -> None:
    weights, losses = torch.tensor([0.5, 2.0, 1.0, 0.1]).double(), torch.tensor([1.0, 2.0, 3.0, 0.5]).double()
    # The mean weight is 0.9, and the risk grows with the weights: the mean alone is too low.
    w, product = weights.numpy(), (weights * losses).numpy()
    eta = -np.cov(product, w)[0, 1] / np.var(w, ddof=1)
    expected = product.mean() + eta * w.mean() - eta
    assert controlled_risk(weights, losses) == pytest.approx(expected, rel=1e-12)
    assert abs(expected - product.mean()) > 0.1


def test_equal_losses_are_the_risk_whatever_the_weights() -> None:
    weights = normal(50).exp() * 3
    assert controlled_risk(weights, torch.full((50,), 0.7, dtype=torch.float64)) == pytest.approx(0.7, rel=1e-12)


def test_where_the_weights_do_not_vary_the_weighted_mean_is_the_risk() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0]).double()
    assert controlled_risk(torch.full((3,), 2.0).double(), losses) == 6.0
    # Differences of rounding are none.
    rounded = torch.full((3,), 2.0).double() + torch.tensor([0, 4e-16, -4e-16]).double()
    assert controlled_risk(rounded, losses) == pytest.approx(6.0, rel=1e-12)
    assert controlled_risk(torch.tensor([0.25]).double(), torch.tensor([4.0]).double()) == 1.0
    assert controlled_risk(torch.zeros(3).double(), losses) == 0.0


@pytest.mark.parametrize(("weights", "losses"), [(0, 0), (1, 3)])
def test_a_risk_of_no_sample_or_of_others_than_were_weighed_is_refused(weights: int, losses: int) -> None:
    message = rf"weights, losses: expected \(N,\) each, .* got \({weights},\) and \({losses},\)"
    with pytest.raises(ValueError, match=message):
        controlled_risk(torch.ones(weights), torch.ones(losses))


def test_the_ratio_of_two_normal_distributions_is_found() -> None:
    # log p_target / p_source of N(1, 1) and N(0, 1) is x - 1/2, and 1.5 times as many of the source change nothing.
    source, target = normal(3000, 1, seed=1), normal(2000, 1, seed=2, shift=1.0)
    at = torch.linspace(-1, 2, 7).double().view(-1, 1)
    found = density_ratio(source, target, at)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.log(), at.flatten() - 0.5, rtol=0, atol=0.15)
    # Another scale of a feature is no other domain.
    torch.testing.assert_close(density_ratio(source * 1e3, target * 1e3, at * 1e3), found, rtol=1e-3, atol=0)


def test_the_weights_of_equal_domains_are_all_one() -> None:
    both = normal(400, 3)
    torch.testing.assert_close(density_ratio(both, both, normal(5, 3)), torch.ones(5).double(), rtol=1e-6, atol=0)


def test_many_features_do_not_tell_apart_what_is_the_same() -> None:
    weights = density_ratio(normal(300, 100, seed=1), normal(300, 100, seed=2), normal(300, 100, seed=3))
    assert weights.min() > 0.5 and weights.max() < 2
    assert weights.mean() == pytest.approx(1, abs=0.1)
    # Too few to choose a penalty by.
    few = density_ratio(normal(4, 100, seed=1), normal(9, 100, seed=2), normal(300, 100, seed=3))
    assert few.min() > 0.8 and few.max() < 1.25


def test_features_far_apart_give_finite_weights() -> None:
    source, target = normal(40, 8), normal(40, 8, shift=1e4)
    weights = density_ratio(source, target, torch.cat([source * 1e9, target * 1e9]))
    assert weights.isfinite().all() and weights.max() == pytest.approx(math.exp(50))


def test_an_error_near_the_target_counts_more_than_one_far_from_it() -> None:
    source, target = normal(300, 2, seed=1), normal(300, 2, seed=2, shift=1.0)
    validation = normal(200, 2, seed=3)
    labels = torch.zeros(200, dtype=torch.int64)
    near = validation.sum(dim=1) > 1

    def risk(wrong: Tensor) -> float:
        scores = torch.stack([torch.where(wrong, -2.0, 2.0), torch.zeros(200)], dim=1)
        return deep_embedded_validation(source, target, validation, scores, labels)

    far = torch.zeros(200, dtype=torch.bool)
    far[(validation.sum(dim=1)).argsort()[: int(near.sum())]] = True
    assert 20 < int(near.sum()) < 100
    assert risk(near) > 2 * risk(far)
    # Without a difference of the domains the weights are 1, and the risk is the mean loss.
    scores = normal(200, 2, seed=4)
    same = deep_embedded_validation(source, source, validation, scores, labels)
    assert same == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-3)


def test_what_cannot_be_told_is_an_error() -> None:
    good = normal(4, 2)
    with pytest.raises(ValueError, match=r"target: expected features \(N, 2\) with at least one image, got \(0, 2\)"):
        density_ratio(good, good[:0], good)
    with pytest.raises(ValueError, match=r"at: .*got \(4, 1\)"):
        density_ratio(good, good, good[:, :1])
    broken = good.clone()
    broken[1, 1] = math.nan
    with pytest.raises(NonFiniteError, match="target: 1 of 8 are not finite"):
        density_ratio(good, broken, good)
    with pytest.raises(NonFiniteError, match="scores: 1 of 8 are not finite"):
        deep_embedded_validation(good, good, good, broken, torch.zeros(4, dtype=torch.int64))

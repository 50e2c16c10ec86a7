"""Losses and accuracies of domain discriminators against their formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from dynconv.losses import conditional_entropy, domain_accuracies, domain_losses


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


DOMAINS = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])


def test_the_loss_is_the_weighted_cross_entropy_of_the_domains(logits: torch.Tensor) -> None:
    weights = torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = [0.0, 0.0]
    for i, row in enumerate(logits.tolist()):
        for m, z in enumerate(row):
            source = 1 / (1 + math.exp(-z))
            wanted[m] -= weights[i, m].item() * math.log(source if DOMAINS[i] == 1 else 1 - source)
    torch.testing.assert_close(domain_losses(logits, DOMAINS, weights), torch.tensor(wanted, dtype=torch.float64))
    unweighted = domain_losses(logits, DOMAINS)
    torch.testing.assert_close(unweighted, domain_losses(logits, DOMAINS, torch.ones_like(logits)))


def test_saturated_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4]] * 6, requires_grad=True)
    losses = domain_losses(logits, DOMAINS)
    assert losses.tolist() == [3e4, 3e4]
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_half_precision_logits_give_float32_losses(logits: torch.Tensor) -> None:
    half = logits.bfloat16()
    assert domain_losses(half, DOMAINS).dtype == torch.float32
    torch.testing.assert_close(domain_losses(half, DOMAINS).double(), domain_losses(half.double(), DOMAINS))


def test_the_accuracy_is_the_weighted_share_of_domains_told() -> None:
    logits = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]])
    assert domain_accuracies(logits, DOMAINS).tolist() == pytest.approx([4 / 6, 0.5])
    weights = torch.zeros(6, 2)
    weights[1, 0], weights[0, 0] = 3.0, 1.0
    assert domain_accuracies(logits, DOMAINS, weights).tolist() == [0.25, 0.5]


def test_the_entropy_of_a_prediction_runs_from_zero_to_log_c() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e3, 0.0, 0.0, 0.0], [math.log(3), 0.0, -1e3, -1e3]])
    wanted = [math.log(4), 0.0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert conditional_entropy(scores).tolist() == pytest.approx(wanted, abs=1e-6)
    half = scores.bfloat16()
    assert conditional_entropy(half).dtype == torch.float32
    torch.testing.assert_close(conditional_entropy(half), conditional_entropy(half.float()))


def test_shapes_that_do_not_fit_are_refused(logits: torch.Tensor) -> None:
    for judged in (domain_losses, domain_accuracies):
        # One domain would do for all by broadcasting.
        for count in (1, 5):
            message = rf"expected \(N, M\) and \(N,\), got \(6, 2\) and \({count},\)"
            with pytest.raises(ValueError, match=message):
                judged(logits, DOMAINS[:count])
        with pytest.raises(ValueError, match=r"weights: expected \(6, 2\) as logits, got \(6, 1\)"):
            judged(logits, DOMAINS, torch.ones(6, 1))
    with pytest.raises(ValueError, match=r"scores: expected \(B, C\)"):
        conditional_entropy(torch.ones(3))

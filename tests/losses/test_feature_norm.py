"""The losses of adaptive feature norm against their formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from dynconv.losses import hard_norm_loss, mean_norm, stepwise_norm_loss


@pytest.fixture
def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)


def norms_of(features: torch.Tensor) -> list[float]:
    return [math.sqrt(sum(value * value for value in row)) for row in features.tolist()]


def test_the_hard_loss_is_the_squared_distance_of_the_mean_norm(features: torch.Tensor) -> None:
    mean = sum(norms_of(features)) / 5
    loss = hard_norm_loss(features, 4.0)
    assert loss.item() == pytest.approx((mean - 4) ** 2, rel=1e-12)
    assert mean_norm(features).item() == pytest.approx(mean, rel=1e-12)
    assert not mean_norm(features).requires_grad
    assert torch.autograd.gradcheck(lambda f: hard_norm_loss(f, 4.0), features)


def test_the_stepwise_loss_pulls_every_norm_outwards_alike(features: torch.Tensor) -> None:
    loss = stepwise_norm_loss(features, 1.5)
    assert loss.item() == pytest.approx(1.5**2, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, features)
    # -2 step / B along the unit vector of each row.
    wanted = [
        [-2 * 1.5 / 5 * value / norm for value in row]
        for row, norm in zip(features.tolist(), norms_of(features), strict=True)
    ]
    torch.testing.assert_close(gradient, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_stepwise_loss_is_the_distance_to_norms_held_constant(features: torch.Tensor) -> None:
    held = [norm + 0.5 for norm in norms_of(features)]

    def explicit(values: torch.Tensor) -> torch.Tensor:
        total = values.new_zeros(())
        for row, wanted in zip(values, held, strict=True):
            total = total + (wanted - row.square().sum().sqrt()) ** 2
        return total / len(held)

    assert torch.autograd.gradcheck(explicit, features)
    (wanted,) = torch.autograd.grad(explicit(features), features)
    (got,) = torch.autograd.grad(stepwise_norm_loss(features, 0.5), features)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [hard_norm_loss, stepwise_norm_loss])
def test_a_feature_of_norm_zero_has_a_finite_gradient(loss) -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    loss(features, 1.0).backward()
    assert features.grad is not None and features.grad.isfinite().all()
    assert features.grad[0].tolist() == [0, 0] and features.grad[1].abs().sum() > 0


def test_half_precision_does_not_overflow() -> None:
    features = torch.full((2, 400), 100.0, dtype=torch.float16)
    assert hard_norm_loss(features, 2000.0).item() == 0
    assert stepwise_norm_loss(features, 1.0).dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 3, 4)])
def test_what_is_no_batch_of_features_is_refused(shape: tuple[int, ...]) -> None:
    for loss in (hard_norm_loss, stepwise_norm_loss):
        with pytest.raises(ValueError, match=r"features: expected \(B, F\) with at least one row, got \("):
            loss(torch.ones(shape), 1.0)

from __future__ import annotations

import math

import torch

from dynconv import reference


def test_the_oracle_is_the_gradient_of_gsda_by_hand() -> None:
    # One hidden layer, two discriminators. Of the first, sample 0 has the hidden units relu(3, -1) = (3, 0), the logit
    # z = 2 * 3 - 4 = 2 and dz/df = 2 * (1, 2); sample 1 has units relu(-1, 1), z = 5 - 4 = 1 and dz/df = 5 * (0, -1).
    features = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    weights = [
        torch.tensor([[[1.0, 2.0], [0.0, -1.0]], [[0.0, 0.0], [3.0, 4.0]]], dtype=torch.float64),
        torch.tensor([[[2.0, 5.0]], [[1.0, 1.0]]], dtype=torch.float64),
    ]
    biases = [None, torch.tensor([[-4.0], [0.0]], dtype=torch.float64)]
    p = torch.tensor([[1.0, 0.5], [0.25, 0.0]], dtype=torch.float64)
    targets = torch.tensor([1, 0])
    norms, logits, losses = reference.feature_gradient_norms(features, weights, biases, targets, p)
    torch.testing.assert_close(logits, torch.tensor([[2.0, 7.0], [1.0, 0.0]], dtype=torch.float64))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    first = [sigmoid(-2) * 2 * math.sqrt(5), 0.25 * sigmoid(1) * 5]
    second = [0.5 * sigmoid(-7) * 5, 0.0]
    torch.testing.assert_close(norms, torch.tensor([first, second], dtype=torch.float64).t())
    expected = [-math.log(sigmoid(2)) - 0.25 * math.log(sigmoid(-1)), -0.5 * math.log(sigmoid(7))]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


def test_the_oracle_keeps_the_norm_of_a_sure_discriminator() -> None:
    # d = 1 and z = 80: 1 - sigmoid(80) is 0 in float64, and sigmoid(-80) is not.
    features = torch.tensor([[80.0]], dtype=torch.float64)
    weights, p = [torch.ones(1, 1, 1, dtype=torch.float64)], torch.ones(1, 1, dtype=torch.float64)
    for target, expected in ((1, math.exp(-80)), (0, 1.0)):
        norms, _, _ = reference.feature_gradient_norms(features, weights, [None], torch.tensor([target]), p)
        torch.testing.assert_close(norms.item(), expected, rtol=1e-12, atol=0)


def test_the_oracle_can_be_differentiated_twice_and_leaks_no_gradient_to_the_sample_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    features, first, last, p = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (2, 5, 3), (2, 1, 5), (4, 2))
    )
    p = p.abs().requires_grad_()
    targets = torch.tensor([1.0, 1.0, 0.0, 0.0])

    def function(features: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return reference.feature_gradient_norms(features, weights, [None, None], targets, p, activation=torch.tanh)

    given = [t.requires_grad_() for t in (features, first, last)]
    assert torch.autograd.gradgradcheck(function, given)
    results = function(*given)
    assert torch.autograd.grad([t.sum() for t in results], p, allow_unused=True) == (None,)
    with torch.no_grad():
        for untracked, tracked in zip(function(*given), results, strict=True):
            assert not untracked.requires_grad
            torch.testing.assert_close(untracked, tracked)

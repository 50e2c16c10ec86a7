"""Perturbations whose size and effect are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv.metrics.perturbation import loss_gradient_signs, moved, random_signs, sizes

SHAPE = (3, 4, 4)
VALUES = 3 * 4 * 4


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(VALUES, 2)


def images(count: int = 6) -> Tensor:
    """Away from black and white."""
    return 0.3 + 0.4 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_sizes_are_of_each_image() -> None:
    before = torch.full((3, *SHAPE), 0.5)
    after = before.clone()
    after[1] += 0.25
    after[2, 0, 0, 0], after[2, 1, 0, 0] = 0.2, 0.9
    found = sizes(before, after)
    torch.testing.assert_close(found.largest, torch.tensor([0.0, 0.25, 0.4]).double(), atol=1e-6, rtol=0)
    expected = torch.tensor([0.0, 0.25 * VALUES**0.5, 0.5]).double()
    torch.testing.assert_close(found.length, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="after: expected the shape of before"):
        sizes(before, after[:1])


def test_a_linear_classifiers_gradient_has_the_sign_of_its_weights(linear: nn.Linear) -> None:
    x = images()
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    found = loss_gradient_signs(lambda batch: linear(batch.flatten(1)), x, labels)
    # dL/dx = (p_other) (w_other - w_label): towards the other class, whatever the probabilities.
    towards = (linear.weight[1] - linear.weight[0]).sign().view(SHAPE)
    expected = torch.where((labels == 0).view(-1, 1, 1, 1), towards, -towards)
    assert torch.equal(found, expected.detach())
    assert linear.weight.grad is None and not x.requires_grad
    # Moved by it, the margin falls by size * |w_0 - w_1|_1.
    step = 0.05
    scores = linear(moved(x, found, step).flatten(1)) - linear(x.flatten(1))
    other = scores.gather(1, 1 - labels[:, None]) - scores.gather(1, labels[:, None])
    expected_margin = step * (linear.weight[0] - linear.weight[1]).abs().sum()
    torch.testing.assert_close(other, expected_margin.expand(6, 1), atol=1e-5, rtol=0)


def test_without_labels_the_own_prediction_is_left_or_made_surer(linear: nn.Linear) -> None:
    def classify(batch: Tensor) -> Tensor:
        return linear(batch.flatten(1))

    x = images()
    own = classify(x).argmax(dim=1)
    found = loss_gradient_signs(classify, x)
    assert torch.equal(found, loss_gradient_signs(classify, x, own))
    assert not torch.equal(found, loss_gradient_signs(classify, x, 1 - own))
    before = F.cross_entropy(classify(x), own, reduction="none")
    assert (F.cross_entropy(classify(moved(x, found, 0.1)), own, reduction="none") > before).all()
    assert (F.cross_entropy(classify(moved(x, found, -0.1)), own, reduction="none") < before).all()
    with torch.no_grad():
        assert torch.equal(loss_gradient_signs(classify, x), found), "also where gradients are switched off"


def test_the_signs_are_those_of_the_cross_entropy_and_outlast_sure_predictions() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    x, labels = images().double(), torch.tensor([0, 1, 2, 3, 4, 0])
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(inputs), labels), inputs)
    assert torch.equal(loss_gradient_signs(network, x, labels), gradient.sign())
    own = loss_gradient_signs(network, x)
    # A cross entropy of a margin of hundreds is 0 in any precision.
    sure = loss_gradient_signs(lambda batch: 1e4 * network(batch), x)
    assert F.cross_entropy(1e4 * network(x), network(x).argmax(dim=1)) == 0
    assert (sure != 0).all() and (sure == own).double().mean() > 0.5


def test_each_image_is_moved_by_its_own_size_and_clamped() -> None:
    x = images(3)
    signs = random_signs(x, torch.Generator().manual_seed(0))
    own = torch.tensor([0.0, 0.1, 0.25], dtype=torch.float64)
    result = moved(x, signs, own)
    torch.testing.assert_close(sizes(x, result).largest, own, atol=1e-6, rtol=0)
    assert result.dtype == x.dtype
    torch.testing.assert_close(moved(x, signs, -0.1), moved(x, -signs, 0.1))
    white = torch.ones(1, *SHAPE)
    clamped = moved(white, signs[:1], 0.25)
    assert clamped.max() == 1 and clamped.min() == 0.75
    assert torch.equal(clamped < 1, signs[:1] < 0)


def test_random_signs_are_even_and_seeded() -> None:
    x = torch.zeros(64, 3, 16, 16)
    signs = random_signs(x, torch.Generator().manual_seed(0))
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(signs.mean()) < 0.01
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(random_signs(x, generator), signs)
    assert not torch.equal(random_signs(x, generator), signs)

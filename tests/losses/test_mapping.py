"""ADDA's losses and GAM's against the paper's formulas, written out in loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dynconv.losses import (
    discrimination_loss,
    least_squares_discrimination_loss,
    least_squares_mapping_loss,
    mapping_loss,
    weight_drift,
)

FORMS = ("inverted", "minimax", "confusion")


def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (2 * torch.randn(count, 1, dtype=torch.float64, generator=generator) for count in (5, 3))
    return first, second


def probabilities(values: Tensor) -> list[float]:
    return [1 / (1 + math.exp(-value)) for value in values.flatten().tolist()]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_losses_are_the_papers() -> None:
    source, target = logits()
    of_source, of_target = probabilities(source), probabilities(target)
    game = -mean([math.log(d) for d in of_source]) - mean([math.log(1 - d) for d in of_target])
    wanted = {
        "inverted": -mean([math.log(d) for d in of_target]),
        "minimax": -game,
        "confusion": -sum(mean([(math.log(d) + math.log(1 - d)) / 2 for d in each]) for each in (of_source, of_target)),
    }
    assert discrimination_loss(source, target).item() == pytest.approx(game, rel=1e-12)
    for form, value in wanted.items():
        assert mapping_loss(source, target, form).item() == pytest.approx(value, rel=1e-12), form


@pytest.mark.parametrize("form", FORMS)
def test_gradients_and_saturated_logits(form: str) -> None:
    source, target = (each.requires_grad_() for each in logits())
    assert torch.autograd.gradcheck(lambda s, t: mapping_loss(s, t, form), (source, target))
    assert torch.autograd.gradcheck(discrimination_loss, (source, target))
    far = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    (gradient,) = torch.autograd.grad(mapping_loss(far, far, form) + discrimination_loss(far, far), far)
    assert gradient.isfinite().all()


def test_inverted_labels_have_a_gradient_where_minimax_has_lost_its_own() -> None:
    # A target that the discriminator is sure of (the reason of section 3.2 for inverted labels).
    target = torch.tensor([[-30.0]], requires_grad=True)
    source = -target.detach()
    gradients = {form: torch.autograd.grad(mapping_loss(source, target, form), target)[0].item() for form in FORMS}
    assert gradients["inverted"] == pytest.approx(-1) and abs(gradients["minimax"]) < 1e-12
    assert gradients["confusion"] == pytest.approx(-0.5)


def test_half_precision_is_raised_and_another_form_refused() -> None:
    source, target = (each.bfloat16() for each in logits())
    for form in FORMS:
        assert mapping_loss(source, target, form).dtype == torch.float32
    with pytest.raises(ValueError, match="form: expected 'inverted', 'minimax' or 'confusion', got 'gan'"):
        mapping_loss(source, target, "gan")


def test_least_squares_are_those_of_the_paper() -> None:
    source, target = (each.requires_grad_() for each in logits())
    of_source, of_target = source.flatten().tolist(), target.flatten().tolist()
    game = mean([(d - 1) ** 2 for d in of_source]) / 2 + mean([d**2 for d in of_target]) / 2
    assert least_squares_discrimination_loss(source, target).item() == pytest.approx(game, rel=1e-12)
    wanted = mean([(d - 1) ** 2 for d in of_target]) / 2
    assert least_squares_mapping_loss(target).item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(least_squares_discrimination_loss, (source, target))
    assert torch.autograd.gradcheck(least_squares_mapping_loss, (target,))
    low = least_squares_discrimination_loss(source.bfloat16(), target.bfloat16())
    assert low.dtype == torch.float32 and low.item() == pytest.approx(game, rel=1e-2)


def test_the_drift_is_of_all_weights_or_of_each_tensors_mean() -> None:
    generator = torch.Generator().manual_seed(0)

    def weights() -> list[Tensor]:
        shapes = ((3, 2), (4,), ())
        return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]

    first, second = weights(), weights()
    pairs = [
        list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) for a, b in zip(first, second, strict=True)
    ]
    squares = [[(one - other) ** 2 for one, other in pair] for pair in pairs]
    assert weight_drift(first, second).item() == pytest.approx(sum(map(sum, squares)), rel=1e-12)
    assert weight_drift(first, second, "mean").item() == pytest.approx(sum(map(mean, squares)), rel=1e-12)
    for form in ("sum", "mean"):
        assert torch.autograd.gradcheck(lambda *w, form=form: weight_drift(w[:3], w[3:], form), (*first, *second))
    assert weight_drift([w.bfloat16() for w in first], [w.bfloat16() for w in second]).dtype == torch.float32


def test_a_drift_of_other_networks_is_refused() -> None:
    with pytest.raises(ValueError, match="form: expected 'sum' or 'mean', got 'max'"):
        weight_drift([torch.zeros(2)], [torch.zeros(2)], "max")
    for source, target in (([], []), ([torch.zeros(2)], []), ([torch.zeros(2)], [torch.zeros(2, 1)])):
        with pytest.raises(ValueError, match="expected the parameters of two networks of one kind"):
            weight_drift(source, target)

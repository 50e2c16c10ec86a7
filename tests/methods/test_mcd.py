"""MCD: which groups each update steps, what each loss is, and the sign of the reversal, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dynconv.data import Batch
from dynconv.losses import class_balance, classifier_discrepancy, cross_entropy
from dynconv.methods import DRT, MCD, DRTConfig, MCDConfig, Method


def method(kind: type[Method] = MCD, **fields: object) -> Method:
    torch.manual_seed(0)
    made = kind(kind.config_class(**fields), num_classes=3).double().train()
    # The default start of N(0, 1/sqrt(width)) makes heads that all but agree.
    for head in made.heads:
        nn.init.normal_(head.weight, std=0.5)
    return made


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters, retain_graph=True))


@pytest.mark.parametrize("kind", [MCD, DRT])
@pytest.mark.parametrize(
    "fields", [{}, {"class_balance": 0.3, "label_smoothing": 0.1}, {"normalisation_policy": "separate"}]
)
def test_reversal_gives_heads_the_ascent_and_features_the_descent(
    kind: type[Method], fields: dict, batch: Batch
) -> None:
    weight, reversal = 1.5, 4.0
    made = method(kind, form="reversal", discrepancy_weight=weight, reversal_weight=reversal, **fields)
    features, heads = list(made.features.parameters()), list(made.heads.parameters())

    (update,) = made.updates(batch)
    assert update.of == ("features", "heads")
    got = gradients(update.loss, features), gradients(update.loss, heads)

    source, target = made.encode(batch)
    first, second = made.heads
    smoothing = fields.get("label_smoothing", 0.0)
    learning = sum(cross_entropy(head(source), batch.source.labels, smoothing=smoothing) for head in (first, second))
    balance = class_balance(first(target)) + class_balance(second(target))
    kept = learning + fields.get("class_balance", 0.0) * balance
    discrepancy = classifier_discrepancy(first(target), second(target))
    wanted = (
        gradients(kept + weight * reversal * discrepancy, features),
        gradients(kept - weight * discrepancy, heads),
    )
    assert max(g.abs().max() for g in gradients(discrepancy, features)) > 1e-4
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("group", "rises"), [("heads", True), ("features", False)])
def test_a_small_reversed_step_of_heads_raises_and_of_features_lowers_discrepancy(
    group: str, rises: bool, batch: Batch
) -> None:
    # At weight 1e4 the cross entropy is a small part of the gradient.
    made = method(form="reversal", discrepancy_weight=1e4, optimiser="sgd", lr=1e-9, momentum=0.0, weight_decay=0.0)
    optimiser = made.optimisers()[group]
    before = made.discrepancy(made.encode(batch)[1]).item()
    (update,) = made.updates(batch)
    update.loss.backward()
    optimiser.step()
    after = made.discrepancy(made.encode(batch)[1]).item()
    assert after != before
    assert (after > before) is rises


def test_three_steps_name_their_groups_in_order(batch: Batch) -> None:
    groups = [update.of for update in method(discrepancy_steps=3).updates(batch)]
    assert groups == [("features", "heads"), ("heads",), ("features",), ("features",), ("features",)]


@pytest.mark.parametrize("policy", ["joint", "separate"])
def test_three_steps_have_the_losses_of_the_paper(policy: str, batch: Batch) -> None:
    made = method(discrepancy_steps=1, discrepancy_weight=2.0, class_balance=0.1, normalisation_policy=policy)
    step_a, step_b, step_c = made.updates(batch)
    features, heads = list(made.features.parameters()), list(made.heads.parameters())

    source, target = made.encode(batch)
    first, second = made.heads
    kept = sum(cross_entropy(head(source), batch.source.labels) for head in (first, second))
    kept = kept + 0.1 * (class_balance(first(target)) + class_balance(second(target)))
    discrepancy = classifier_discrepancy(first(target), second(target))

    torch.testing.assert_close(gradients(step_a.loss, features + heads), gradients(kept, features + heads))
    torch.testing.assert_close(gradients(step_b.loss, heads), gradients(kept - 2 * discrepancy, heads))
    torch.testing.assert_close(gradients(step_c.loss, features), gradients(2 * discrepancy, features))
    # Step B trains classifiers alone, so no time goes into the gradients of the features.
    assert torch.autograd.grad(step_b.loss, features, allow_unused=True) == (None,) * len(features)


def test_each_step_sees_the_weights_that_the_step_before_left(batch: Batch) -> None:
    updates = method().updates(batch)
    next(updates)
    made = method()
    updates = made.updates(batch)
    next(updates)
    with torch.no_grad():
        made.heads[1].load_state_dict(made.heads[0].state_dict())
    assert next(updates).logs["discrepancy_before"] == 0
    with torch.no_grad():
        made.heads[1].weight.neg_()
    assert next(updates).loss > 0


@pytest.mark.parametrize("form", ["three-step", "reversal"])
def test_weight_zero_leaves_cross_entropy(form: str, batch: Batch) -> None:
    made = method(form=form, discrepancy_weight=0.0)
    updates = list(made.updates(batch))
    heads = list(made.heads.parameters())
    learning = gradients(made.source_loss(made.encode(batch)[0], batch.source.labels), heads)
    torch.testing.assert_close(gradients(updates[-5 if form == "three-step" else 0].loss, heads), learning)


def first_norm_mean(made: Method) -> Tensor:
    """The mean of the first convolution's output that the first batch normalisation remembers (momentum 0.1)."""
    norm = next(layer for layer in made.features.modules() if isinstance(layer, nn.BatchNorm2d))
    return norm.running_mean / 0.1


def test_joint_statistics_are_those_of_source_and_target_together(batch: Batch) -> None:
    made = method(form="reversal", normalisation_policy="joint")
    list(made.updates(batch))
    together = torch.cat([batch.source.images, batch.target.images])
    wanted = made.features.convolutions[0](together).mean((0, 2, 3))
    torch.testing.assert_close(first_norm_mean(made), wanted)


def test_separate_statistics_normalise_each_domain_by_itself(batch: Batch) -> None:
    joint, separate = (method(form="reversal", normalisation_policy=kind) for kind in ("joint", "separate"))
    alone = separate.features(batch.source.images)
    torch.testing.assert_close(separate.encode(batch)[0], alone)
    assert (joint.encode(batch)[0] - alone).abs().max() > 0.1


def test_the_ramp_rises_to_the_full_weight() -> None:
    def weights(**fields: object) -> list[float]:
        made = method(discrepancy_weight=8.0, **fields)
        found = []
        for step in (0, 25, 50, 100, 150):
            made.begin_step(step, 200)
            found.append(made.weight)
        return found

    assert weights() == [8, 8, 8, 8, 8]
    assert weights(ramp_steps=100) == [0, 2, 4, 8, 8]
    sigmoid = [8 * (2 / (1 + math.exp(-10 * p)) - 1) for p in (0, 0.25, 0.5)]
    assert weights(ramp_steps=100, ramp="sigmoid") == pytest.approx([*sigmoid, 8, 8])


@pytest.mark.parametrize("form", ["three-step", "reversal"])
def test_the_ramp_reaches_the_losses(form: str, batch: Batch) -> None:
    made = method(form=form, discrepancy_weight=8.0, ramp_steps=100)
    made.begin_step(25, 200)
    updates = list(made.updates(batch))
    update = updates[-1]
    target = made.encode(batch)[1]
    discrepancy = made.discrepancy(target)
    heads = list(made.heads.parameters())
    if form == "three-step":
        torch.testing.assert_close(gradients(update.loss, heads), gradients(2 * discrepancy, heads))
        update = updates[1]
    learning = made.source_loss(made.encode(batch)[0], batch.source.labels)
    torch.testing.assert_close(gradients(update.loss, heads), gradients(learning - 2 * discrepancy, heads))
    assert update.logs["discrepancy_weight"] == 2


@pytest.mark.parametrize(("distance", "power"), [("l1", 1), ("l2", 2)])
def test_the_discrepancy_is_the_mean_difference_of_the_predictions(distance: str, power: int, batch: Batch) -> None:
    made = method(distance=distance)
    target = made.encode(batch)[1]
    first, second = (head(target).softmax(dim=1).tolist() for head in made.heads)
    wanted = [abs(a - b) ** power for p, q in zip(first, second, strict=True) for a, b in zip(p, q, strict=True)]
    assert made.discrepancy(target).item() == pytest.approx(sum(wanted) / 18, rel=1e-9)


def test_predictions_are_the_sum_or_the_surer_head(batch: Batch) -> None:
    made, surer = method(), method(prediction="max")
    images = batch.target.images
    with torch.no_grad():
        # In training mode the batch's own statistics spread the features, so that each head is surer somewhere.
        first, second = (head(made.features(images)) for head in made.heads)
        torch.testing.assert_close(made.predict(images), first + second)
        assert torch.equal(made(images), made.predict(images))
        rows = [a if a.max() > b.max() else b for a, b in zip(first, second, strict=True)]
        torch.testing.assert_close(surer.predict(images), torch.stack(rows))
    winners = {bool(a.max() > b.max()) for a, b in zip(first, second, strict=True)}
    assert winners == {True, False}, "both heads must win somewhere for this test to tell them apart"
    made.eval(), surer.eval()
    assert made.predict(images[:0]).shape == surer.predict(images[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reversal_weight": 4.0}, "reversal_weight: 4.0 contradicts form 'three-step'"),
        ({"form": "reversal", "discrepancy_steps": 2}, "discrepancy_steps: 2 contradicts form 'reversal'"),
        ({"discrepancy_steps": 0}, "discrepancy_steps: expected at least 1, got 0"),
        ({"discrepancy_weight": -1.0}, "discrepancy_weight: expected at least 0, got -1.0"),
        ({"ramp_steps": -1}, "ramp_steps: expected at least 0, got -1"),
        ({"class_balance": -0.1}, "class_balance: expected at least 0, got -0.1"),
        ({"form": "reversal", "reversal_weight": 0.0}, "reversal_weight: expected more than 0, got 0.0"),
        (
            {"normalisation_policy": "source"},
            "normalisation_policy: expected one of 'joint', 'separate', 'source-only', 'frozen', 'domain-specific', "
            "'adabn', got 'source'",
        ),
    ],
)
def test_contradicting_fields_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCDConfig(**fields)


def test_defaults_are_those_of_the_papers() -> None:
    mcd, drt = MCDConfig(), DRTConfig()
    assert (mcd.normalisation_policy, drt.normalisation_policy) == ("separate", "joint")
    assert (mcd.form, mcd.discrepancy_weight, mcd.discrepancy_steps, mcd.optimiser, mcd.lr) == (
        "three-step", 1.0, 4, "adam", 2e-4,
    )  # fmt: skip
    assert (drt.form, drt.loss, drt.residual, drt.num_bases) == ("reversal", "mcd", "subspace", 4)
    assert (drt.discrepancy_weight, drt.optimiser, drt.lr, drt.lr_schedule) == (50.0, "sgd", 2e-3, "step")
    for config in (mcd, drt):
        assert config.class_balance == config.label_smoothing == config.ramp_steps == 0


@pytest.mark.parametrize("policy", ["separate", "joint"])
def test_step_c_passes_the_source_only_where_its_statistics_count(policy: str, batch: Batch) -> None:
    made = method(normalisation_policy=policy, discrepancy_steps=2)
    passed: list[int] = []
    made.features.register_forward_pre_hook(lambda module, images: passed.append(len(images[0])))
    source, target = len(batch.source.images), len(batch.target.images)
    before_c = [source, target] * 2 if policy == "separate" else [source + target] * 2
    list(made.updates(batch))
    assert passed == before_c + ([target] * 2 if policy == "separate" else [source + target] * 2)

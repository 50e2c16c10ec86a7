"""The game of discriminators and features: who is moved by what, in turns and by reversal."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv.data import Batch
from dynconv.losses import conditional_entropy
from dynconv.methods import CDAN, DANN, METHODS, PADA, CDANConfig, PADAConfig
from dynconv.methods.adversarial import AdversarialConfig, AdversarialMethod, adversarial_weight
from dynconv.methods.selection import select_confident

NAMES = sorted(name for name, kind in METHODS.items() if issubclass(kind, AdversarialMethod))
SMALL: dict[str, Any] = {"hidden_features": 16, "bottleneck": 8, "dropout": 0.0}


def make(name: str, **fields: Any) -> AdversarialMethod:
    torch.manual_seed(0)
    kind = METHODS[name]
    if name == "gsda":
        fields = {"num_groups": (2,)} | fields
    made = kind(kind.config_class(**SMALL | fields), num_classes=3).double().train()
    assert isinstance(made, AdversarialMethod)
    made.optimisers()
    return made


def gradients(loss: Tensor, module: torch.nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for g, p in zip(grads, module.parameters(), strict=True)
        ]
    )


@pytest.mark.parametrize("name", NAMES)
def test_by_reversal_both_sides_get_the_gradients_of_taking_turns(name: str, batch: Batch) -> None:
    turns, reversal = make(name, form="alternating"), make(name, form="reversal")
    for each in (turns, reversal):
        each.begin_step(6, 10)
    updates = turns.updates(batch)
    first = next(updates)
    assert first.of == ("discriminators",)
    of_discriminators = gradients(first.loss, turns.discriminators)
    assert gradients(first.loss, turns.features).abs().sum() == 0
    # No step is taken between them here, so both turns are at the same parameters.
    second = next(updates)
    assert second.of == ("features", "heads")
    assert gradients(second.loss, turns.discriminators).abs().sum() == 0
    (both,) = reversal.updates(batch)
    assert both.of == ("features", "heads", "discriminators")
    torch.testing.assert_close(gradients(both.loss, reversal.discriminators), of_discriminators)
    torch.testing.assert_close(gradients(both.loss, reversal.features), gradients(second.loss, turns.features))
    torch.testing.assert_close(gradients(both.loss, reversal.heads), gradients(second.loss, turns.heads))


def test_discriminators_may_share_their_first_layers(batch: Batch) -> None:
    for name in ("gsda", "mada"):
        method = make(name, shared_layers=2)
        shapes = [tuple(weight.shape[:1]) for weight in method.discriminators.weights]
        assert shapes == [(1,), (1,), (method.discriminators.num,)]
        assert all(update.loss.isfinite() for update in method.updates(batch))


@pytest.mark.parametrize("name", NAMES)
def test_the_features_raise_what_the_discriminators_lower(name: str, batch: Batch) -> None:
    fields = {"synchronisation": False} if name == "gsda" else {}
    weighted = make(name, adversarial_weight=2.0, ramp="none", **fields)
    without = make(name, adversarial_weight=0.0, ramp="none", **fields)
    (loss,), (base,) = ([u.loss for u in m.updates(batch) if "features" in u.of] for m in (weighted, without))
    encoded = weighted.encoded(batch)
    opposed = weighted.alignment(encoded, None).opposed
    wanted = gradients(base, without.features) - 2 * gradients(opposed, weighted.features)
    torch.testing.assert_close(gradients(loss, weighted.features), wanted)


def test_the_weight_rises_as_in_dann() -> None:
    config = AdversarialConfig(adversarial_weight=3.0)
    assert adversarial_weight(config, 0.0) == 0
    assert adversarial_weight(config, 0.1) == pytest.approx(3 * 0.46211715726)
    assert adversarial_weight(config, 1.0) == 3
    half = dataclasses.replace(config, ramp_end=0.5)
    assert adversarial_weight(half, 0.05) == pytest.approx(3 * 0.46211715726)
    assert adversarial_weight(half, 0.5) == 3
    assert adversarial_weight(dataclasses.replace(config, ramp="none"), 0.0) == 3


def test_dann_is_the_mean_cross_entropy_of_one_discriminator(batch: Batch) -> None:
    method = make("dann")
    assert isinstance(method, DANN)
    encoded = method.encoded(batch)
    logits = method.discriminators(encoded.features)[:, 0]
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([1.0] * 4 + [0.0] * 6).double())
    torch.testing.assert_close(method.alignment(encoded, None).opposed, wanted)


def test_madas_discriminators_see_the_features_by_the_probability_of_their_class(batch: Batch) -> None:
    method = make("mada", class_weight=0.5)
    encoded = method.encoded(batch)
    p = encoded.scores.softmax(dim=1)
    losses = []
    for k in range(3):
        logits = method.discriminators.discriminator(k)(p[:, k : k + 1].detach() * encoded.features)[:, 0]
        losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, encoded.domains))
    game = method.alignment(encoded, None)
    torch.testing.assert_close(game.opposed, 0.5 * torch.stack(losses).sum())


def test_madas_hard_assignment_gives_each_sample_to_one_discriminator(batch: Batch) -> None:
    method = make("mada", assignment="hard", class_weight=0.5)
    encoded = method.encoded(batch)
    predicted = encoded.scores.argmax(dim=1).tolist()
    assert len(set(predicted)) > 1
    total = 0.0
    for i, feature in enumerate(encoded.features):
        logit = method.discriminators.discriminator(predicted[i])(feature[None])[0, 0]
        total += torch.nn.functional.binary_cross_entropy_with_logits(logit, encoded.domains[i]).item() / 10
    assert method.alignment(encoded, None).opposed.item() == pytest.approx(0.5 * total, rel=1e-9)


def test_cdan_sees_the_product_of_features_and_predictions(batch: Batch) -> None:
    method = make("cdan")
    encoded = method.encoded(batch)
    product = torch.einsum("nc,nf->ncf", encoded.scores.softmax(dim=1), encoded.features).flatten(1)
    logits = method.discriminators(product)[:, 0]
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, encoded.domains)
    torch.testing.assert_close(method.alignment(encoded, None).opposed, wanted)


def test_cdan_e_weighs_samples_by_their_certainty_within_each_domain(batch: Batch) -> None:
    method = make("cdan", entropy_conditioning=True)
    assert isinstance(method, CDAN)
    encoded = method.encoded(batch)
    weights = 1 + torch.exp(-conditional_entropy(encoded.scores))
    product = method.product(encoded.features, encoded.scores.softmax(dim=1))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        method.discriminators(product)[:, 0], encoded.domains, reduction="none"
    )
    halves = [(weights[part] * losses[part]).sum() / weights[part].sum() for part in (slice(4), slice(4, None))]
    torch.testing.assert_close(method.alignment(encoded, None).opposed, torch.stack(halves).mean())


@pytest.mark.parametrize("conditioning", ["concatenated", "predictions"])
def test_cdans_comparisons_see_predictions_beside_the_features_or_alone(conditioning: str, batch: Batch) -> None:
    method = make("cdan", conditioning=conditioning, predictions_learn=True)
    encoded = method.encoded(batch)
    losses = []
    for feature, scores, domain in zip(*encoded[:3], strict=True):
        p = scores.softmax(dim=0)
        seen = p if conditioning == "predictions" else torch.cat([feature, p])
        losses.append(
            torch.nn.functional.binary_cross_entropy_with_logits(method.discriminators(seen[None])[0, 0], domain)
        )
    wanted = torch.stack(losses).mean()
    opposed = method.alignment(encoded, None).opposed
    torch.testing.assert_close(opposed, wanted)
    torch.testing.assert_close(gradients(opposed, method.features), gradients(wanted, method.features))
    assert gradients(wanted, method.heads).abs().sum() > 0


def test_without_predictions_learn_no_gradient_goes_through_them(batch: Batch) -> None:
    for learn in (False, True):
        method = make("cdan", predictions_learn=learn)
        opposed = method.alignment(method.encoded(batch), None).opposed
        assert bool(gradients(opposed, method.heads).abs().sum() > 0) is learn


def test_cdan_e_may_take_its_weights_as_they_are(batch: Batch) -> None:
    method = make("cdan", entropy_conditioning=True, entropy_normalisation="none")
    encoded = method.encoded(batch)
    product = torch.einsum("nc,nf->ncf", encoded.scores.softmax(dim=1), encoded.features).flatten(1)
    total = 0.0
    for logit, domain, scores in zip(
        method.discriminators(product)[:, 0], encoded.domains, encoded.scores, strict=True
    ):
        entropy = -sum(p * math.log(p) for p in scores.softmax(dim=0).tolist())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, domain).item()
        total += (1 + math.exp(-entropy)) * loss / 10
    assert method.alignment(encoded, None).opposed.item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("sampling", ["gaussian", "uniform"])
def test_a_random_projection_keeps_the_inner_products_of_cdan(sampling: str) -> None:
    method = make("cdan", random_features=4096, random_sampling=sampling)
    assert bool(method.random_of_features.abs().max() < 3**0.5) is (sampling == "uniform")
    assert isinstance(method, CDAN)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    predictions = torch.randn(5, 3, generator=generator, dtype=torch.float64).softmax(dim=1)
    projected = method.product(features, predictions)
    exact = torch.einsum("nc,nf->ncf", predictions, features).flatten(1)
    # Equal in expectation; 4096 products leave a relative spread of some per cent.
    torch.testing.assert_close(projected @ projected.t(), exact @ exact.t(), rtol=0.15, atol=0.15)


def test_target_images_are_selected_anew_after_a_pass_or_as_often_as_is_said() -> None:
    assert make("dann").refresh_interval(7) == 0
    confident = {"target_sampling": "confident"}
    assert make("dann", **confident).refresh_interval(7) == 7
    assert make("dann", **confident, selection_every=5).refresh_interval(7) == 5


def test_padas_weights_are_the_targets_mean_prediction_and_reach_both_losses(batch: Batch) -> None:
    method = make("pada")
    assert isinstance(method, PADA)
    scores = torch.tensor([[4.0, 0.0, -9.0]] * 10, dtype=torch.float64)
    method.refresh(scores)
    assert method.class_weights.tolist() == [1, 1, 1]
    method.begin_step(499, 1000)
    assert method.refresh_interval(7) == 500
    method.refresh(scores)
    mean = scores.softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(method.class_weights, mean / mean.mean())
    encoded = method.encoded(batch)
    source = encoded.scores[:4]
    of_label = method.class_weights[encoded.labels]
    losses = torch.nn.functional.cross_entropy(source, encoded.labels, reduction="none")
    torch.testing.assert_close(
        method.classification_loss(source, encoded.labels), (of_label * losses).sum() / of_label.sum()
    )
    weights = method.sample_weights(encoded)[:, 0]
    torch.testing.assert_close(weights[:4], of_label / method.class_weights.max())
    assert weights[4:].tolist() == [1] * 6
    assert torch.equal(method.state_dict()["class_weights"], method.class_weights)


def test_padas_weights_may_leave_out_one_of_the_losses_and_be_scaled_otherwise(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.tensor([1.5, 0.5, 1.0], dtype=torch.float64)

    def losses(**fields: Any) -> tuple[float, list[float]]:
        method = make("pada", **fields)
        assert isinstance(method, PADA)
        method.class_weights.copy_(weights)
        encoded = method.encoded(batch)
        of_samples = method.sample_weights(encoded)
        given = [1.0] * 10 if of_samples is None else of_samples[:, 0].tolist()
        return method.classification_loss(encoded.scores[:4], encoded.labels).item(), given

    method = make("pada")
    scores = method.encoded(batch).scores[:4]
    # The labels are 0, 1, 2, 1.
    each = [-row.log_softmax(dim=0)[label].item() for row, label in zip(scores, (0, 1, 2, 1), strict=True)]
    weighted = (1.5 * each[0] + 0.5 * each[1] + each[2] + 0.5 * each[3]) / 3.5
    by_class = [1, 1 / 3, 2 / 3, 1 / 3] + [1] * 6
    samples = (each[0] + each[1] / 3 + 2 / 3 * each[2] + each[3] / 3) / 4
    assert losses() == (pytest.approx(weighted), pytest.approx(by_class))
    assert losses(weighting="classifier") == (pytest.approx(weighted), [1.0] * 10)
    assert losses(weighting="discriminator") == (pytest.approx(sum(each) / 4), pytest.approx(by_class))
    assert losses(classifier_mean="samples") == (pytest.approx(samples), pytest.approx(by_class))
    # No image of the heaviest class is in the batch: what is divided by is the largest weight there.
    weights[:] = torch.tensor([0.5, 0.25, 0.75])
    batch.source.labels[2] = 1
    assert losses(largest="batch")[1] == pytest.approx([1, 0.5, 0.5, 0.5] + [1] * 6)
    assert losses()[1] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 1 / 3] + [1] * 6)
    # Another process has a sample of weight 1.
    monkeypatch.setattr("dynconv.methods.pada.all_min", lambda least: least.clamp(max=-1.0))
    assert losses(largest="batch")[1] == pytest.approx([0.5, 0.25, 0.25, 0.25] + [1] * 6)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (CDANConfig, {"conditioning": "predictions"}, "predictions_learn: conditioning 'predictions' trains"),
        (CDANConfig, {"conditioning": "concatenated", "random_features": 9}, "random_features: 9 contradicts"),
        (CDANConfig, {"random_sampling": "uniform"}, "random_sampling: uniform contradicts random_features 0"),
        (CDANConfig, {"entropy_normalisation": "none"}, "entropy_normalisation: none contradicts entropy_cond"),
        (PADAConfig, {"weighting": "discriminator", "classifier_mean": "samples"}, "classifier_mean: samples contrad"),
        (PADAConfig, {"weighting": "classifier", "largest": "batch"}, "largest: batch contradicts weighting"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(kind: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_confident_images_are_chosen_with_their_predicted_class() -> None:
    p = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.1, 0.85, 0.05], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]])
    found = select_confident(p.clamp(min=1e-9).log(), 0.8, 0.5)
    assert found.changed and found.selection is not None
    # Class 2 has no image of 0.8, and gives the better half of its two.
    assert found.selection.indices.tolist() == [0, 2, 3]
    assert found.selection.labels.tolist() == [0, 1, 2]
    assert found.logs == {"selected/share": 0.6, "selected/classes": 3.0}
    assert found.message is not None and "1 of 3 predicted classes" in found.message
    assert select_confident(p.clamp(min=1e-9).log(), 0.3, 0.5).message is None


def test_of_a_class_without_confident_images_at_least_one_is_taken() -> None:
    found = select_confident(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), 0.99, 0.1)
    assert found.selection is not None
    assert found.selection.indices.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ramp_end": 0.0}, "ramp_end: expected more than 0"),
        ({"ramp_end": 1.5}, "ramp_end: expected at most 1, got 1.5"),
        ({"ramp": "none", "ramp_end": 0.5}, "ramp_end: 0.5 contradicts ramp 'none'"),
        ({"dropout": 1.0}, "dropout: expected 0 to less than 1, got 1.0"),
        ({"target_sampling": "confident", "confidence": 1.0}, "confidence: expected 0 to less than 1"),
        ({"confidence": 0.9}, "confidence: 0.9 contradicts target_sampling 'all'"),
        ({"num_layers": 0}, "num_layers: expected at least 1"),
        ({"shared_layers": 3}, "shared_layers: expected less than num_layers = 3"),
        ({"hidden_features": 0}, "hidden_features: expected at least 1"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialConfig(**fields)

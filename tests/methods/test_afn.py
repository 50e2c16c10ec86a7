"""AFN: its losses and gradients in float64, its layers, and the contradictions it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynconv.data import Batch
from dynconv.methods import AFN, AFNConfig
from dynconv.methods.afn import NormPreservingDropout
from dynconv.models import DomainBatchNorm, domain_norms


def make(**fields: Any) -> AFN:
    torch.manual_seed(0)
    return AFN(AFNConfig(**{"width": 16, "dropout": 0.0, **fields}), num_classes=3).double().train()


def norms_of(features: Tensor) -> list[Tensor]:
    return [sum((value * value for value in row), torch.zeros((), dtype=torch.float64)).sqrt() for row in features]


def gradients(loss: Tensor, made: AFN) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(made.parameters()), retain_graph=True))


@pytest.mark.parametrize("fields", [{}, {"mean_over": "domains"}, {"form": "hard", "radius": 7.0}])
def test_the_loss_is_that_of_the_paper(fields: dict[str, Any], batch: Batch) -> None:
    made = make(norm_weight=0.3, entropy_weight=0.2, **fields)
    (update,) = made.updates(batch)
    assert update.of == ("features", "heads")
    source, target = made.encode(batch)

    wanted = torch.zeros((), dtype=torch.float64)
    for row, label in zip(made.heads[0](source), batch.source.labels.tolist(), strict=True):
        wanted = wanted - row.log_softmax(dim=0)[label] / 4
    domains = [norms_of(source), norms_of(target)]
    for norms in domains:
        if made.config.form == "hard":
            wanted = wanted + 0.3 * (sum(norms) / len(norms) - 7) ** 2
            continue
        count = len(norms) if made.config.mean_over == "domains" else 10
        for norm in norms:
            wanted = wanted + 0.3 * (norm.item() + 1 - norm) ** 2 / count
    for row in made.heads[0](target):
        p = row.softmax(dim=0)
        wanted = wanted - 0.2 * sum(value * value.log() for value in p) / 6
    torch.testing.assert_close(update.loss, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(update.loss, made), gradients(wanted, made), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(update.logs["norm/target"], sum(domains[1]).detach() / 6)


def test_the_features_are_those_of_the_last_layer(batch: Batch) -> None:
    made = make(num_layers=2)
    linear = [layer for layer in made.features.layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(128, 16), (16, 16)]
    source, target = made.encode(batch)
    assert source.shape == (4, 16) and target.shape == (6, 16)
    assert source.min() == 0
    made.eval()
    torch.testing.assert_close(made.predict(batch.target.images), made.heads[0](made.features(batch.target.images)))


def test_dropout_keeps_the_expected_square_of_the_norm() -> None:
    torch.manual_seed(0)
    layer, values = NormPreservingDropout(0.75), torch.full((40000,), 3.0)
    dropped = layer.train()(values)
    assert dropped.unique().tolist() == pytest.approx([0.0, 6.0])
    assert dropped.square().mean().item() == pytest.approx(9.0, rel=0.03)
    assert torch.equal(layer.eval()(values), values)


def test_dropout_is_the_one_that_was_asked_for(batch: Batch) -> None:
    kinds = [type(make(dropout=0.5, **fields).features.layers[-1]) for fields in ({}, {"preserve_norm": False})]
    assert kinds == [NormPreservingDropout, nn.Dropout]
    assert make(dropout=0.25).features.layers[-1].p == 0.25


def test_the_new_layers_follow_the_normalisation_policy(batch: Batch) -> None:
    layers = make(normalisation_policy="domain-specific").features.layers
    assert isinstance(layers[1], DomainBatchNorm) and layers[1].source.weight is not layers[1].target.weight
    shared = make(normalisation_policy="adabn")
    assert len(domain_norms(shared.features)) == 5
    assert shared.features.layers[1].source.weight is shared.features.layers[1].target.weight
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in make(norm="none").features.modules())
    for policy in ("joint", "source-only", "domain-specific", "adabn"):
        (update,) = make(normalisation_policy=policy).updates(batch)
        assert update.loss.isfinite()


def test_frozen_statistics_leave_the_new_layers_without_any(tmp_path) -> None:
    torch.save(make().features.trunk.float().state_dict(), tmp_path / "weights.pt")
    made = make(normalisation_policy="frozen", weights=str(tmp_path / "weights.pt"))
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in made.features.layers)
    # What came with the weights learns at its own rate, and the new layers at the full one.
    new, pretrained, _ = made.feature_groups()
    assert {id(p) for p in new[0]} == {id(p) for p in made.features.layers.parameters()}
    assert {id(p) for p in pretrained[0]} == {id(p) for p in made.features.trunk.parameters()}


def test_without_a_weight_it_is_source_only_with_one_more_layer(batch: Batch) -> None:
    made = make(norm_weight=0.0)
    (update,) = made.updates(batch)
    torch.testing.assert_close(update.loss, made.source_loss(made.encode(batch)[0], batch.source.labels))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"radius": 5.0}, "radius: 5.0 contradicts form 'stepwise'"),
        ({"form": "hard", "step_size": 2.0}, "step_size: 2.0 contradicts form 'hard'"),
        ({"form": "hard", "mean_over": "domains"}, "mean_over: domains contradicts form 'hard'"),
        ({"form": "hard", "radius": 0.0}, "radius: expected more than 0, got 0.0"),
        ({"dropout": 1.0}, "dropout: expected 0 to less than 1, got 1.0"),
        ({"dropout": 0.0, "preserve_norm": False}, "preserve_norm: False contradicts dropout 0"),
        ({"num_layers": 0}, "num_layers: expected at least 1, got 0"),
        ({"norm_weight": 0.0, "step_size": 2.0}, "step_size: 2.0 contradicts norm_weight 0"),
        ({"norm_weight": 0.0, "mean_over": "domains"}, "mean_over: domains contradicts norm_weight 0"),
        ({"norm_weight": 0.0, "form": "hard", "radius": 5.0}, "radius: 5.0 contradicts norm_weight 0"),
        ({"norm_weight": -0.1}, "norm_weight: expected at least 0, got -0.1"),
    ],
)
def test_contradicting_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AFNConfig(**fields)

"""JAN: the joint loss of features and predictions, its ramp, and the layers that oppose it in JAN-A."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynconv.data import Batch
from dynconv.losses import GaussianKernels, jmmd, mk_mmd
from dynconv.methods import JAN, JANConfig


def make(**fields: Any) -> JAN:
    torch.manual_seed(0)
    made = JAN(JANConfig(bottleneck=8, **{"ramp": "none", **fields}), num_classes=3).double().train()
    made.optimisers()
    return made


def encoded(made: JAN, batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Features and predictions of the source, of the target, and the source's cross entropy."""
    source, target = made.encode(batch)
    scores = made.heads[0](source)
    learning = nn.functional.cross_entropy(scores, batch.source.labels)
    return [source, scores.softmax(1)], [target, made.heads[0](target).softmax(1)], learning


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True))


@pytest.mark.parametrize("estimator", ["linear", "biased"])
@pytest.mark.parametrize("fixed", [0.0, 1.68])
def test_the_loss_is_cross_entropy_and_the_weighted_jmmd(estimator: Any, fixed: float, batch: Batch) -> None:
    made = make(estimator=estimator, alignment_weight=3.0, num_kernels=5, prediction_bandwidth=fixed)
    (update,) = made.updates(batch)
    assert update.of == ("features", "heads")
    source, target, learning = encoded(made, batch)
    families = [GaussianKernels(5, 2.0), GaussianKernels(1, 1.0, fixed or "median")]
    wanted = jmmd(source, target, kernels=families, estimator=estimator)
    torch.testing.assert_close(update.loss, learning + 3 * wanted)
    torch.testing.assert_close(update.logs["jmmd"], wanted.detach())


@pytest.mark.parametrize(("layers", "index"), [("features", 0), ("predictions", 1)])
def test_one_layer_alone_is_mmd(layers: str, index: int, batch: Batch) -> None:
    made = make(layers=layers)
    (update,) = made.updates(batch)
    source, target, learning = encoded(made, batch)
    wanted = mk_mmd(source[index], target[index], kernels=GaussianKernels(1, 1.0))
    torch.testing.assert_close(update.loss, learning + wanted)


def test_the_weight_rises_as_in_the_paper(batch: Batch) -> None:
    made = make(ramp="sigmoid", alignment_weight=3.0)
    seen = []
    for step in (0, 10, 50, 99):
        made.begin_step(step, 100)
        seen.append(made.weight)
    assert seen == pytest.approx([3 * (2 / (1 + math.exp(-10 * p)) - 1) for p in (0, 0.1, 0.5, 0.99)])
    made.begin_step(10, 100)
    (update,) = made.updates(batch)
    source, target, learning = encoded(made, batch)
    wanted = learning + seen[1] * jmmd(source, target, kernels=[GaussianKernels(1, 1.0)] * 2)
    torch.testing.assert_close(update.loss, wanted)


def test_the_opposing_layers_ascend_and_the_network_descends(batch: Batch) -> None:
    plain, made = make(alignment_weight=2.0), make(alignment_weight=2.0, adversarial=True)
    assert {name: layer.in_features for name, layer in made.adversaries.items()} == {"features": 8, "predictions": 3}
    (base,), (update,) = plain.updates(batch), made.updates(batch)
    assert update.of == ("features", "heads", "adversaries")
    # At first they are the identity.
    torch.testing.assert_close(update.loss, base.loss)
    torch.testing.assert_close(gradients(update.loss, made.features), gradients(base.loss, plain.features))
    torch.testing.assert_close(gradients(update.loss, made.heads), gradients(base.loss, plain.heads))
    ascent = gradients(update.loss, made.adversaries)
    source, target, _ = encoded(made, batch)
    through = [
        [layer(each) for layer, each in zip(made.adversaries.values(), domain, strict=True)]
        for domain in (source, target)
    ]
    upward = gradients(2 * jmmd(*through, kernels=[GaussianKernels(1, 1.0)] * 2), made.adversaries)
    torch.testing.assert_close(ascent, [-gradient for gradient in upward])
    assert max(gradient.abs().max() for gradient in ascent) > 1e-4


def test_the_opposing_layers_have_an_optimiser_of_their_own(batch: Batch, train: Any) -> None:
    made = make(adversarial=True, lr=0.01, adversarial_lr_factor=0.5, lr_schedule="constant")
    optimisers = made.optimisers()
    assert optimisers.keys() == {"features", "heads", "adversaries"}
    (group,) = optimisers["adversaries"].param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in made.adversaries.parameters()}
    assert group["lr"] == 0.005
    before = [parameter.clone() for parameter in made.adversaries.parameters()]
    train(made, [batch], 1)
    assert all(not torch.equal(old, new) for old, new in zip(before, made.adversaries.parameters(), strict=True))
    assert not list(make().adversaries.parameters())


def test_defaults_are_those_of_the_paper() -> None:
    config = JANConfig()
    assert (config.num_kernels, config.bandwidth, config.prediction_bandwidth) == (1, "median", 0.0)
    assert (config.estimator, config.layers, config.ramp) == ("linear", "features+predictions", "sigmoid")
    assert (config.alignment_weight, config.adversarial, config.normalisation_policy) == (1.0, False, "joint")
    assert JAN.about.paper == "Long et al., ICML 2017"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction_bandwidth": -1.0}, "prediction_bandwidth: expected at least 0, got -1.0"),
        (
            {"layers": "features", "prediction_bandwidth": 1.0},
            "prediction_bandwidth: 1.0 contradicts layers 'features'",
        ),
        ({"adversarial_lr_factor": 0.5}, "adversarial_lr_factor: 0.5 contradicts adversarial false"),
        ({"adversarial": True, "adversarial_lr_factor": 0.0}, "adversarial_lr_factor: expected more than 0, got 0.0"),
        ({"kernel_factor": 3.0}, "kernel_factor: 3.0 contradicts num_kernels 1"),
        ({"layers": "predictions", "num_kernels": 5}, "num_kernels: 5 contradicts layers 'predictions'"),
        (
            {"layers": "predictions", "prediction_bandwidth": 1.0, "bandwidth": "mean"},
            "bandwidth: mean contradicts layers 'predictions' with a prediction_bandwidth of 1.0",
        ),
        ({"alignment_weight": 0.0, "adversarial": True}, "adversarial: True contradicts alignment_weight 0"),
        ({"alignment_weight": 0.0, "ramp": "none"}, "ramp: none contradicts alignment_weight 0"),
        ({"alignment_weight": 0.0, "prediction_bandwidth": 1.0}, "prediction_bandwidth: 1.0 contradicts alignment_we"),
        ({"alignment_weight": 0.0, "layers": "features"}, "layers: features contradicts alignment_weight 0"),
    ],
)
def test_contradicting_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JANConfig(**fields)

"""What each of GAM's fields is by default, does, and refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import same, state_of
from torch import nn

from dynconv.data import Batch
from dynconv.methods import GAM, GAMConfig

SMALL: dict[str, Any] = {"hidden_features": 16, "discriminator_steps": 0, "gaussian_start": False}


def make(**fields: Any) -> GAM:
    torch.manual_seed(0)
    return GAM(GAMConfig(**SMALL | fields), 3).double().train()


@pytest.mark.parametrize(
    ("backbone", "taps"),
    [
        ("erfnet-encoder", ("encoder.layers.2", "encoder.layers.6", "encoder.layers.10", "scores")),
        ("drn26", ("layer2", "layer4", "layer6", "scores")),
    ],
)
def test_scenes_are_matched_at_the_quarters_of_the_network(backbone: Any, taps: tuple[str, ...]) -> None:
    made = GAM(GAMConfig(backbone=backbone), 19)
    own = made.config
    # Sections 4.2 and 5.3.
    assert (own.game, own.weight_of_game, own.weight_of_drift, own.joins) == ("least-squares", 0.1, 2.0, "jointly")
    assert made.tap_names == taps and made.tap_scales == (1.0,) * 4
    if backbone == "erfnet-encoder":
        shapes = [(64, 128, 256), (128, 64, 128), (128, 64, 128), (19, 64, 128)]
        assert list(made.tap_shapes((512, 1024)).values()) == shapes


def test_the_defaults_are_the_papers_for_digits() -> None:
    made = make(backbone="lenet-gam")
    config = GAMConfig(backbone="lenet-gam")
    assert made.tap_names == ("linear.2", "scores") and made.tap_scales == (0.1, 1.0)
    assert (config.game, config.weight_of_game, config.weight_of_drift, config.joins) == (
        "classical", 1.0, 0.5, "one-by-one",
    )  # fmt: skip
    assert (config.steps_alone(10_000), config.gaussian_start, config.lr * config.adaptation_lr_factor) == (
        500, True, pytest.approx(2e-4),
    )  # fmt: skip
    widths = [
        [layer.out_features for layer in bank.discriminator(0) if isinstance(layer, nn.Linear)]
        for bank in GAM(config, 10).discriminators
    ]
    assert widths == [[500, 500, 1]] * 2
    assert make(backbone="lenet-gam", bottleneck=8).tap_scales == (0.1, 1.0)


@pytest.mark.parametrize(
    ("taps", "scales"),
    [
        ((), (0.1, 1.0)),
        (("5", "4"), (1.0, 0.1)),
        (("3", "4"), (1.0, 0.1)),
        # There is nothing to balance it with.
        (("4",), (1.0,)),
        (("3", "5"), (1.0, 1.0)),
    ],
)
def test_the_layer_before_the_scores_of_images_weighs_less_beside_others(
    taps: tuple[str, ...], scales: tuple[float, ...]
) -> None:
    assert make(taps=taps).tap_scales == scales


def test_the_layer_before_the_scores_of_label_maps_weighs_as_much_as_others() -> None:
    made = GAM(GAMConfig(backbone="erfnet-encoder", taps=("16", "scores"), **SMALL), 3)
    assert made.tap_names == (made.encoders.source.taps[-1], "scores") and made.tap_scales == (1.0, 1.0)


@pytest.mark.parametrize("layers", ["hidden", "all"])
def test_the_gaussian_start_may_match_the_scores_too(layers: Any, batch: Batch) -> None:
    made = make(gaussian_start=True, layers=layers).eval()
    found = made.match(lambda: [batch.source.images], lambda: [batch.target.images])
    assert found.logs["matching/layers"] == (5 if layers == "all" else 4)
    moments = []
    for domain, images in (("source", batch.source.images), ("target", batch.target.images)):
        with made.evaluating_domain(domain), torch.no_grad():
            scores = made.predict(images)
        moments.append(torch.stack(torch.var_mean(scores, dim=0, correction=0)))
    assert torch.allclose(*moments, rtol=1e-7, atol=1e-9) == (layers == "all")
    assert same(made.target_heads, state_of(made.heads)) == (layers == "hidden")


def test_the_targets_classifier_learns_with_its_own_factor() -> None:
    made = make(lr=0.01, adaptation_lr_factor=0.3, discriminator_lr_factor=0.5, head_lr_factor=10.0)
    optimisers = made.optimisers()
    rates = {id(p): group["lr"] for chosen in optimisers.values() for group in chosen.param_groups
             for p in group["params"]}  # fmt: skip
    parts = (made.encoders.source, made.heads, made.encoders.target, made.target_heads, made.discriminators)
    found = [{rates.pop(id(parameter)) for parameter in part.parameters()} for part in parts]
    assert [sorted(each) for each in found] == [[pytest.approx(rate)] for rate in (0.01, 0.1, 0.003, 0.03, 0.005)]
    assert not rates
    own = {id(p) for group in optimisers["features"].param_groups for p in group["params"]}
    assert own == {id(p) for part in (made.encoders.target, made.target_heads) for p in part.parameters()}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"taps": ("no",)}, "taps: expected a number from 1 to 5, one of convolutions.3"),
        ({"taps": ("6",)}, "taps: expected 1 to 5, the layers of a LeNet, got 6"),
        ({"taps": ("5", "scores")}, "taps: scores is named twice in 5 scores"),
        ({"scales": (1.0,)}, "scales: expected one for each of taps, got 1 for the default"),
        ({"taps": ("4", "5"), "scales": (1.0,)}, "scales: expected one for each of taps, got 1 for 2 taps"),
        ({"taps": ("4",), "scales": (0.0,)}, r"scales: expected numbers above 0, got \(0.0,\)"),
        ({"gan": "wasserstein"}, "gan: expected one of 'classical', 'least-squares', None, got 'wasserstein'"),
        ({"gan": "least-squares", "mapping": "minimax"}, "mapping: minimax contradicts gan 'least-squares'"),
        ({"adversarial_weight": 0.0}, "adversarial_weight: expected more than 0, got 0"),
        ({"drift_weight": -1.0}, "drift_weight: expected at least 0, got -1"),
        ({"drift_weight": 0.0, "drift": "mean"}, "drift: mean contradicts drift_weight 0"),
        ({"gaussian_start": False, "drift_from": "start"}, "drift_from: start contradicts gaussian_start false"),
        (
            {"drift_weight": 0.0, "gaussian_start": True, "drift_from": "start"},
            "drift_from: start contradicts drift_we",
        ),
        ({"gaussian_start": False, "layers": "all"}, "layers: all contradicts gaussian_start false"),
        ({"normalisation_policy": "separate"}, "normalisation_policy: 'separate' .* the training of GAM's source"),
        ({"discriminator_steps": -1}, "discriminator_steps: expected at least 0, got -1"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**fields)


@pytest.mark.parametrize("fields", [{"taps": "4"}, {"taps": (4,)}, {"drift_weight": "1"}, {"gaussian_start": 1}])
def test_fields_of_another_type_are_refused(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(TypeError, match=f"{name}: expected"):
        GAMConfig(**fields)

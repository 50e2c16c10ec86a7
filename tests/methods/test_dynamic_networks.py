"""Methods on a network with dynamic residuals: what learns, what stays, and that nothing else differs from static."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
import yaml
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from dynconv.data import Batch
from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.run_options import RunOptions
from dynconv.methods import (
    ADDA,
    METHODS,
    ADDAConfig,
    DRTConfig,
    MCDConfig,
    Method,
    SourceOnly,
    SourceOnlyConfig,
    Update,
)
from dynconv.models import dynamic_parameters
from dynconv.nn import DynamicConv2d

Train = Callable[[Method, Iterable[Batch], int], list[Update]]
# One discriminator that is quick; without dropout two networks can be held against each other.
GAME: dict[str, Any] = {"hidden_features": 8, "dropout": 0.0, "ramp": "none"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "source-only": ("source-only", {}),
    "adabn": ("adabn", {}),
    # At 0.01 the four hidden units of the first branch, which sees mean colours, are soon off for all target images.
    "adda": ("adda", {"hidden_features": 8, "lr": 1e-3}),
    "adda, shared": ("adda", {"hidden_features": 8, "weight_sharing": "shared"}),
    "mcd": ("mcd", {"discrepancy_steps": 1}),
    "mcd, reversal": ("mcd", {"form": "reversal"}),
    "mcd, domain-specific": ("mcd", {"form": "reversal", "normalisation_policy": "domain-specific"}),
    "m3sda": ("m3sda", {"discrepancy_steps": 1, "moment_weight": 0.1}),
    "dann": ("dann", GAME),
    "dan": ("dan", {"estimator": "unbiased", "kernel_weights": "equal"}),
}
FIELDS = ("residual", "num_bases", "basis_kernel_size", "reduction", "temperature", "scale_activation", "branch_init")


def make(case: str, **fields: Any) -> Method:
    name, own = CASES.get(case, (case, {}))
    torch.manual_seed(0)
    kind = METHODS[name]
    return kind.for_task(kind.config_class(**{"lr": 0.01} | own | fields), 3, 2).double().train()


@pytest.fixture
def two_sources(batch: Batch) -> Batch:
    batch.source.domains[2:] = 1
    return batch


def gradients_of(module: nn.Module) -> set[str]:
    """The names of the parameters of `module` which get a gradient other than zero from here on."""
    seen: set[str] = set()
    for name, parameter in module.named_parameters():

        def note(gradient: Tensor, name: str = name) -> None:
            if gradient.any():
                seen.add(name)

        parameter.register_hook(note)
    return seen


def added(module: nn.Module) -> dict[str, nn.Parameter]:
    """Bases and branches by name."""
    ids = {id(parameter) for parameter in dynamic_parameters(module)}
    return {name: parameter for name, parameter in module.named_parameters() if id(parameter) in ids}


@pytest.mark.parametrize("case", [*CASES, "drt, mmd"])
def test_every_basis_and_branch_learns(case: str, two_sources: Batch, train: Train) -> None:
    fields = {"residual": "combined", "num_bases": 2}
    made = make("drt", loss="mmd", **fields) if case == "drt, mmd" else make(case, **fields)
    before = {name: parameter.detach().clone() for name, parameter in added(made.features).items()}
    # Of three convolutions; unshared ADDA has two encoders.
    assert len(before) == 9 * (2 if case == "adda" else 1)
    seen = gradients_of(made.features)
    train(made, [two_sources] * 4, 4)
    # ADDA's first two steps are the source's encoder's, the others the target's.
    assert before.keys() <= seen
    for name, parameter in added(made.features).items():
        assert not torch.equal(parameter, before[name]), name


def test_while_adda_adapts_the_sources_bases_and_branches_stay(batch: Batch, train: Train) -> None:
    made = make("adda", residual="subspace", num_bases=2)
    assert isinstance(made, ADDA) and made.encoders is not None
    optimisers = made.optimisers()
    encoders = {"source": made.encoders.source, "features": made.encoders.target}
    for name, encoder in encoders.items():
        held = {id(p) for group in optimisers[name].param_groups for p in group["params"]}
        assert held == {id(parameter) for parameter in encoder.parameters()}
    seen = gradients_of(made.encoders)
    made.begin_step(3, 4)
    for update in made.updates(batch):
        update.loss.backward()
    assert {f"target.{name}" for name in added(made.encoders.target)} <= seen
    assert not [name for name in seen if name.startswith("source.")]


@pytest.mark.parametrize("case", CASES)
def test_with_zero_bases_every_step_is_the_static_networks(case: str, two_sources: Batch) -> None:
    """From the same weights: losses, groups, logs and predictions agree, so the network is all that differs."""
    static, dynamic = make(case), make(case, residual="subspace", num_bases=2)
    assert not dynamic_parameters(static.features)
    missing, unexpected = dynamic.load_state_dict(static.state_dict(), strict=False)
    assert not unexpected and all(".basis" in name or ".branch." in name for name in missing)
    with torch.no_grad():
        for layer in dynamic.modules():
            if isinstance(layer, nn.Conv2d):
                assert isinstance(layer, DynamicConv2d)
                layer.basis.zero_()
    for step in (0, 3):
        for made in (static, dynamic):
            made.begin_step(step, 4)
        pairs = list(zip(static.updates(two_sources), dynamic.updates(two_sources), strict=True))
        for expected, found in pairs:
            assert found.of == expected.of and found.logs.keys() == expected.logs.keys()
            torch.testing.assert_close(found.loss, expected.loss)
    scores = []
    for made in (static, dynamic):
        made.eval().observe_target(lambda: [two_sources.target.images])
        with torch.no_grad():
            scores.append(made.predict(two_sources.target.images))
    torch.testing.assert_close(scores[1], scores[0])


def test_bases_and_branches_learn_at_their_own_rate_in_both_encoders() -> None:
    made = make("adda", residual="channel", residual_lr_factor=5.0, adaptation_lr_factor=0.5)
    assert isinstance(made, ADDA) and made.encoders is not None
    new = {id(parameter) for parameter in dynamic_parameters(made.features)}
    for name, factor in (("source", 1.0), ("features", 0.5)):
        for group in made.optimisers()[name].param_groups:
            for parameter in group["params"]:
                assert group["lr"] == pytest.approx(1e-3 * factor * (5.0 if id(parameter) in new else 1.0))


def test_beside_weights_of_a_file_bases_and_branches_are_new(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(make("source-only", bottleneck=4).features.trunk.state_dict(), file)
    fields = {"bottleneck": 4, "pretrained_lr_factor": 0.1, "residual_lr_factor": 5.0}
    made = make("adda", weights=str(file), residual="subspace", **fields)
    assert isinstance(made, ADDA) and made.encoders is not None
    optimisers = made.optimisers()
    for name, encoder, factor in (("source", made.encoders.source, 1), ("features", made.encoders.target, 0.2)):
        rates = {id(p): group["lr"] for group in optimisers[name].param_groups for p in group["params"]}
        for key, parameter in encoder.named_parameters():
            own = 5.0 if key in added(encoder) else 1.0 if key.startswith("bottleneck") else 0.1
            assert rates[id(parameter)] == pytest.approx(1e-3 * factor * own), key


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_methods_command_has_the_fields(name: str) -> None:
    words = ["--residual", "combined", "--num-bases", "2", "--reduction", "8", "--scale-activation", "hard"]
    words += ["--temperature", "2", "--basis-kernel-size", "None", "--residual-lr-factor", "5"]
    words += ["--branch-init", "kaiming"]
    spec = tyro.cli(METHODS[name].config_class, args=words).dynamic_spec()
    assert spec is not None
    assert tuple(getattr(spec, field) for field in FIELDS) == ("combined", 2, None, 8, 2.0, "hard", "kaiming")
    default = METHODS[name].config_class().dynamic_spec()
    assert (default is not None) is (name == "drt")


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (MCDConfig, {"num_bases": 2}, "num_bases: 2 contradicts residual 'none', which makes a static network; choose"),
        (MCDConfig, {"basis_kernel_size": None}, "basis_kernel_size: None contradicts residual 'none'"),
        (MCDConfig, {"reduction": 8}, "reduction: 8 contradicts residual 'none'"),
        (MCDConfig, {"temperature": 2.0}, "temperature: 2.0 contradicts residual 'none'"),
        (MCDConfig, {"scale_activation": "hard"}, "scale_activation: hard contradicts residual 'none'"),
        (MCDConfig, {"residual_lr_factor": 2.0}, "residual_lr_factor: 2.0 contradicts residual 'none'"),
        (
            MCDConfig,
            {"residual": "subspace", "scale_activation": "hard"},
            "hard contradicts residual 'subspace', which has no",
        ),
        (
            MCDConfig,
            {"residual": "channel", "num_bases": 2},
            "num_bases: 2 contradicts residual 'channel', which has",
        ),
        (MCDConfig, {"residual": "channel", "temperature": 2.0}, "temperature: 2.0 contradicts residual 'channel'"),
        (MCDConfig, {"residual": "subspace", "temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        (MCDConfig, {"residual": "both"}, "residual: expected one of 'none', 'subspace', 'channel', 'combined', got"),
        (DRTConfig, {"residual": "none"}, "residual: expected one of 'subspace', 'channel', 'combined', got 'none'"),
    ],
)
def test_fields_that_make_no_network_are_refused(config: type[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)


@pytest.mark.parametrize("residual", ["channel", "combined"])
def test_a_scale_that_begins_at_one_and_a_half_is_refused_beside_weights(residual: str) -> None:
    remedies = "choose scale_activation 'hard', which begins at 1, residual 'subspace', or weights 'none'"
    for fields in ({"backbone": "resnet50"}, {"weights": "some.pth"}):
        with pytest.raises(ValueError, match=f"scale_activation: 'sigmoid' begins at 1.5 times .*; {remedies}"):
            SourceOnlyConfig(residual=residual, **fields)
        SourceOnlyConfig(residual=residual, scale_activation="hard", **fields)
    SourceOnlyConfig(residual=residual, backbone="resnet50", weights="none")


def test_a_configuration_from_before_the_fields_is_that_of_a_static_network(tmp_path: Path) -> None:
    config = TrainConfig("adda", RunOptions(protocol="embedded:optical"), ADDAConfig(pretrain=0.25))
    plain = config.to_dict()
    for field in (*FIELDS, "residual_lr_factor"):
        del plain["adda"][field]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plain))
    loaded = load_config(file)
    assert loaded == config and loaded.hash == config.hash and loaded.options.dynamic_spec() is None
    stored = {key: value for key, value in config.identity().items() if key.removeprefix("adda.") not in FIELDS}
    assert config.mismatches(stored) == []
    dynamic = dataclasses.replace(config, options=dataclasses.replace(config.options, residual="subspace"))
    assert dynamic.mismatches(stored) == ["adda.residual: 'none' -> 'subspace'"] and dynamic.hash != config.hash


def test_a_source_checkpoint_of_other_coefficients_is_refused(tmp_path: Path) -> None:
    trained = SourceOnly(SourceOnlyConfig(residual="combined", num_bases=2, temperature=3.0), 3)
    file = tmp_path / "last.pt"
    own = {f"source-only.{key}": value for key, value in dataclasses.asdict(trained.config).items()}
    config = {"method": "source-only", **own}
    torch.save({"method": trained.state_dict(), "classes": ["a", "b", "c"], "config": config}, file)

    def adda(**fields: Any) -> ADDA:
        return ADDA(ADDAConfig(source_checkpoint=str(file), **fields), 3)

    made = adda(residual="combined", num_bases=2, temperature=3.0)
    assert made.encoders is not None
    for name, parameter in added(made.encoders.target).items():
        assert torch.equal(parameter, trained.features.get_parameter(name))
    with pytest.raises(ValueError, match="coefficients are found in another way; give its temperature 3.0$"):
        adda(residual="combined", num_bases=2)
    with pytest.raises(ValueError, match="in another way; give its temperature 3.0, scale_activation 'sigmoid'$"):
        adda(residual="combined", num_bases=2, scale_activation="hard")
    with pytest.raises(ValueError, match="do not fit; give its residual 'combined', num_bases 2 "):
        adda()


@pytest.fixture
def small_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the width and a block a stage, under the name of `resnet50`, and weights for it."""
    small = functools.partial(ResNet, Bottleneck, [1, 1, 1, 1], width_per_group=16)
    monkeypatch.setattr("torchvision.models.resnet50", lambda weights: small())
    monkeypatch.setattr("dynconv.models.network.imagenet_state", lambda name: small().state_dict())


@pytest.mark.usefixtures("small_resnet")
def test_a_run_without_weights_is_adapted_on_images_of_its_own_normalisation(tmp_path: Path) -> None:
    def saved(name: str, **fields: Any) -> dict[str, Any]:
        trained = SourceOnly(SourceOnlyConfig(backbone="resnet50", residual="channel", **fields), 3)
        own = {f"source-only.{key}": value for key, value in dataclasses.asdict(trained.config).items()}
        config = {"method": "source-only", **own}
        file = tmp_path / name
        torch.save({"method": trained.state_dict(), "classes": ["a", "b", "c"], "config": config}, file)
        scale = {"scale_activation": trained.config.scale_activation}
        return {"backbone": "resnet50", "residual": "channel", "source_checkpoint": str(file), **scale}

    # The scale that begins at 1.5: nothing else has come with weights.
    scratch = saved("scratch.pt", weights="none")
    assert ADDA(ADDAConfig(**scratch, weights="none"), 3).normalisation == "half"
    pretrained = saved("pretrained.pt", scale_activation="hard")
    with pytest.raises(ValueError, match="with weights 'auto', and with 'none' the images are normalised otherwise "
                       "than there; give weights 'auto'$"):  # fmt: skip
        ADDA(ADDAConfig(**pretrained, weights="none"), 3)
    scratch = saved("hard.pt", weights="none", scale_activation="hard")
    with pytest.raises(ValueError, match="with weights 'none', and with 'auto' the images .*; give weights 'none'$"):
        ADDA(ADDAConfig(**scratch), 3)

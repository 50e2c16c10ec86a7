"""The normalisation policies: what the running statistics saw, and which domain normalises which."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from torch import Tensor, nn

from dynconv import cli
from dynconv.data import Batch
from dynconv.methods import METHODS, MCDConfig, Method, SourceOnlyConfig, Update
from dynconv.models import DomainBatchNorm, NormalisationPolicy, build, domain_norms

POLICIES: tuple[NormalisationPolicy, ...] = typing.get_args(NormalisationPolicy)
TWO_DOMAINS = ("domain-specific", "adabn")
# Under these ADDA has an encoder for each domain.
OWN_ENCODERS = ("separate", "source-only", "frozen")
SMALL: dict[str, Any] = {"hidden_features": 16, "bottleneck": 8, "dropout": 0.0}
# The calibrator's classifier learns in the steps before the adaptation, which leaves it alone (test_calibrator.py).
OWN: dict[str, dict[str, Any]] = {
    "calibrator": {"backbone": "lenet-small", "width": 2, "blocks": 1, "pretrain": 0.99},
    "cyclegan": {"width": 2, "blocks": 1, "discriminator_width": 4, "pool_size": 5},
}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file of weights whose running statistics are not those that a network starts with."""
    generator = torch.Generator().manual_seed(3)
    features = build("lenet-small", num_classes=3).features
    for layer in features.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(generator=generator).mul_(0.1)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    file = tmp_path / "weights.pt"
    torch.save(features.state_dict(), file)
    return str(file)


def make(policy: str, weights: str, name: str = "mcd", **fields: Any) -> Method:
    torch.manual_seed(0)
    kind = METHODS[name]
    known = {field.name for field in dataclasses.fields(kind.config_class)}
    if "hidden_features" in known:
        fields = {key: value for key, value in SMALL.items() if key in known} | fields
    if name == "gsda":
        fields = {"num_groups": (2,)} | fields
    if name == "adda" and policy not in OWN_ENCODERS:
        fields = {"weight_sharing": "shared"} | fields
    fields = {"normalisation_policy": policy, "weights": weights} | OWN.get(name, {}) | fields
    return kind(kind.config_class(**fields), num_classes=3).double().train()


def first_norm(method: Method, domain: str = "source") -> nn.BatchNorm2d:
    """The first batch normalisation that images of `domain` come to."""
    layer = method.features.convolutions[1]
    return getattr(layer, domain) if isinstance(layer, DomainBatchNorm) else layer


def moments(method: Method, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, as torch keeps it, of what comes to the first batch normalisation."""
    values = method.features.convolutions[0](images)
    return values.mean((0, 2, 3)), values.var((0, 2, 3))


@torch.no_grad()
@pytest.mark.parametrize("policy", POLICIES)
def test_what_the_running_statistics_saw(policy: str, weights: str, batch: Batch) -> None:
    method = make(policy, weights)
    source, target = batch.source.images, batch.target.images
    start = {domain: copy.deepcopy(first_norm(method, domain)) for domain in ("source", "target")}
    method.encode(batch)
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {
        "joint": ([torch.cat([source, target])],) * 2,
        "separate": ([source, target],) * 2,
        "source-only": ([source],) * 2,
        "frozen": ([], []),
        "domain-specific": ([source], [target]),
        "adabn": ([source], []),
    }
    for domain, passes in zip(("source", "target"), seen[policy], strict=True):
        mean, variance = start[domain].running_mean, start[domain].running_var
        for images in passes:
            new_mean, new_variance = moments(method, images)
            mean, variance = 0.9 * mean + 0.1 * new_mean, 0.9 * variance + 0.1 * new_variance
        torch.testing.assert_close(first_norm(method, domain).running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(first_norm(method, domain).running_var, variance, rtol=1e-12, atol=1e-12)
        assert first_norm(method, domain).num_batches_tracked == len(passes)


@torch.no_grad()
@pytest.mark.parametrize("policy", POLICIES)
def test_which_domain_reaches_the_features_of_the_other(policy: str, weights: str, batch: Batch) -> None:
    def features(source_shift: float, target_shift: float) -> tuple[Tensor, Tensor]:
        moved = copy.deepcopy(batch)
        moved.source.images += source_shift
        moved.target.images += target_shift
        return make(policy, weights).encode(moved)

    source, target = features(0, 0)
    assert source.shape == (4, 128) and target.shape == (6, 128)
    assert torch.equal(features(0, 1)[0], source) is (policy != "joint")
    # By the source's running statistics, the source of this very step has moved the target.
    assert torch.equal(features(1, 0)[1], target) is (policy in ("separate", "frozen", "domain-specific"))


@torch.no_grad()
@pytest.mark.parametrize("policy", ["source-only", "adabn", "frozen"])
def test_held_statistics_normalise_as_in_evaluation(policy: str, weights: str, batch: Batch) -> None:
    method = make(policy, weights)
    source, target = method.encode(batch)
    method.eval()
    with method.evaluating_domain("source"):
        torch.testing.assert_close(method.features(batch.target.images), target)
        assert torch.allclose(method.features(batch.source.images), source) is (policy == "frozen")


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_reach_every_parameter_that_the_domain_has(policy: str, weights: str, batch: Batch) -> None:
    method = make(policy, weights)
    others = {"source": "target", "target": "source"}
    named = dict(method.features.named_parameters())
    for domain, features in zip(("source", "target"), method.encode(batch), strict=True):
        # A weighted sum: what is normalised by its own mean sums to the bias, whatever the weights.
        loss = (features * torch.linspace(-1, 2, features.numel(), dtype=torch.float64).view_as(features)).sum()
        gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            foreign = policy == "domain-specific" and f".{others[domain]}." in name
            reached = gradient is not None and bool((gradient != 0).any())
            assert reached is not foreign, (domain, name)


# `imported` takes a file and trains nothing: tests/methods/test_imported.py.
TRAINED = [name for name in METHODS if name != "imported"]


def policies_of(name: str) -> tuple[str, ...]:
    own = {
        "source-only": ("source-only", "frozen", "adabn"),
        "target-only": ("source-only", "frozen"),
        "adabn": ("adabn",),
        "gaussian": ("source-only", "frozen"),
        "gam": ("source-only", "frozen"),
        "calibrator": ("source-only", "frozen"),
        "cyclegan": ("source-only", "frozen", "adabn"),
    }
    return own.get(name, POLICIES)


@pytest.mark.parametrize(("name", "policy"), [(name, policy) for name in TRAINED for policy in policies_of(name)])
def test_every_method_trains_and_predicts_under_every_policy(
    name: str,
    policy: str,
    weights: str,
    batch: Batch,
    train: Callable[[Method, Iterable[Batch], int], list[Update]],
) -> None:
    method = make(policy, weights, name)
    before = copy.deepcopy(method.state_dict())
    updates = train(method, [batch] * 2, 2)
    assert all(update.loss.isfinite() for update in updates)
    assert not any(layer.domain == "source" for layer in domain_norms(method))
    assert all(layer.training for layer in method.modules())
    moved = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert any(".weight" in key for key in moved)
    assert any("running_mean" in key for key in moved) is (policy != "frozen")
    method.eval()
    method.observe_target(lambda: iter([batch.target.images]))
    scores = method.predict(batch.target.images)
    assert scores.shape == (6, 3) and scores.isfinite().all()
    torch.testing.assert_close(scores, method.scores(method.features(batch.target.images)))
    with method.evaluating_domain("source"):
        same = torch.equal(method.predict(batch.target.images), scores)
    assert same is (policy not in TWO_DOMAINS and not (name in ("adda", "gam") and policy in OWN_ENCODERS))
    assert method.config.has_source_network is not same


@pytest.mark.parametrize("policy", TWO_DOMAINS)
@pytest.mark.parametrize("name", ["mcd", "dann"])
def test_a_restored_method_goes_on_and_an_evaluation_disturbs_nothing(
    name: str, policy: str, weights: str, batch: Batch
) -> None:
    def run(method: Method, optimisers: dict[str, torch.optim.Optimizer], steps: range) -> None:
        method.train()
        for step in steps:
            method.begin_step(step, 4)
            for update in method.updates(batch):
                for optimiser in optimisers.values():
                    optimiser.zero_grad()
                update.loss.backward()
                for group in update.of:
                    optimisers[group].step()

    whole = make(policy, weights, name, optimiser="adam", lr=1e-3)
    optimisers = whole.optimisers()
    run(whole, optimisers, range(2))
    halfway = copy.deepcopy((whole.state_dict(), {key: o.state_dict() for key, o in optimisers.items()}))
    run(whole, optimisers, range(2, 4))

    torch.manual_seed(1)
    restored = METHODS[name](whole.config, num_classes=3).double()
    restored.load_state_dict(halfway[0])
    optimisers = restored.optimisers()
    for key, optimiser in optimisers.items():
        optimiser.load_state_dict(halfway[1][key])
    restored.eval()
    restored.observe_target(lambda: iter([batch.target.images]))
    run(restored, optimisers, range(2, 4))
    for key, value in whole.state_dict().items():
        of_evaluation = policy == "adabn" and ".target.running" in key
        assert torch.equal(value, restored.state_dict()[key]) is not of_evaluation, key

    # Both sets of statistics, and both sets of weights, are in the state.
    again = make(policy, weights, name)
    again.load_state_dict(restored.state_dict())
    copied = copy.deepcopy(restored)
    for domain in ("source", "target"):
        found = []
        for method in (restored.eval(), again.eval(), copied.eval()):
            with method.evaluating_domain(domain):
                found.append(method.predict(batch.target.images))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@torch.no_grad()
def test_adabn_judges_the_target_by_its_population_and_the_source_by_what_training_saw(
    weights: str, batch: Batch
) -> None:
    method = make("adabn", weights, "source-only")
    list(method.updates(batch))
    method.eval()
    with method.evaluating_domain("source"):
        of_source = method.predict(batch.source.images)
    method.observe_target(lambda: iter(batch.target.images.split(4)))
    mean, _ = moments(method, batch.target.images)
    torch.testing.assert_close(first_norm(method, "target").running_mean, mean)
    adapted = method.predict(batch.target.images)
    with method.evaluating_domain("source"):
        assert torch.equal(method.predict(batch.source.images), of_source)
        # One batch of all target images in training mode: normalised by exactly what the population has.
        torch.testing.assert_close(method.train().predict(batch.target.images), adapted, rtol=1e-9, atol=1e-9)


def test_only_adabn_observes_the_target_and_not_in_training(weights: str) -> None:
    def unread() -> Iterable[Tensor]:
        raise AssertionError("the images were asked for")

    for policy in POLICIES:
        method = make(policy, weights)
        if policy == "adabn":
            with pytest.raises(
                ValueError, match=r"observe_target: the method is in training mode; call eval\(\) first"
            ):
                method.observe_target(unread)
            with pytest.raises(AssertionError):
                method.eval().observe_target(unread)
        else:
            method.observe_target(unread)


def test_the_targets_own_layers_came_with_the_weights_too(weights: str) -> None:
    method = make("domain-specific", weights, lr=0.5, pretrained_lr_factor=0.1, optimiser="sgd")
    rates = {id(p): group["lr"] for group in method.optimisers()["features"].param_groups for p in group["params"]}
    assert {rates[id(parameter)] for parameter in method.features.parameters()} == {0.05}
    scratch = make("domain-specific", "none", lr=0.5, pretrained_lr_factor=0.1, optimiser="sgd")
    (group,) = scratch.optimisers()["features"].param_groups
    assert group["lr"] == 0.5


def test_the_policy_does_not_change_the_weights_that_a_seed_draws(weights: str) -> None:
    drawn = [make(policy, "none") for policy in POLICIES if policy != "frozen"]
    for made in drawn[1:]:
        for head, other in zip(made.heads, drawn[0].heads, strict=True):
            assert torch.equal(head.weight, other.weight)
        assert torch.equal(made.features.convolutions[0].weight, drawn[0].features.convolutions[0].weight)


# AdaBN is a policy, and refuses all else.
@pytest.mark.parametrize("name", [name for name in TRAINED if name != "adabn"])
def test_without_normalisation_there_is_no_policy(name: str) -> None:
    kind = METHODS[name].config_class
    default = kind(norm="none").normalisation_policy
    separate = dict.fromkeys(("mcd", "dann", "cdan", "pada", "adda", "m3sda", "afn"), "separate")
    by_source = dict.fromkeys(
        ("source-only", "target-only", "gaussian", "gam", "calibrator", "cyclegan"), "source-only"
    )
    assert default == (separate | by_source).get(name, "joint")
    for policy in POLICIES:
        if policy != default:
            wanted = f"normalisation_policy: {policy} contradicts norm 'none'.* leave normalisation_policy at {default}"
            with pytest.raises(ValueError, match=wanted):
                kind(norm="none", normalisation_policy=policy)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "adabn"])
def test_frozen_statistics_must_come_with_weights(name: str) -> None:
    kind = METHODS[name].config_class
    for fields in ({}, {"weights": "none"}, {"backbone": "resnet50", "weights": "none"}, {"backbone": "resnet-small"}):
        backbone = fields.get("backbone", kind().backbone)
        with pytest.raises(
            ValueError, match=f"'frozen' keeps .* {backbone} starts without any; give a FILE as weights"
        ):
            kind(normalisation_policy="frozen", **fields)
    assert kind(normalisation_policy="frozen", backbone="resnet50").normalisation_policy == "frozen"
    wanted = f"there are ImageNet weights of resnet50 and resnet101, not of {kind().backbone}"
    with pytest.raises(ValueError, match=wanted):
        kind(normalisation_policy="frozen", weights="imagenet")


@pytest.mark.parametrize("policy", ["joint", "separate", "domain-specific"])
def test_without_a_look_at_the_target_it_cannot_be_normalised(policy: str) -> None:
    message = f"normalisation_policy: '{policy}' normalises target images in training, and source-only looks at none"
    with pytest.raises(ValueError, match=message):
        SourceOnlyConfig(normalisation_policy=policy)
    drt = METHODS["drt"].config_class
    if policy == "joint":
        # Released DRT's policy; the only images there are then joined are the sources'.
        assert drt(loss="source-only").normalisation_policy == policy
    else:
        with pytest.raises(ValueError, match=f"'{policy}' normalises target .* loss 'source-only' looks at none"):
            drt(loss="source-only", normalisation_policy=policy)


def test_the_command_line_says_what_is_wrong_before_any_data_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert tyro.cli(MCDConfig, args=["--normalisation-policy", "adabn"]).normalisation_policy == "adabn"
    for name in ("mcd", "drt"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["train", name, "--normalisation-policy", "frozen", "--protocol", "no-such:data"])
        assert stopped.value.code == 2
        captured = capsys.readouterr()
        said = " ".join(captured.err.replace("│", " ").split())
        assert "normalisation_policy: 'frozen' keeps the running statistics that come with weights" in said
        assert captured.out == "" and "Traceback" not in captured.err

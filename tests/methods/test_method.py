"""What every method keeps: its groups, schedules, state, configuration and the promise not to look at the target."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
import tyro
import yaml

from dynconv.data import Batch
from dynconv.engine.plain_values import from_plain, to_plain
from dynconv.methods import METHODS, MCDConfig, Method, SourceOnly, SourceOnlyConfig
from dynconv.methods.adversarial import AdversarialMethod

# `imported` takes a file and trains nothing: tests/methods/test_imported.py.
NAMES = sorted(METHODS.keys() - {"imported"})


FORMS = ("alternating", "reversal")
ADVERSARIAL = sorted(name for name, kind in METHODS.items() if issubclass(kind, AdversarialMethod))


OWN_GROUPS = {
    "adda": {"discriminators", "source"},
    "gam": {"discriminators", "source"},
    "calibrator": {"calibrator", "discriminators"},
    "cyclegan": {"generators", "discriminators"},
}


FIXED = {"dropout": 0.0, "ramp_steps": 3, "patch": False, "shuffle": False}


def make(name: str, **fields: object) -> Method:
    torch.manual_seed(0)
    kind = METHODS[name]
    if name == "gsda":
        fields = {"num_groups": (2,)} | fields
    if "hidden_features" in {field.name for field in dataclasses.fields(kind.config_class)}:
        # Of the full width discriminators in float64 take seconds.
        fields = {"hidden_features": 16} | fields
    if name == "cyclegan":
        # Of the default size six steps in float64 take a minute.
        fields = {"width": 2, "blocks": 1, "discriminator_width": 4, "pool_size": 5} | fields
    if name == "calibrator":
        fields = {"backbone": "lenet-small", "width": 2, "blocks": 1} | fields
    return kind(kind.config_class(**fields), num_classes=3).double()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    made = make(name)
    optimisers = made.optimisers()
    own = {"discriminators"} if name in ADVERSARIAL else OWN_GROUPS.get(name, set())
    assert set(optimisers) == {"features", "heads"} | own
    held = [id(p) for optimiser in optimisers.values() for group in optimiser.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in made.parameters())
    inside = {id(p) for group in optimisers["heads"].param_groups for p in group["params"]}
    # The target's own classifier adapts with its features.
    assert inside == {id(parameter) for parameter in made.heads.parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_updates_step_known_groups_and_log_detached_scalars(name: str, batch: Batch) -> None:
    made = make(name).train()
    groups = made.optimisers().keys()
    for update in made.updates(batch):
        assert update.loss.dim() == 0
        assert update.loss.isfinite()
        assert set(update.of) <= groups
        assert update.logs
        for value in update.logs.values():
            assert isinstance(value, float) or (value.dim() == 0 and not value.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_lower_the_cross_entropy(name: str, batch: Batch, train) -> None:
    own = {"mcd": {"discrepancy_weight": 1.0}, "drt": {"discrepancy_weight": 1.0}, "adda": {"pretrain": 0.99}}
    own |= {"calibrator": {"pretrain": 0.99}, "gam": {"pretrain": 0.99}}
    # Four images of noise are brought together sooner than told apart.
    own |= {"dan": {"alignment_weight": 0.1}, "jan": {"alignment_weight": 0.1}}
    made = make(name, optimiser="adam", lr=1e-3, **own.get(name, {}))
    # The last step of a Gaussian run is the matching.
    updates = train(made, [batch] * 6, 7 if name == "gaussian" else 6)
    losses = [float(update.logs["cross_entropy"]) for update in updates if "cross_entropy" in update.logs]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("name", "fields"),
    [(name, {}) for name in NAMES] + [(name, {"form": form}) for name in ADVERSARIAL for form in FORMS],
)
def test_a_step_in_half_precision_is_finite(name: str, fields: dict[str, str], batch: Batch) -> None:
    made = make(name, **fields).float().train()
    batch.source.images, batch.target.images = batch.source.images.float(), batch.target.images.float()
    optimisers = made.optimisers()
    updates = made.updates(batch)
    while True:
        # As the engine does it: the backward pass is outside.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            update = next(updates, None)
        if update is None:
            break
        assert update.loss.dtype == torch.float32
        parameters = [p for name in update.of for group in optimisers[name].param_groups for p in group["params"]]
        for gradient in torch.autograd.grad(update.loss, parameters, retain_graph=True):
            assert gradient.dtype == torch.float32
            assert gradient.isfinite().all()


def test_source_only_never_sees_the_target(batch: Batch) -> None:
    made = make("source-only").train()
    batch.target.images.fill_(float("nan"))
    (update,) = made.updates(batch)
    assert update.of == ("features", "heads")
    features = made.features(batch.source.images)
    wanted = torch.nn.functional.cross_entropy(made.heads[0](features), batch.source.labels)
    torch.testing.assert_close(update.loss, wanted)
    assert all(buffer.isfinite().all() for buffer in made.buffers())


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_class_scores(name: str, batch: Batch) -> None:
    made = make(name).eval()
    scores = made.predict(batch.target.images)
    assert scores.shape == (6, 3)
    torch.testing.assert_close(scores[:2], made.predict(batch.target.images[:2]))


def test_the_step_schedule_decays_at_its_fractions() -> None:
    made = make("source-only", lr=0.5, head_lr_factor=2.0, lr_schedule="step", lr_milestones=(0.5, 0.75), lr_decay=0.1)
    optimisers = made.optimisers()
    seen = []
    for step in range(8):
        made.begin_step(step, 8)
        seen.append([optimisers[name].param_groups[0]["lr"] for name in ("features", "heads")])
    factors = [1.0] * 4 + [0.1] * 2 + [0.01] * 2
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([[0.5 * f, 1.0 * f] for f in factors]))


def test_the_constant_schedule_ignores_the_milestones() -> None:
    made = make("source-only", lr=0.5)
    (group,) = made.optimisers()["features"].param_groups
    made.begin_step(7, 8)
    assert group["lr"] == 0.5


def test_begin_step_refuses_a_step_outside_the_run() -> None:
    made = make("source-only")
    for step in (-1, 8):
        with pytest.raises(ValueError, match=f"step: expected 0 to max_steps - 1 = 7, got {step}"):
            made.begin_step(step, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_method_goes_on_as_if_never_stopped(name: str, batch: Batch) -> None:
    # Dropout, patches and orders are the random state's affair, which the engine keeps.
    known = {field.name for field in dataclasses.fields(METHODS[name].config_class)}
    own = {key: value for key, value in FIXED.items() if key in known}
    fields = {"lr_schedule": "step", "optimiser": "adam", **own}

    def run(made: Method, optimisers: dict[str, torch.optim.Optimizer], steps: range) -> None:
        made.train()
        for step in steps:
            made.begin_step(step, 4)
            for update in made.updates(batch):
                for optimiser in optimisers.values():
                    optimiser.zero_grad()
                update.loss.backward()
                for group in update.of:
                    optimisers[group].step()

    whole = make(name, **fields)
    optimisers = whole.optimisers()
    run(whole, optimisers, range(2))
    state = copy.deepcopy((whole.state_dict(), {key: o.state_dict() for key, o in optimisers.items()}))
    assert state[0]["step"] == 1
    run(whole, optimisers, range(2, 4))

    torch.manual_seed(1)
    # Drawn anew: what the random groups were must come with the state.
    restored = METHODS[name](whole.config, num_classes=3).double()
    restored.load_state_dict(state[0])
    optimisers = restored.optimisers()
    for key, optimiser in optimisers.items():
        optimiser.load_state_dict(state[1][key])
    run(restored, optimisers, range(2, 4))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, restored.state_dict()[key]), key


def test_sgd_has_the_momentum_and_the_decay_of_the_configuration() -> None:
    made = make("source-only", optimiser="sgd", momentum=0.8, weight_decay=0.01)
    for optimiser in made.optimisers().values():
        assert isinstance(optimiser, torch.optim.SGD)
        assert (optimiser.defaults["momentum"], optimiser.defaults["weight_decay"]) == (0.8, 0.01)
    adam = make("source-only", weight_decay=0.02).optimisers()["features"]
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["weight_decay"] == 0.02


def test_label_smoothing_reaches_the_source_loss(batch: Batch) -> None:
    plain, smooth = make("source-only"), make("source-only", label_smoothing=0.2)
    features = plain.features(batch.source.images).detach()
    scores = smooth.heads[0](features)
    smoothed = smooth.source_loss(features, batch.source.labels)
    torch.testing.assert_close(
        smoothed, torch.nn.functional.cross_entropy(scores, batch.source.labels, label_smoothing=0.3)
    )
    assert smoothed != plain.source_loss(features, batch.source.labels)


def test_norm_and_backbone_reach_the_network() -> None:
    made = make("source-only", norm="none")
    assert not any("BatchNorm" in type(layer).__name__ for layer in made.modules())
    assert make("source-only", backbone="lenet-m3sda").features.out_features == 2048


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_survives_yaml(name: str) -> None:
    kind = METHODS[name].config_class
    config = kind(lr=0.3, lr_schedule="step", lr_milestones=(0.1, 0.2))
    plain = yaml.safe_load(yaml.safe_dump(to_plain(dataclasses.asdict(config))))
    assert from_plain(kind, plain, Path("config.yaml")) == config
    # A list is taken for the tuple of the shared field without the engine too.
    assert kind(lr=0.3, lr_schedule="step", lr_milestones=[0.1, 0.2]) == config


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_sets_every_field(name: str) -> None:
    kind = METHODS[name].config_class
    assert tyro.cli(kind, args=[]) == kind()
    args = ["--lr", "0.5", "--backbone", "lenet-m3sda", "--lr-milestones", "0.2", "0.4", "--lr-schedule", "step"]
    parsed = tyro.cli(kind, args=args)
    assert parsed == kind(lr=0.5, backbone="lenet-m3sda", lr_milestones=(0.2, 0.4), lr_schedule="step")
    if name == "drt":
        assert tyro.cli(kind, args=["--basis-kernel-size", "None"]).basis_kernel_size is None
        assert tyro.cli(kind, args=["--basis-kernel-size", "1"]).basis_kernel_size == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_field_says_what_it_does(name: str) -> None:
    kind = METHODS[name].config_class
    source = "".join(inspect.getsource(base) for base in kind.__mro__ if dataclasses.is_dataclass(base))
    for field in dataclasses.fields(kind):
        after = source.split(f"\n    {field.name}: ", 1)[1].split("\n", 1)[1]
        assert after.lstrip(" ").startswith('"""'), f"{field.name} has no doc under it"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr: expected more than 0, got 0.0"),
        ({"lr": float("nan")}, ValueError, "lr: expected a finite number, got nan"),
        ({"lr": "fast"}, TypeError, "lr: expected a number, got 'fast'"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay: expected at least 0, got -1.0"),
        ({"head_lr_factor": 0.0}, ValueError, "head_lr_factor: expected more than 0, got 0.0"),
        ({"momentum": 1.0}, ValueError, "momentum: expected less than 1, got 1.0"),
        ({"label_smoothing": 0.5}, ValueError, "label_smoothing: expected less than 0.5, got 0.5"),
        ({"lr_milestones": (0.5, 0.5)}, ValueError, "lr_milestones: expected growing fractions"),
        ({"lr_milestones": (0.0,)}, ValueError, "lr_milestones: expected growing fractions"),
        ({"lr_milestones": (0.5, 1.0)}, ValueError, "lr_milestones: expected growing fractions"),
        ({"lr_milestones": (0.5, float("nan"))}, ValueError, "lr_milestones: expected a finite number, got nan"),
        ({"lr_milestones": ("half",)}, TypeError, "lr_milestones: expected a number, got 'half'"),
        ({"lr_milestones": 0.5}, TypeError, "lr_milestones: expected a tuple of numbers, got 0.5"),
        ({"momentum": 0.5}, ValueError, "momentum: 0.5 contradicts optimiser 'adam'.* leave momentum at 0.9"),
        ({"lr_milestones": (0.5,)}, ValueError, "lr_milestones: .* contradicts lr_schedule 'constant'"),
        ({"lr_decay": 0.5}, ValueError, "lr_decay: 0.5 contradicts lr_schedule 'constant'"),
        ({"optimiser": "lion"}, ValueError, "optimiser: expected one of 'adam', 'sgd', got 'lion'"),
    ],
)
def test_bad_fields_are_refused_by_name(fields: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SourceOnlyConfig(**fields)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_rate_or_adam_alone_contradicts_nothing(name: str) -> None:
    args = ["--lr-schedule", "constant", "--optimiser", "adam"]
    config = tyro.cli(METHODS[name].config_class, args=args)
    assert (config.lr_schedule, config.optimiser) == ("constant", "adam")


def test_a_whole_number_is_not_a_fraction_and_true_is_not_one() -> None:
    with pytest.raises(TypeError, match="discrepancy_steps: expected an integer, got 2.5"):
        MCDConfig(discrepancy_steps=2.5)
    with pytest.raises(TypeError, match="ramp_steps: expected an integer, got True"):
        MCDConfig(ramp_steps=True)


def test_a_method_refuses_the_configuration_of_another() -> None:
    with pytest.raises(TypeError, match="config: expected a SourceOnlyConfig, got a MCDConfig"):
        SourceOnly(MCDConfig(), 3)

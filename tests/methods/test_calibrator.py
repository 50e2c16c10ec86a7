"""The Calibrator's method: what each update trains and what stays frozen, in float64, and the game it plays."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from game_of_groups import written_out
from steps import same, state_of, take
from torch import Tensor

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.data.normalise import normalise
from dynconv.methods import CalibratorConfig, CalibratorMethod, SourceOnly, SourceOnlyConfig
from dynconv.methods.calibrator import Calibrated
from dynconv.models import build
from dynconv.models.calibrator import Calibrator

LENET: dict[str, Any] = {"backbone": "lenet-small"}
SMALL = LENET | {"width": 2, "blocks": 1, "feature_hidden": (8,), "pixel_hidden": (8,)}
UNUSED = {None: ("-",), "both": ("-",), "feature": ("pixel_",), "pixel": ("feature_",)}


def make(**fields: Any) -> CalibratorMethod:
    torch.manual_seed(0)
    small = {name: value for name, value in SMALL.items() if not name.startswith(UNUSED[fields.get("discriminators")])}
    return CalibratorMethod(CalibratorConfig(**small | fields), 3).double().train()


def adapting(**fields: Any) -> CalibratorMethod:
    """In the first step of the adaptation; the classifier's running statistics are not those of its start."""
    made = make(**fields)
    with torch.no_grad():
        made.features(torch.randn(8, 3, 32, 32, dtype=torch.float64))
    made.begin_step(5, 10)
    assert made.adapting
    return made


def test_first_the_source_is_learnt_and_then_the_game_is_played(batch: Batch) -> None:
    made = make(pretrain=0.4)
    optimisers = made.optimisers()
    groups = []
    for step in range(5):
        made.begin_step(step, 5)
        groups.append(take(made, batch, optimisers))
    assert groups == [[("features", "heads")]] * 2 + [[("discriminators",), ("calibrator",)]] * 3


def test_the_source_is_learnt_as_source_only_learns_it(batch: Batch) -> None:
    made = make(optimiser="sgd", lr=0.05, weight_decay=0.01)
    torch.manual_seed(0)
    config = SourceOnlyConfig(optimiser="sgd", lr=0.05, weight_decay=0.01)
    other = SourceOnly(config, 3).double().train()
    optimisers, others = made.optimisers(), other.optimisers()
    for step in range(2):
        for method, own in ((made, optimisers), (other, others)):
            method.begin_step(step, 10)
            torch.manual_seed(step)
            take(method, batch, own)
    assert same(other.features, state_of(made.features))
    assert same(other.heads, state_of(made.heads))


@pytest.mark.parametrize("discriminators", ["both", "feature", "pixel"])
def test_not_one_parameter_or_buffer_of_the_classifier_changes(discriminators: str, batch: Batch) -> None:
    made = adapting(discriminators=discriminators, lr=0.01, weight_decay=0.1)
    optimisers = made.optimisers()
    frozen = {name: state_of(module) for name, module in (("features", made.features), ("heads", made.heads))}
    assert any(name.endswith("running_var") for name in frozen["features"])
    calibrator, game = state_of(made.calibrator), state_of(made.discriminators)
    for step in range(5, 8):
        made.begin_step(step, 10)
        take(made, batch, optimisers)
        # What the engine does around an evaluation.
        made.eval()
        made.predict(batch.target.images)
        made.train()
    assert same(made.features, frozen["features"])
    assert same(made.heads, frozen["heads"])
    assert not same(made.calibrator, calibrator)
    assert not same(made.discriminators, game)


def test_the_frozen_classifier_is_in_evaluation_mode_while_the_rest_trains() -> None:
    made = adapting()
    made.train()
    assert not any(module.training for module in (*made.features.modules(), *made.heads.modules()))
    assert all(module.training for module in (*made.calibrator.modules(), *made.discriminators.modules()))
    begun = make()
    begun.begin_step(0, 10)
    assert all(module.training for module in begun.features.modules())


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("feature_input", ["features", "logits", "probabilities"])
def test_the_losses_are_those_of_the_paper(groups: int, feature_input: str, batch: Batch) -> None:
    # Whole images in order: what the pixel discriminator sees is then no matter of chance.
    own = {"groups": groups, "feature_input": feature_input, "source_weight": 0.25, "target_weight": 0.5}
    made = adapting(patch=False, shuffle=False, **own)
    discrimination, calibration = list(made.updates(batch))
    source, target = batch.source.images, batch.target.images
    images = [source, target, made.calibrate(source), made.calibrate(target)]
    logits: dict[str, list[Tensor]] = {"feature": [], "pixel": []}
    for each in images:
        features = made.features(each)
        scores = made.heads[0](features)
        seen = {"features": features, "logits": scores, "probabilities": scores.softmax(dim=1)}[feature_input]
        logits["feature"].append(made.discriminators["feature"](seen))
        logits["pixel"].append(made.discriminators["pixel"].layers(each.flatten(1)))
    wanted, fooled = written_out(logits.values(), groups, source_weight=0.25, target_weight=0.5)
    torch.testing.assert_close(discrimination.loss, wanted)
    torch.testing.assert_close(calibration.loss, fooled)


def test_the_calibrator_meets_the_discriminators_that_have_stepped(batch: Batch) -> None:
    made = adapting(patch=False, shuffle=False)
    updates = made.updates(batch)
    next(updates)
    with torch.no_grad():
        for parameter in made.discriminators.parameters():
            parameter.zero_()
    # Uniform over four groups: four terms of log 4.
    torch.testing.assert_close(next(updates).loss, 4 * torch.log(torch.tensor(4.0, dtype=torch.float64)))


def test_the_calibrators_gradient_is_that_of_its_loss(batch: Batch) -> None:
    """Through the frozen classifier, by finite differences in a random direction."""
    made = adapting(patch=False, shuffle=False)

    def loss() -> Tensor:
        return list(made.updates(batch))[1].loss

    parameters = list(made.calibrator.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    values = []
    for step in (1e-8, -2e-8):
        with torch.no_grad():
            for parameter, way in zip(parameters, direction, strict=True):
                parameter += step * way
        values.append(float(loss().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-8, rel=1e-4)
    assert abs(slope) > 1e-3


def test_images_are_calibrated_from_the_first_step_of_the_adaptation_on(batch: Batch) -> None:
    made = make().eval()
    images = batch.target.images.clamp(-1, 1)
    alone = made.scores(made.features(images))
    assert torch.equal(made.predict(images), alone)
    made.begin_step(4, 10)
    assert torch.equal(made.predict(images), alone)
    made.begin_step(5, 10)
    wanted = made.scores(made.features(made.calibrate(images)))
    assert torch.equal(made.predict(images), wanted)
    assert not torch.equal(wanted, alone)
    for domain in ("source", "target"):
        with made.evaluating_domain(domain):
            assert torch.equal(made.predict(images), wanted)


@pytest.mark.parametrize("form", ["tanh", "nonnegative"])
def test_the_perturbation_keeps_within_its_bound_and_the_images_range(form: str, batch: Batch) -> None:
    made = adapting(epsilon=0.2, form=form)
    with torch.no_grad():
        for parameter in made.calibrator.parameters():
            parameter *= 50
    images = batch.target.images.clamp(-1, 1)
    moved = (made.calibrate(images).detach() - images) / 2
    assert float(moved.abs().max()) == pytest.approx(0.2)
    assert float(made.calibrate(images).detach().abs().max()) <= 1 + 1e-12
    assert (float(moved.min()) < -0.1) == (form == "tanh")


def test_images_normalised_as_imagenets_are_bounded_in_pixel_units() -> None:
    torch.manual_seed(0)
    calibrator = Calibrator(width=2, blocks=1, epsilon=0.1)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = Calibrated(calibrator, "imagenet")(normalise(pixels, normalisation="imagenet"))
    back = found * torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    back = back + torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    torch.testing.assert_close(back, calibrator(pixels / 255), atol=1e-5, rtol=0)


def test_a_checkpoint_tells_whether_the_adaptation_had_begun(batch: Batch) -> None:
    before, after = make(), adapting()
    for made in (before, after):
        restored = make(epsilon=0.4)
        restored.load_state_dict(copy.deepcopy(made.state_dict()))
        assert restored.calibrating == made.calibrating
        images = batch.target.images.clamp(-1, 1)
        assert torch.equal(restored.eval().predict(images), made.eval().predict(images))


def test_a_given_source_network_is_taken_and_only_adapted(batch: Batch, tmp_path: Path) -> None:
    torch.manual_seed(7)
    other = SourceOnly(SourceOnlyConfig(), 3)
    path = tmp_path / "last.pt"
    torch.save({"classes": ["a", "b", "c"], "config": {"method": "source-only"}, "method": other.state_dict()}, path)
    made = make(source_checkpoint=str(path))
    assert same(made.features, state_of(other.double().features))
    # Its accuracy at step 0 is that of the classifier alone.
    assert not made.calibrating
    made.begin_step(0, 2)
    assert take(made, batch, made.optimisers()) == [("discriminators",), ("calibrator",)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: expected more than 0, got 0.0"),
        ({"epsilon": 1.5}, "epsilon: expected at most 1"),
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"pixel_hidden": (8, 0)}, "pixel_hidden: expected widths of at least 1"),
        ({"feature_dropout": 1.0}, "feature_dropout: expected less than 1, got 1.0"),
        ({"source_weight": 0.0, "target_weight": 0.0}, "with both at 0 the calibrator learns nothing"),
        ({"discriminators": "pixel", "feature_input": "probabilities"}, "feature_input: probabilities contradicts"),
        ({"discriminators": "feature", "shuffle": False}, "shuffle: False contradicts discriminators 'feature'"),
        ({"patch": False, "patch_size": 8}, "patch_size: 8 contradicts patch false"),
        ({"normalisation_policy": "joint"}, "'joint' lets the target into the frozen classifier's statistics"),
    ],
)
def test_contradicting_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CalibratorConfig(**fields)


def test_a_run_without_a_step_of_the_adaptation_is_refused() -> None:
    made = make(pretrain=0.9)
    with pytest.raises(ValueError, match="all of the run's 5 steps learn the source"):
        made.check_run(max_steps=5, micro_batch=4)
    made.check_run(max_steps=20, micro_batch=4)


def test_a_patch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_size: expected 1 to 32, the side of the images, got 33"):
        make(patch_size=33)


def test_a_discriminator_that_overfits_is_named() -> None:
    made = adapting()
    row = {"discriminator/pixel/trained-accuracy": 0.93, "discriminator/pixel/held-out-accuracy": 0.71}
    remark = made.remark(row | {"discriminator/feature/trained-accuracy": 0.6})
    assert remark is not None
    assert "the pixel discriminator overfits" in remark
    assert "93%" in remark
    assert "71%" in remark
    assert "feature" not in remark
    # Once, while it lasts; and again when it begins again.
    assert made.remark(row) is None
    assert made.remark(row | {"discriminator/pixel/held-out-accuracy": 0.9}) is None
    assert made.remark(row) == remark


def test_the_diagnosis_counts_right_groups_and_leaves_the_training_its_random_numbers(batch: Batch) -> None:
    made = adapting(discriminators="pixel").eval()
    images = batch.source.images
    state = torch.random.get_rng_state()
    with torch.no_grad():
        last = made.discriminators["pixel"].layers[-1]
        last.weight.zero_()
        # Everything is taken for a source image: right for the plain ones, wrong for the calibrated ones.
        last.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        calibrated: list[int] = []
        made.calibrator.register_forward_hook(lambda _, inputs, __: calibrated.append(len(inputs[0])))
        found = made.diagnose(images, images[:2])
    assert found == {"discriminator/pixel/trained-accuracy": 0.5, "discriminator/pixel/held-out-accuracy": 0.5}
    assert calibrated == [len(images), 2]
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        # For a target image, which none of them is.
        last.bias.copy_(torch.tensor([0, 1.0, 0, 0]))
        assert set(made.diagnose(images, images[:2]).values()) == {0.0}
    assert made.diagnosed_images > 0
    assert make().diagnosed_images == 0


@pytest.mark.slow
def test_it_undoes_a_shift_that_it_was_not_told(train: Callable[..., Any]) -> None:
    """Bright squares, on the left or on the right, and dark ones in the target. The classifier, frozen, is right on the
    target again, and stays so on the source."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int, sign: float) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (count,), generator=generator)
        images = 0.1 * torch.randn(count, 3, 32, 32, generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 12:20, 4 + 16 * label : 12 + 16 * label] += 0.5 * sign
        return images.clamp(-1, 1), labels

    def accuracy(made: CalibratorMethod, sign: float) -> float:
        images, labels = draw(200, sign)
        with torch.no_grad():
            return float((made.eval().predict(images).argmax(dim=1) == labels).float().mean())

    def batches() -> Iterator[Batch]:
        while True:
            (source, labels), (target, _) = draw(32, 1.0), draw(32, -1.0)
            domains = torch.zeros_like(labels)
            yield Batch(SourceBatch(source, labels, domains), TargetBatch(target, torch.arange(len(target))))

    torch.manual_seed(0)
    made = make(lr=3e-3, epsilon=0.6, width=4, weight_decay=0.0).float()
    train(made, batches(), 80)
    of_target, of_source = accuracy(made, -1.0), accuracy(made, 1.0)
    made.calibrating = False
    assert of_target > accuracy(made, -1.0) + 0.2
    assert of_target > 0.9
    assert of_source > 0.9


def test_the_papers_classifier_has_3_1_million_parameters() -> None:
    network = build("dtn", num_classes=10)
    count = sum(p.numel() for p in (*network.features.parameters(), *network.make_head().parameters()))
    assert count == 3_133_962

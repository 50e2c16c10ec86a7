"""Methods on label maps: what each learns, what stays as it was, and what its discriminators see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from game_of_groups import written_out
from steps import same, state_of, take
from tiny_scenes import CLASSES, draw, use_tiny, without_dropout
from torch import Tensor, nn

from dynconv.losses.rows import as_rows
from dynconv.methods import ADDA, MCD, METHODS, ADDAConfig, CalibratorConfig, CalibratorMethod, Method, MethodConfig
from dynconv.methods.adapted import Adapted
from dynconv.methods.schedules import learning_rate_factor
from dynconv.models.pixel_discriminator import PixelDiscriminator
from dynconv.models.segmentation import SegmentationHead

ADDA_SMALL: dict[str, Any] = {"discriminates": "logits", "hidden_features": 8, "pretrain": 0.5}
CALIBRATOR_SMALL: dict[str, Any] = {
    "width": 2, "blocks": 1, "feature_hidden": (8,), "pixel_hidden": (8,), "feature_input": "logits", "epsilon": 0.01,
}  # fmt: skip
SHARED: dict[str, Any] = {"weight_sharing": "shared", "adversarial_weight": 0.1, "mapping": "confusion"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "source-only": ("source-only", {}),
    "target-only": ("target-only", {"label_smoothing": 0.1}),
    "adda": ("adda", ADDA_SMALL),
    "adda, features": ("adda", {"hidden_features": 8, "pretrain": 0.5}),
    "adda, shared, full": ("adda", ADDA_SMALL | SHARED | {"score_maps": "full"}),
    "gam": ("gam", {"hidden_features": 8, "pretrain": 0.5, "discriminator_steps": 0, "norm": "none"}),
    "mcd": ("mcd", {"class_balance": 0.1}),
    "mcd, reversal": ("mcd", {"form": "reversal", "prediction": "max"}),
    "calibrator": ("calibrator", CALIBRATOR_SMALL),
    "calibrator, features": ("calibrator", CALIBRATOR_SMALL | {"feature_input": "features"}),
}
ADAPTING = ("adda", "gam", "calibrator")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)


def make(case: str, **fields: Any) -> Method:
    name, own = CASES[case]
    torch.manual_seed(0)
    options = {"backbone": "erfnet-encoder", "weight_decay": 0.0, "lr": 1e-3} | own | fields
    return METHODS[name](METHODS[name].config_class(**options), CLASSES).double().train()


def steps_of(made: Method, steps: range, of: int) -> Iterator[list[tuple[str, ...]]]:
    optimisers = made.optimisers()
    for step in steps:
        made.begin_step(step, of)
        yield take(made, draw(2, step), optimisers)


def test_those_that_say_so_train_networks_for_segmentation() -> None:
    able = {name for name, method in METHODS.items() if method.about.segmentation}
    # Gaussian matching trains as source-only does, and not here; `imported` not at all.
    assert able == {name for name, _ in CASES.values()} | {"gaussian", "imported"}
    for name in ("drt", "adabn", "gsda"):
        with pytest.raises(
            ValueError, match="drn26 labels every pixel, and .* for label maps are source-only, target-"
        ):
            METHODS[name](METHODS[name].config_class(backbone="drn26"), CLASSES)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns_that_is_to_learn_and_no_other(case: str) -> None:
    made = make(case)
    adapts = case.startswith(ADAPTING)
    frozen: list[nn.Module] = []
    if case.startswith("calibrator"):
        frozen = [made.features, made.heads]
    elif isinstance(made, Adapted) and made.encoders is not None:
        frozen = [made.encoders.source, made.heads]
    steps = range(5, 7) if adapts else range(2)
    made.begin_step(steps[0], 10)
    before = state_of(made)
    still = [state_of(module) for module in frozen]
    groups = list(steps_of(made, steps, 10))
    assert groups[0] == groups[1]
    assert all(same(module, state) for module, state in zip(frozen, still, strict=True))
    held = {id(parameter) for module in frozen for parameter in module.parameters()}
    stayed = [name for name, p in made.named_parameters() if id(p) not in held and torch.equal(p, before[name])]
    assert not stayed
    assert bool(frozen) == (adapts and "shared" not in case)


@pytest.mark.parametrize("case", ["source-only", "target-only", "mcd, reversal"])
def test_the_source_is_learnt(case: str) -> None:
    made = make(case, lr=0.02, norm="none")
    optimisers = made.optimisers()
    batch = draw(4, 0)
    losses = []
    for step in range(15):
        losses.append(float(made.source_update(batch).loss.detach()))
        made.begin_step(step, 15)
        take(made, batch, optimisers)
    # Seen: 0.47 to 0.67.
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("form", ["three-step", "reversal"])
def test_mcds_classifiers_part_and_its_features_bring_them_together(form: str) -> None:
    made = make("mcd", form=form, class_balance=0.0, norm="none", discrepancy_weight=20.0)
    assert isinstance(made, MCD)
    without_dropout(made)
    batch = draw(2, 0)
    target = batch.target.images
    with torch.no_grad():
        before = float(made.discrepancy(made.features(target)))
    found = []
    for update in made.updates(batch):
        groups = {name: list(getattr(made, name).parameters()) for name in update.of}
        gradients = [torch.autograd.grad(update.loss, of, retain_graph=True) for of in groups.values()]
        for (group, parameters), own in zip(groups.items(), gradients, strict=True):
            kept = [parameter.detach().clone() for parameter in parameters]
            with torch.no_grad():
                for parameter, gradient in zip(parameters, own, strict=True):
                    parameter -= 1e-4 * gradient
                after = float(made.discrepancy(made.features(target)))
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)
            found.append((group, after > before))
    if form == "reversal":
        assert dict(found) == {"heads": True, "features": False}
    else:
        # Step A looks at the source alone; B is the heads', and then come four of the features.
        assert found[2:] == [("heads", True)] + [("features", False)] * 4


def test_of_both_classifiers_the_surer_one_predicts_each_pixel() -> None:
    made, summed = make("mcd, reversal").eval(), make("mcd").eval()
    images = draw(2, 0).target.images
    with torch.no_grad():
        maps = made.features(images)
        first, second = (head(maps) for head in made.heads)
        found, both = made.predict(images), summed.predict(images)
    assert found.shape == (2, CLASSES, 16, 24)
    torch.testing.assert_close(both, first + second)
    first_wins = first.amax(dim=1) > second.amax(dim=1)
    assert first_wins.any() and not first_wins.all()
    torch.testing.assert_close(found, torch.where(first_wins[:, None], first, second))


@pytest.mark.parametrize("score_maps", ["low", "full"])
@pytest.mark.parametrize("backbone", ["erfnet-encoder", "erfnet"])
def test_addas_discriminator_is_a_1x1_convolution_on_score_maps(backbone: str, score_maps: str) -> None:
    made = make("adda", backbone=backbone, score_maps=score_maps).eval()
    assert isinstance(made, ADDA)
    images = draw(2, 0).target.images
    maps = made.features(images)
    (head,) = made.heads
    assert isinstance(head, SegmentationHead)
    scores = head.low(maps) if score_maps == "low" else head(maps)
    seen = made.discriminated(maps)
    assert seen.shape == (scores[:, 0].numel(), CLASSES)
    logits = made.discriminators(seen).view(len(images), *scores.shape[2:])
    weights, biases = made.discriminators.weights, made.discriminators.biases
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        scores = nn.functional.conv2d(scores.relu() if layer else scores, weight[0, :, :, None, None], bias[0])
    torch.testing.assert_close(logits, scores[:, 0])


def test_addas_losses_are_means_over_all_places() -> None:
    made = make("adda", mapping="confusion")
    assert isinstance(made, ADDA)
    made.begin_step(5, 10)
    made.eval()
    batch = draw(2, 0)
    source, target = made.encode(batch)
    (head,) = made.heads
    assert isinstance(head, SegmentationHead)
    of_source, of_target = (made.discriminators(as_rows(head.low(maps))).flatten() for maps in (source, target))
    discrimination, mapping = list(made.updates(batch))
    wanted = -of_source.sigmoid().log().mean() - (1 - of_target.sigmoid()).log().mean()
    torch.testing.assert_close(discrimination.loss, wanted)
    right = torch.cat([of_source > 0, of_target <= 0]).float().mean()
    assert float(discrimination.logs["discriminator/accuracy/level-0"]) == pytest.approx(float(right))
    both = [(each.sigmoid().log() + (1 - each.sigmoid()).log()).mean() / 2 for each in (of_source, of_target)]
    torch.testing.assert_close(mapping.loss, -sum(both))


@pytest.mark.parametrize(
    ("groups", "feature_input", "score_maps"),
    [(4, "features", "low"), (2, "logits", "low"), (4, "probabilities", "full")],
)
def test_the_calibrators_losses_are_those_of_the_paper(groups: int, feature_input: str, score_maps: str) -> None:
    # Patches as high as the images and as wide, in order: what is seen of them is then no matter of chance.
    own = {"patch_size": 16, "shuffle": False, "groups": groups, "source_weight": 0.25, "target_weight": 0.5}
    made = make("calibrator", feature_input=feature_input, score_maps=score_maps, **own)
    assert isinstance(made, CalibratorMethod)
    made.begin_step(5, 10)
    batch = draw(2, 0, width=16)
    discrimination, calibration = list(made.updates(batch))
    source, target = batch.source.images, batch.target.images
    logits: dict[str, list[Tensor]] = {"feature": [], "pixel": []}
    for images in (source, target, made.calibrate(source), made.calibrate(target)):
        maps = made.features(images)
        (head,) = made.heads
        assert isinstance(head, SegmentationHead)
        scores = head.low(maps) if score_maps == "low" else head(maps)
        seen = {"features": maps, "logits": scores, "probabilities": scores.softmax(dim=1)}[feature_input]
        layers = made.discriminators["feature"]
        places = [
            layers(seen[i, :, y, x]) for i in range(2) for y in range(seen.shape[2]) for x in range(seen.shape[3])
        ]
        logits["feature"].append(torch.stack(places))
        logits["pixel"].append(made.discriminators["pixel"].layers(images.flatten(1)))
    wanted, fooled = written_out(logits.values(), groups, source_weight=0.25, target_weight=0.5)
    torch.testing.assert_close(discrimination.loss, wanted)
    torch.testing.assert_close(calibration.loss, fooled)


@pytest.mark.parametrize("case", ["adda", "calibrator"])
def test_the_game_is_learnt_by_both_sides(case: str) -> None:
    made = make(case, norm="none", epsilon=0.3) if case == "calibrator" else make(case, norm="none")
    without_dropout(made)
    made.begin_step(5, 10)
    for side in (0, 1):
        # One side moves alone, and its loss falls.
        optimisers = made.optimisers()
        losses = []
        for _ in range(6):
            torch.manual_seed(3)
            update = list(made.updates(draw(2, 0)))[side]
            losses.append(float(update.loss.detach()))
            chosen = [optimisers[name] for name in update.of]
            parameters = [p for each in chosen for group in each.param_groups for p in group["params"]]
            update.loss.backward(inputs=parameters)
            for each in chosen:
                each.step()
                each.zero_grad()
        assert losses[-1] < losses[0]


def test_the_frozen_classifier_stays_frozen_through_evaluations_too() -> None:
    made = make("calibrator", lr=0.01, weight_decay=0.1)
    list(steps_of(made, range(0, 2), 10))
    made.begin_step(5, 10)
    frozen = state_of(made.features) | {f"heads.{name}": value for name, value in state_of(made.heads).items()}
    assert any(name.endswith("running_var") for name in frozen)
    for _ in steps_of(made, range(5, 8), 10):
        assert not any(module.training for module in (*made.features.modules(), *made.heads.modules()))
        made.eval().predict(draw(2, 9).target.images)
        made.train()
    after = state_of(made.features) | {f"heads.{name}": value for name, value in state_of(made.heads).items()}
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())


def test_the_diagnosis_counts_places_and_patches() -> None:
    made = make("calibrator")
    assert isinstance(made, CalibratorMethod)
    assert made.diagnosed_images == 0
    made.begin_step(5, 10)
    made.eval()
    assert 0 < made.diagnosed_images < 300
    trained, held_out = draw(9, 0).source.images, draw(2, 1).source.images
    state = torch.random.get_rng_state()
    with torch.no_grad():
        for discriminator in (made.discriminators["feature"], made.discriminators["pixel"].layers):
            discriminator[-1].weight.zero_()
            # Everything is taken for a source image: right for the plain ones, wrong for the calibrated ones.
            discriminator[-1].bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        found = made.diagnose(trained, held_out)
    names = [
        f"discriminator/{name}/{what}-accuracy" for what in ("trained", "held-out") for name in ("feature", "pixel")
    ]
    assert found == dict.fromkeys(names, 0.5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_diagnosis_holds_one_scene_and_few_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("calibrator", score_maps="full", epsilon=0.3)
    assert isinstance(made, CalibratorMethod)
    made.begin_step(5, 10)
    made.eval()
    trained, held_out = draw(3, 0).source.images, draw(2, 1).source.images
    whole = made.diagnose(trained, held_out)
    monkeypatch.setattr("dynconv.losses.rows.ROWS_AT_ONCE", 100)
    seen: dict[str, list[int]] = {"features": [], "rows": []}
    made.features.register_forward_hook(lambda _, given, maps: seen["features"].append(len(given[0])))
    made.discriminators["feature"].register_forward_hook(lambda _, given, out: seen["rows"].append(len(given[0])))
    assert made.diagnose(trained, held_out) == pytest.approx(whole)
    assert set(seen["features"]) == {1}
    # Of 16 x 24 places of an image and as many of it calibrated.
    assert max(seen["rows"]) == 100 and sum(seen["rows"]) == 5 * 2 * 16 * 24


@pytest.mark.parametrize(
    ("case", "fields"),
    [("adda", {"score_maps": "full"}), ("calibrator", {"score_maps": "full", "discriminators": "feature",
     "pixel_hidden": (128,)})],
)  # fmt: skip
def test_score_maps_of_many_places_are_judged_in_pieces(
    case: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, rows = [], list[int]()
    for most in (2**16, 100):
        monkeypatch.setattr("dynconv.losses.rows.ROWS_AT_ONCE", most)
        made = make(case, **fields)
        made.begin_step(5, 10)
        made.eval()
        bank = made.discriminators["feature"] if isinstance(made, CalibratorMethod) else made.discriminators
        rows.clear()
        bank.register_forward_hook(lambda _, given, out: rows.append(len(given[0])))
        for update in made.updates(draw(2, 0)):
            moved = [p for name in update.of for g in made.optimisers()[name].param_groups for p in g["params"]]
            update.loss.backward(inputs=moved)
        found.append([p.grad for p in made.parameters() if p.grad is not None])
        assert max(rows) <= most
    assert len(found[0]) == len(found[1]) > 4
    for whole, in_pieces in zip(*found, strict=True):
        torch.testing.assert_close(in_pieces, whole)


@pytest.mark.parametrize("case", CASES)
def test_half_precision_losses_are_finite(case: str) -> None:
    made = make(case).float()
    for step in (0, 5):
        made.begin_step(step, 10)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = [update.loss for update in made.updates(draw(1, step, dtype=torch.float32))]
        assert losses and all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (ADDAConfig, {"score_maps": "full"}, "score_maps: full contradicts backbone 'lenet-small', whose scores"),
        (
            ADDAConfig,
            {"backbone": "erfnet", "score_maps": "full"},
            "score_maps: full contradicts discriminates 'features', which shows no scores; choose discriminates 'lo",
        ),
        (
            CalibratorConfig,
            {"backbone": "erfnet", "score_maps": "full"},
            "score_maps: full contradicts feature_input 'features', which shows no scores",
        ),
        (
            CalibratorConfig,
            {"backbone": "erfnet", "score_maps": "full", "discriminators": "pixel"},
            "score_maps: full contradicts discriminators 'pixel', which shows no scores",
        ),
        (CalibratorConfig, {"backbone": "erfnet", "patch": False}, "patch: false takes whole images of one size, and "),
        (MethodConfig, {"lr_power": 0.9}, "lr_power: 0.9 contradicts lr_schedule 'constant', which has no use for it; "
         "choose lr_schedule 'inverse' or 'poly'"),
        (MethodConfig, {"lr_gamma": 0.1, "lr_schedule": "poly"}, "lr_gamma: 0.1 contradicts lr_schedule 'poly'"),
    ],
)  # fmt: skip
def test_contradicting_fields_are_refused(config: type[MethodConfig], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**fields)


def test_patches_are_drawn_from_all_of_a_wide_image() -> None:
    made = PixelDiscriminator(3, shuffle=False, hidden_features=(4,), groups=4)
    # Each pixel says where it is.
    images = torch.arange(4.0 * 7).view(1, 1, 4, 7).expand(400, 3, 4, 7)
    torch.manual_seed(0)
    found = made.patches(images)[:, 0]
    corners = {int(patch[0]) for patch in found}
    assert corners == {7 * row + column for row in range(2) for column in range(5)}
    for patch in found[:20]:
        wanted = [int(patch[0]) + 7 * row + column for row in range(3) for column in range(3)]
        assert patch.tolist() == wanted
    assert made(images[:2]).shape == (2, 4)
    with pytest.raises(ValueError, match="patch_size: expected 1 to 2 for images of 2 x 7, got 3"):
        made(images[:, :, :2])
    with pytest.raises(ValueError, match="patch_size: expected at least 1, got 0"):
        PixelDiscriminator(0, shuffle=False, hidden_features=(4,), groups=4)


def test_patches_that_do_not_fit_are_found_in_the_first_step_and_not_when_the_adaptation_begins() -> None:
    made = make("calibrator", patch_size=17)
    made.begin_step(0, 10)
    with pytest.raises(ValueError, match="patch_size: expected 1 to 16 for images of 16 x 24, got 17"):
        next(made.updates(draw(2, 0)))


def test_poly_falls_to_zero_with_its_power() -> None:
    config = MethodConfig(lr_schedule="poly", lr_power=0.9)
    assert [learning_rate_factor(config, step, 10) for step in (0, 5, 9)] == pytest.approx([1, 0.5**0.9, 0.1**0.9])

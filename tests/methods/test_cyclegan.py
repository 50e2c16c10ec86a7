"""CycleGAN: its losses against numbers, which networks each update moves, its pool, its schedule, and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from dynconv.data import Batch
from dynconv.engine.meter import Meter
from dynconv.engine.step import Stepper
from dynconv.losses.cycle import absolute_difference, least_squares
from dynconv.methods import CycleGAN, CycleGANConfig, Method, Update
from dynconv.methods.cyclegan import ImagePool
from dynconv.models.patch_discriminator import PatchDiscriminator
from dynconv.models.weights import weights_left_out

Train = Callable[[Method, Iterable[Batch], int], list[Update]]
SMALL: dict[str, Any] = {"width": 2, "blocks": 1, "discriminator_width": 4, "discriminator_layers": 1, "norm": "none"}


def make(**fields: Any) -> CycleGAN:
    torch.manual_seed(0)
    return CycleGAN(CycleGANConfig(**SMALL | fields), num_classes=3).double().train()


def moved(made: CycleGAN, optimisers: dict[str, torch.optim.Optimizer], update: Update) -> set[str]:
    """The networks that a gradient of the update's loss reaches, the paths through its computation aside."""
    reached = set()
    for name in optimisers:
        parameters = list(made.get_submodule(name).parameters())
        found = torch.autograd.grad(update.loss, parameters, retain_graph=True, allow_unused=True)
        if any(gradient is not None for gradient in found):
            reached.add(name)
    return reached


def test_the_losses_against_numbers() -> None:
    assert least_squares(torch.tensor([0.0, 1.0, 3.0]), 1).item() == pytest.approx((1 + 0 + 4) / 3)
    assert least_squares(torch.tensor([[0.5]]), 0).item() == 0.25
    assert absolute_difference(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])).item() == 2.0
    half = torch.ones(2, dtype=torch.bfloat16)
    assert least_squares(half, 0).dtype == absolute_difference(half, half).dtype == torch.float32


def test_each_update_is_the_papers_loss_of_its_own_networks(batch: Batch) -> None:
    made = make(identity_weight=0.5, pool_size=0)
    to_target, to_source = (nn.Sequential(made.generators[side], nn.Tanh()) for side in ("to_target", "to_source"))
    judge_target, judge_source = made.discriminators["target"], made.discriminators["source"]
    source, target = batch.source.images, batch.target.images
    fake_target, fake_source = to_target(source), to_source(target)

    classifier, generators, discriminators = made.updates(batch)
    scores = made.heads[0](made.features(fake_target))
    torch.testing.assert_close(classifier.loss, nn.functional.cross_entropy(scores, batch.source.labels))
    fooling = (judge_target(fake_target) - 1).square().mean() + (judge_source(fake_source) - 1).square().mean()
    cycle = (to_source(fake_target) - source).abs().mean() + (to_target(fake_source) - target).abs().mean()
    same = (to_target(target) - target).abs().mean() + (to_source(source) - source).abs().mean()
    torch.testing.assert_close(generators.loss, fooling + 10 * cycle + 10 * 0.5 * same)
    real = (judge_target(target) - 1).square().mean() + (judge_source(source) - 1).square().mean()
    faked = judge_target(fake_target).square().mean() + judge_source(fake_source).square().mean()
    torch.testing.assert_close(discriminators.loss, (real + faked) / 2)

    assert classifier.of == ("features", "heads")
    assert (generators.of, discriminators.of) == (("generators",), ("discriminators",))
    optimisers = made.optimisers()
    # The classifier never shapes the translation, nor do the discriminators' own losses.
    assert moved(made, optimisers, classifier) == {"features", "heads"}
    assert moved(made, optimisers, generators) == {"generators", "discriminators"}
    assert moved(made, optimisers, discriminators) == {"discriminators"}


def test_the_identity_loss_is_left_out_by_default(batch: Batch) -> None:
    _, generators, _ = make(pool_size=0).updates(batch)
    assert "identity" not in generators.logs
    weighed = generators.logs["fooling/target"] + generators.logs["fooling/source"] + 10 * generators.logs["cycle"]
    torch.testing.assert_close(generators.loss.detach(), weighed)


def test_every_translation_of_a_step_is_that_of_its_beginning(batch: Batch, train: Train) -> None:
    # The discriminators see what the generators gave before their step, as the generators' own loss did.
    made = make(pool_size=4)
    with torch.no_grad():
        before = torch.tanh(made.generators["to_target"](batch.source.images))
    train(made, [batch], 1)
    torch.testing.assert_close(made.pools["target"].kept, before)
    with torch.no_grad():
        after = torch.tanh(made.generators["to_target"](batch.source.images))
    assert float((after - before).abs().max()) > 1e-4


@pytest.mark.parametrize("group", ["generators", "discriminators"])
def test_a_step_of_each_lowers_its_loss(group: str, batch: Batch) -> None:
    made = make(pool_size=0, gan_lr=1e-4)
    place = {"generators": 1, "discriminators": 2}[group]
    optimiser = made.optimisers()[group]
    before = list(made.updates(batch))[place].loss
    before.backward()
    optimiser.step()
    after = list(made.updates(batch))[place].loss
    assert after.item() < before.item() - 1e-4


def test_the_game_learns_a_toy(train: Train, batch: Batch) -> None:
    # The target is the source, darker.
    batch.source.images = (batch.source.images / 4).clamp(-1, 1)
    batch.target.images = batch.source.images - 0.5
    made = make(gan_lr=5e-3)
    updates = train(made, [batch] * 8, 8)
    cycles = [float(update.logs["cycle"]) for update in updates if "cycle" in update.logs]
    assert cycles[-1] < 0.7 * cycles[0]
    with torch.no_grad():
        brightness = 2 * float(made.eval().translate(batch.source.images).mean()) - 1
    assert brightness == pytest.approx(float(batch.target.images.mean()), abs=0.1)


def test_translations_are_pixels(batch: Batch) -> None:
    made = make().eval()
    with torch.no_grad():
        found = made.translate(batch.source.images)
        wanted = (torch.tanh(made.generators["to_target"](batch.source.images)) + 1) / 2
    torch.testing.assert_close(found, wanted)
    assert 0 <= float(found.min()) < float(found.max()) <= 1


def shape_of(made: CycleGAN) -> tuple[int, int]:
    return made.generator_options["blocks"], made.discriminators["target"].patch_size


def test_sizes_decide_blocks_and_patches() -> None:
    def judged(**fields: Any) -> tuple[int, int]:
        return shape_of(CycleGAN(CycleGANConfig(width=1, discriminator_width=1, **fields), 3))

    assert judged() == judged(backbone="resnet-small") == (6, 34)
    assert judged(blocks=2, discriminator_layers=3) == (2, 70)
    assert PatchDiscriminator(width=1, layers=1).patch_size == 16


def test_imagenets_normalisation_is_undone_for_the_generators() -> None:
    with weights_left_out():
        made = CycleGAN(CycleGANConfig(width=1, discriminator_width=1, backbone="resnet50"), 3)
    assert made.normalisation == "imagenet" and shape_of(made) == (9, 70)
    # Black and white, as the classifier has them: its mean is no 0.5 and its deviation no 0.5.
    extremes = (torch.tensor([[0.0], [1.0]]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    seen = made._for_generators(extremes[:, :, None, None])
    torch.testing.assert_close(seen[:, :, 0, 0], torch.tensor([[-1.0] * 3, [1.0] * 3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(made._for_classifier(seen)[:, :, 0, 0], extremes, atol=1e-5, rtol=0)


def test_a_patch_is_all_that_a_number_depends_on() -> None:
    judge = PatchDiscriminator(width=2, layers=1).double().eval()
    # Without the normalisation, which looks at the whole image.
    for place, layer in enumerate(judge.layers):
        if isinstance(layer, nn.InstanceNorm2d):
            judge.layers[place] = nn.Identity()
    images = torch.zeros(1, 3, 48, 48, dtype=torch.float64, requires_grad=True)
    found = judge(images)
    assert found.shape == (1, 1, 22, 22)
    (gradient,) = torch.autograd.grad(found[0, 0, 11, 11], images)
    rows = gradient[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == judge.patch_size == 16


def test_the_discriminator_is_the_papers_and_refuses_images_too_small() -> None:
    judge = PatchDiscriminator()
    widths = [(layer.out_channels, layer.stride[0]) for layer in judge.layers if isinstance(layer, nn.Conv2d)]
    assert widths == [(64, 2), (128, 2), (256, 2), (512, 1), (1, 1)]
    assert len([layer for layer in judge.layers if isinstance(layer, nn.InstanceNorm2d)]) == 3
    first = judge.layers[0]
    assert isinstance(first, nn.Conv2d) and first.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert judge.least_side == 24 and PatchDiscriminator(width=2).train()(torch.rand(1, 3, 24, 24)).shape[2:] == (1, 1)
    with pytest.raises(ValueError, match=r"at least 24 x 24 for 3 layers, got \(1, 3, 23, 24\)"):
        judge(torch.rand(1, 3, 23, 24))
    with pytest.raises(ValueError, match="layers: expected at least 1, got 0"):
        PatchDiscriminator(layers=0)


def numbered(start: int, count: int) -> Tensor:
    return torch.arange(start, start + count, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)


def test_a_pool_shows_an_old_image_half_the_time_and_keeps_the_new_one() -> None:
    torch.manual_seed(0)
    pool = ImagePool(50, 2)
    assert torch.equal(pool(numbered(0, 50)), numbered(0, 50))
    old = 0
    held = set(range(50))
    for number in range(50, 1050):
        shown = int(pool(numbered(number, 1))[0, 0, 0, 0])
        if shown != number:
            # One that was kept, and whose place the new one has now.
            assert shown in held
            held = held - {shown} | {number}
            old += 1
        assert set(pool.kept[:, 0, 0, 0].int().tolist()) == held
    # 1,000 draws of 1/2: four standard deviations are 63.
    assert abs(old - 500) < 63
    assert int(pool.seen) == 1050


def test_a_pool_does_not_depend_on_how_its_images_come_in_batches() -> None:
    pools, shown = [], []
    for parts in ((40,), (3, 7, 10, 20)):
        torch.manual_seed(1)
        pool = ImagePool(8, 2)
        # What else draws at random does not count.
        torch.manual_seed(len(parts))
        shown.append(torch.cat([pool(part) for part in numbered(0, 40).split(list(parts))]))
        pools.append(pool.state_dict())
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], numbered(0, 40))
    assert all(torch.equal(value, pools[1][name]) for name, value in pools[0].items())
    restored = ImagePool(8, 2)
    restored.load_state_dict(pools[0])
    assert torch.equal(restored(numbered(40, 20)), pool(numbered(40, 20)))


def test_without_a_pool_the_newest_images_are_shown() -> None:
    pool = ImagePool(0, 2)
    images = numbered(0, 3)
    assert pool(images) is images


def test_the_learning_rate_of_the_game_falls_from_the_half() -> None:
    made = make(lr=0.5, optimiser="sgd")
    optimisers = made.optimisers()
    seen = []
    for step in range(8):
        made.begin_step(step, 8)
        seen.append([optimisers[name].param_groups[0]["lr"] for name in ("generators", "discriminators", "heads")])
    factors = [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([[2e-4 * f, 2e-4 * f, 0.5] for f in factors]))
    adam = optimisers["generators"]
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["betas"] == (0.5, 0.999) and adam.defaults["weight_decay"] == 0


def test_micro_batches_take_the_step_of_the_whole_batch(batch: Batch) -> None:
    def steps(accumulate: int) -> dict[str, Tensor]:
        made = make(pool_size=5, lr=0.05, optimiser="sgd")
        stepper = Stepper(
            Fabric(accelerator="cpu", devices=1), made, made.optimisers(), accumulate=accumulate, clip_norm=None
        )
        for step in range(3):
            stepper.advance(batch, step, 3, Meter())
        return made.state_dict()

    whole, parts = steps(1), steps(2)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    # Twelve and eighteen images for five places: some were replaced.
    assert (int(whole["pools.target.seen"]), int(whole["pools.source.seen"])) == (12, 18)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"blocks": 0}, "blocks: expected at least 1, got 0"),
        ({"discriminator_layers": 0}, "discriminator_layers: expected at least 1, got 0"),
        ({"pool_size": -1}, "pool_size: expected at least 0, got -1"),
        ({"gan_lr": 0.0}, "gan_lr: expected more than 0"),
        ({"gan_beta1": 1.0}, "gan_beta1: expected less than 1, got 1.0"),
        ({"gan_decay": 1.0}, "gan_decay: expected less than 1, got 1.0"),
        ({"cycle_weight": 0.0, "identity_weight": 0.5}, "multiples of cycle_weight, which is 0; got 0.5"),
        ({"normalisation_policy": "joint"}, "cyclegan's classifier looks at none"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CycleGANConfig(**fields)

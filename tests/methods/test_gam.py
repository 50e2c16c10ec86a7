"""GAM: its updates against eq. 3 written out, what each phase trains, and what it does to real digits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from steps import same, state_of, take
from tiny_scenes import CLASSES, draw, use_tiny
from torch import Tensor, nn
from torch.nn.functional import softplus

from dynconv.data import Batch
from dynconv.losses.rows import as_rows
from dynconv.methods import ADDA, GAM, ADDAConfig, GAMConfig, SourceOnly, SourceOnlyConfig
from dynconv.methods import gam as module

SMALL: dict[str, Any] = {"hidden_features": 16, "discriminator_steps": 0, "gaussian_start": False}
# Each with a batch normalisation but the first.
LAYERS = ("convolutions.3", "convolutions.7", "convolutions.10", "linear.3", "scores")


def make(**fields: Any) -> GAM:
    torch.manual_seed(0)
    return GAM(GAMConfig(**SMALL | fields), 3).double().train()


def moved(made: GAM, seed: int = 1) -> GAM:
    """In the first step of the adaptation, its target's network another than the source's."""
    made.begin_step(5, 10)
    assert made.adapting
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.both_parameters()[1]:
            parameter += 0.01 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return made


def by_hand(encoder: nn.Module, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What all layers give in evaluation mode, by a walk through the sequence."""
    own = copy.deepcopy(encoder).eval()
    found, x = {}, images
    for part in ("convolutions", "linear"):
        for name, layer in own.get_submodule(part).named_children():
            x = layer(x)
            found[f"{part}.{name}"] = x
    return found | {"scores": head(x)}


def rows(x: Tensor) -> Tensor:
    """Every place of every image a sample, one at a time."""
    if x.dim() == 2:
        return x
    return torch.stack([x[b, :, i, j] for b in range(len(x)) for i in range(x.shape[2]) for j in range(x.shape[3])])


def game(kind: str, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's loss and the target network's, of outputs (N, 1)."""
    if kind == "least-squares":
        return ((source - 1) ** 2).mean() / 2 + (target**2).mean() / 2, ((target - 1) ** 2).mean() / 2
    return softplus(-source).mean() + softplus(target).mean(), softplus(-target).mean()


@pytest.mark.parametrize("kind", ["classical", "least-squares"])
@pytest.mark.parametrize("drift", ["sum", "mean"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_updates_are_equation_3(kind: Any, drift: Any, channels_last: bool, batch: Batch) -> None:
    taps, scales = ("2", "convolutions.0", "linear.3", "scores"), (0.5, 2.0, 0.1, 1.0)
    fields = {"taps": taps, "scales": scales, "gan": kind, "drift": drift}
    made = moved(make(**fields, order="jointly", adversarial_weight=0.3, drift_weight=0.7))
    if not channels_last:
        made.to(memory_format=torch.contiguous_format)
    names = ("convolutions.7", *taps[1:])
    encoders, heads = made.encoders, (made.heads[0], made.target_heads[0])
    assert encoders is not None and made.tap_names == names
    source = by_hand(encoders.source, heads[0], batch.source.images)
    target = by_hand(encoders.target, heads[1], batch.target.images)
    both = [game(kind, bank(rows(source[n])), bank(rows(target[n])))
            for n, bank in zip(names, made.discriminators, strict=True)]  # fmt: skip
    discriminating = sum(scale * one for scale, (one, _) in zip(scales, both, strict=True))
    theirs = [*encoders.source.parameters(), *heads[0].parameters()]
    own = [*encoders.target.parameters(), *heads[1].parameters()]
    squares = [(a - b) ** 2 for a, b in zip(theirs, own, strict=True)]
    far = sum(s.sum() if drift == "sum" else s.mean() for s in squares)
    mapping = sum(scale * other for scale, (_, other) in zip(scales, both, strict=True))

    updates = made.updates(batch)
    first = next(updates)
    assert first.of == ("discriminators",)
    torch.testing.assert_close(first.loss, discriminating, rtol=1e-10, atol=0)
    reached = torch.autograd.grad(first.loss, own, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in reached), "the discriminators' loss is no loss of the network"
    parameters = list(made.discriminators.parameters())
    wanted = torch.autograd.grad(discriminating, parameters, retain_graph=True)
    for gradient, value in zip(torch.autograd.grad(first.loss, parameters), wanted, strict=True):
        torch.testing.assert_close(gradient, value)
    second = next(updates)
    assert second.of == ("features",)
    total = 0.3 * mapping + 0.7 * far
    torch.testing.assert_close(second.loss, total, rtol=1e-10, atol=0)
    torch.testing.assert_close(second.logs["weight_drift"], far.detach())
    # The scale of the running moments' own layer is among them: the copy that walked has parameters of its own.
    copied = {name: value for name, value in made.target_heads[0].named_parameters()}
    for gradient, value in zip(
        torch.autograd.grad(second.loss, copied.values(), retain_graph=True),
        torch.autograd.grad(total, copied.values()), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(gradient, value)
    # With nothing but the drift its gradient is 2 (theta_t - theta_s), and the source's network has none.
    gradients = torch.autograd.grad(second.loss, own, retain_graph=True)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
    unused = torch.autograd.grad(second.loss, theirs, allow_unused=True)
    assert all(gradient is None for gradient in unused)
    assert next(updates, None) is None


@pytest.mark.parametrize("form", ["inverted", "minimax", "confusion"])
def test_the_target_may_be_mapped_in_addas_other_ways(form: Any, batch: Batch) -> None:
    scales = (0.5, 2.0)
    made = moved(make(taps=("2", "scores"), scales=scales, order="jointly", mapping=form, drift_weight=0.0))
    source, target = (
        [rows(x) for x in made.activations(images, domain).values()]
        for domain, images in (("source", batch.source.images), ("target", batch.target.images))
    )
    wanted = torch.zeros((), dtype=torch.float64)
    for scale, bank, one, other in zip(scales, made.discriminators, source, target, strict=True):
        a, b = bank(one), bank(other)
        if form == "inverted":
            wanted = wanted + scale * softplus(-b).mean()
        elif form == "minimax":
            wanted = wanted - scale * (softplus(-a).mean() + softplus(b).mean())
        else:
            wanted = wanted + scale * sum((softplus(-x) + softplus(x)).mean() / 2 for x in (a, b))
    _, update = made.updates(batch)
    torch.testing.assert_close(update.loss, wanted, rtol=1e-10, atol=0)
    own = made.both_parameters()[1]
    expected = torch.autograd.grad(wanted, own)
    for gradient, value in zip(torch.autograd.grad(update.loss, own), expected, strict=True):
        torch.testing.assert_close(gradient, value)
    assert any(bool(value.abs().sum() > 0) for value in expected)


@pytest.mark.parametrize(("kind", "shares"), [("classical", (0.4, 0.6)), ("least-squares", (0.6, 0.5))])
def test_a_discriminators_accuracy_is_the_share_of_images_that_it_tells(
    kind: Any, shares: tuple[float, float], batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = moved(make(taps=("4", "scores"), gan=kind, order="jointly"))
    # What the discriminators say of the four of the source and the six of the target: the first one this, the other one
    # the opposite. Above 0 is for the source, or of least squares above 0.5.
    said = {4: torch.tensor([0.2, 0.4, 0.6, -0.3]), 6: torch.tensor([0.1, 0.7, 0.2, -1.0, 0.3, 0.45])}
    signs = dict(zip(made.discriminators, (1, -1), strict=True))
    monkeypatch.setattr(module, "by_pieces", lambda bank, given: signs[bank] * said[len(given)].double()[:, None])
    logs = next(made.updates(batch)).logs
    found = [float(logs[f"discriminator/accuracy/{tap}"]) for tap in made.tap_names]
    assert found == pytest.approx(shares)


def test_the_game_of_a_discriminator_is_its_own_layers(batch: Batch) -> None:
    # Of the gradient of the target's network, that of the layers behind a tap is the drift's alone.
    made = moved(make(taps=("2",), drift_weight=0.25))
    updates = list(made.updates(batch))
    theirs, own = made.both_parameters()
    gradients = torch.autograd.grad(updates[1].loss, own)
    behind = [place for place, (a, g, b) in enumerate(zip(own, gradients, theirs, strict=True))
              if torch.allclose(g, 0.5 * (a - b).detach(), rtol=1e-9, atol=1e-15)]  # fmt: skip
    names = [name for name, _ in made.encoders.target.named_parameters()] + ["head.weight", "head.bias"]
    first = next(place for place, name in enumerate(names) if name.startswith("convolutions.8"))
    assert behind == list(range(first, len(own)))


def test_the_source_is_learnt_as_source_only_learns_it_and_the_target_follows(batch: Batch) -> None:
    made = make(optimiser="sgd", lr=0.05, weight_decay=0.01)
    torch.manual_seed(0)
    fields = {"optimiser": "sgd", "lr": 0.05, "weight_decay": 0.01, "normalisation_policy": "source-only"}
    other = SourceOnly(SourceOnlyConfig(**fields), 3).double().train()
    optimisers, others = made.optimisers(), other.optimisers()
    for step in range(3):
        for method, chosen in ((made, optimisers), (other, others)):
            method.begin_step(step, 10)
            take(method, batch, chosen)
    for name, value in other.features.state_dict().items():
        for own in (made.encoders.source, made.encoders.target):
            torch.testing.assert_close(own.state_dict()[name], value, rtol=0, atol=0)
    assert same(made.heads, state_of(made.target_heads))


def test_the_adaptation_leaves_the_source_and_every_buffer_alone(batch: Batch) -> None:
    made = make(taps=LAYERS, order="jointly")
    before = copy.deepcopy(made.state_dict())
    optimisers = made.optimisers()
    groups = []
    for step in range(5, 8):
        made.begin_step(step, 10)
        groups += take(made, batch, optimisers)
    assert groups == [("discriminators",), ("features",)] * 3
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    parameters = {name for name, _ in made.named_parameters()}
    moving = {n for n in parameters if n.startswith(("features.target", "target_heads", "discriminators"))}
    # The biases of convolutions before a batch normalisation count here, for its statistics are held.
    assert changed - {"step"} == moving
    assert made.training and all(layer.training for layer in made.modules())


def test_predictions_are_of_each_domains_own_network(batch: Batch) -> None:
    made = moved(make()).eval()
    images = batch.target.images
    both = made.encoders
    with made.evaluating_domain("source"):
        torch.testing.assert_close(made.predict(images), made.heads[0](both.source(images)))
    wanted = made.target_heads[0](both.target(images))
    torch.testing.assert_close(made.predict(images), wanted)
    assert not torch.allclose(wanted, made.heads[0](both.target(images)))


def test_discriminators_join_one_by_one_each_after_steps_of_its_own(batch: Batch) -> None:
    made = make(taps=LAYERS[2:], order="one-by-one", discriminator_steps=1, pretrain=0.5)
    playing = []
    for step in range(20):
        made.begin_step(step, 20)
        if step < 10:
            assert not made.adapting
            continue
        updates = [update.of for update in made.updates(batch)]
        playing.append((made.playing, len(updates)))
    # Ten steps in three parts: 4, 3 and 3.
    assert playing == [(1, 1), *[(1, 2)] * 3, (2, 1), *[(2, 2)] * 2, (3, 1), *[(3, 2)] * 2]
    made.begin_step(19, 20)
    names = set(next(made.updates(batch)).logs)
    assert names == {"domain_loss", *(f"discriminator/accuracy/{tap}" for tap in LAYERS[2:])}
    made.check_run(max_steps=20, micro_batch=4)
    with pytest.raises(
        ValueError, match="each of the 3 parts of the adaptation, .* has 1 of the run's 6 steps, and in 1"
    ):
        made.check_run(max_steps=6, micro_batch=4)
    with pytest.raises(ValueError, match="discriminator_steps: the adaptation has 5 of the run's 10 .* in 400 of them"):
        make(order="jointly", discriminator_steps=400).check_run(max_steps=10, micro_batch=4)


def test_the_default_steps_alone_fit_a_short_run_and_it_says_so() -> None:
    made = make(taps=LAYERS[2:], order="one-by-one", discriminator_steps=None, pretrain=0.5)
    made.check_run(max_steps=3006, micro_batch=4)
    assert made.notice is None and made.config.steps_alone(501) == 500
    made.check_run(max_steps=24, micro_batch=4)
    assert made.notice is not None
    assert "500, the paper's, are too many" in made.notice and "4 of the run's 24 steps" in made.notice
    assert "alone in 2 of these" in made.notice
    alone = []
    for step in range(12, 24):
        made.begin_step(step, 24)
        alone.append(made.alone)
    assert alone == [True, True, False, False] * 3
    # What is asked for is never replaced.
    with pytest.raises(ValueError, match="and in 500 of them"):
        make(taps=LAYERS[2:], order="one-by-one", discriminator_steps=500).check_run(max_steps=24, micro_batch=4)
    with pytest.raises(ValueError, match="has 0 of the run's 4 steps"):
        made.check_run(max_steps=4, micro_batch=4)


def test_activations_are_kept_once(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    made = moved(make(taps=LAYERS, order="jointly"))
    kept: list[Tensor] = []
    seen: list[Tensor] = []
    own = made.activations

    def keep(images: Tensor, domain: Any) -> dict[str, Tensor]:
        found = own(images, domain)
        kept.extend(found.values())
        return found

    monkeypatch.setattr(made, "activations", keep)
    monkeypatch.setattr(module, "by_pieces", lambda bank, given: seen.append(given) or bank(given))
    list(made.updates(batch))
    storages = {tensor.untyped_storage().data_ptr() for tensor in kept}
    assert len(storages) == 2 * len(LAYERS) and len(seen) == 3 * len(LAYERS)
    assert {tensor.untyped_storage().data_ptr() for tensor in seen} == storages


def test_the_gaussian_start_is_the_matching_of_both_whole_networks(batch: Batch) -> None:
    made = make(gaussian_start=True, statistics_images=0)
    assert (made.matching_step(10), make().matching_step(10)) == (5, None)
    assert made.observed_images == 0
    made.eval()
    found = made.match(lambda: [batch.source.images], lambda: [batch.target.images])
    assert found.logs["matching/layers"] == 4 and "have the source's mean and variance" in (found.message or "")
    # Each of the target's layers has the source's moments, before its nonlinearity, and the source's has not moved.
    fresh = make(gaussian_start=True)
    assert same(made.encoders.source, state_of(fresh.encoders.source))
    source = by_hand(made.encoders.source, made.heads[0], batch.source.images)
    target = by_hand(made.encoders.target, made.target_heads[0], batch.target.images)
    for layer in ("convolutions.1", "convolutions.5", "convolutions.9", "linear.2"):
        one, other = (torch.var_mean(rows(x[layer]), dim=0, correction=0) for x in (source, target))
        torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-9)


def test_every_place_of_a_scene_is_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    torch.manual_seed(0)
    made = GAM(GAMConfig(backbone="erfnet-encoder", taps=("1", "3"), **SMALL), CLASSES).double().train()
    assert made.tap_names == ("layers.0", "scores")
    scenes = draw(2, 0)
    moved(made)
    encoders = made.encoders
    found = {}
    for domain, images in (("source", scenes.source.images), ("target", scenes.target.images)):
        network = copy.deepcopy(encoders.of(domain)).eval()
        head = (made.heads if domain == "source" else made.target_heads)[0]
        found[domain] = [rows(network.layers[0](images)), rows(head.low(network(images)))]
    pairs = zip(made.discriminators, found["source"], found["target"], strict=True)
    both = [game("least-squares", bank(one), bank(other)) for bank, one, other in pairs]
    first, second = made.updates(scenes)
    torch.testing.assert_close(first.loss, sum(one for one, _ in both), rtol=1e-10, atol=0)
    drift = sum(((a - b) ** 2).sum() for a, b in zip(*made.both_parameters(), strict=True))
    torch.testing.assert_close(second.loss, 0.1 * sum(other for _, other in both) + 2 * drift, rtol=1e-10, atol=0)


def test_adda_with_the_drift_is_regularised_and_without_is_as_it_was(batch: Batch) -> None:
    def losses(**fields: Any) -> tuple[Tensor, dict[str, Any]]:
        torch.manual_seed(0)
        made = ADDA(ADDAConfig(hidden_features=16, **fields), 3).double().train()
        made.begin_step(5, 10)
        with torch.no_grad():
            for parameter in made.encoders.target.parameters():
                parameter += 0.01
        _, update = made.updates(batch)
        return update.loss.detach(), dict(update.logs)

    plain, logs = losses()
    regularised, with_drift = losses(drift_weight=0.5)
    count = sum(p.numel() for p in ADDA(ADDAConfig(), 3).encoders.target.parameters())
    # How far the encoder went is told of both.
    for found in (logs, with_drift):
        torch.testing.assert_close(found["weight_drift"], torch.tensor(1e-4 * count, dtype=torch.float64))
    torch.testing.assert_close(regularised, plain + 0.5 * 1e-4 * count)
    with pytest.raises(ValueError, match="drift_weight: 1.0 contradicts weight_sharing 'shared'"):
        ADDAConfig(weight_sharing="shared", normalisation_policy="joint", drift_weight=1.0)


def test_rows_of_maps_in_channels_last_are_views() -> None:
    maps = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert as_rows(maps).data_ptr() == maps.data_ptr()
    torch.testing.assert_close(as_rows(maps), rows(maps))


def test_the_drift_may_be_from_the_matched_network(batch: Batch) -> None:
    made = make(gaussian_start=True, drift_from="start", drift_weight=0.25, drift="mean", taps=("5",)).eval()
    made.match(lambda: [batch.source.images], lambda: [batch.target.images])
    made.train().begin_step(5, 10)
    _, update = made.updates(batch)
    assert update.logs["weight_drift"] == 0
    matched = [parameter.detach().clone() for parameter in made.both_parameters()[1]]
    moved(made)
    _, update = made.updates(batch)
    own = made.both_parameters()[1]
    wanted = sum(((a - b) ** 2).mean() for a, b in zip(own, matched, strict=True))
    torch.testing.assert_close(update.logs["weight_drift"], wanted.detach())
    # From the source's it is another.
    far = make(gaussian_start=True, taps=("5",)).eval()
    far.match(lambda: [batch.source.images], lambda: [batch.target.images])
    far.train().begin_step(5, 10)
    _, update = far.updates(batch)
    assert update.logs["weight_drift"] > 0.1
    # A checkpoint holds where the start was.
    names = {name for name in made.state_dict() if name.startswith("started.")}
    assert len(names) == len(own) and not any(name.startswith("started.") for name in far.state_dict())


def test_the_discriminators_alone_ask_for_no_graph_of_the_target(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(discriminator_steps=1, order="jointly")
    made.begin_step(5, 10)
    own, found = made.activations, {}
    monkeypatch.setattr(made, "activations", lambda images, domain: found.setdefault(domain, own(images, domain)))
    (update,) = made.updates(batch)
    assert update.of == ("discriminators",) and update.loss.requires_grad
    assert not any(tensor.requires_grad for given in found.values() for tensor in given.values())

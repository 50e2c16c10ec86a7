"""M3SDA: which samples and classifiers each loss is made of, in float64, and what it does to real digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from processes import forked
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.distributed import share_of
from dynconv.losses import moment_distances, released_moment_distance
from dynconv.methods import M3SDA, M3SDAConfig, SourceOnlyConfig

TRAIN = 1200


def make(num_sources: int = 3, **fields: object) -> M3SDA:
    torch.manual_seed(0)
    made = M3SDA(M3SDAConfig(**fields), 3, num_sources=num_sources).double().train()
    # The default start of N(0, 1/sqrt(width)) makes heads that all but agree.
    for head in made.heads:
        nn.init.normal_(head.weight, std=0.5)
    return made


def make_batch(num_sources: int = 3) -> Batch:
    """Eight source images of the domains in turns and six of the target."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(14, 3, 32, 32, dtype=torch.float64, generator=generator)
    source = SourceBatch(images[:8], torch.tensor([0, 1, 2, 1, 2, 0, 0, 1]), torch.arange(8) % num_sources)
    return Batch(source, TargetBatch(images[8:] + 0.5, torch.arange(6)))


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters, retain_graph=True))


def mean_cross_entropy(head: nn.Module, features: Tensor, batch: Batch, domain: int) -> Tensor:
    """Sample by sample."""
    losses = [
        -head(features[place : place + 1]).log_softmax(dim=1)[0, batch.source.labels[place]]
        for place in range(len(features))
        if batch.source.domains[place] == domain
    ]
    return torch.stack(losses).sum() / len(losses)


def mean_disagreement(first: nn.Module, second: nn.Module, features: Tensor) -> Tensor:
    return (first(features).softmax(dim=1) - second(features).softmax(dim=1)).abs().sum() / (3 * len(features))


def test_three_steps_have_the_losses_of_the_paper() -> None:
    batch = make_batch()
    made = make(moment_weight=0.3, discrepancy_steps=2)
    step_a, step_b, *steps_c = made.updates(batch)
    assert step_a.of == ("features", "heads") and step_b.of == ("heads",)
    assert [update.of for update in steps_c] == [("features",)] * 2
    assert len(made.heads) == 6

    source, target = made.encode(batch)
    # The classifiers of source i are heads i and i + 3.
    learning = sum(mean_cross_entropy(made.heads[i + k], source, batch, i) for i in range(3) for k in (0, 3))
    moments = moment_distances(source, batch.source.domains, target, num_sources=3, num_moments=2).total()
    discrepancy = sum(mean_disagreement(made.heads[i], made.heads[i + 3], target) for i in range(3))
    assert discrepancy.item() > 0.05 and moments.item() > 0.1
    features, heads = list(made.features.parameters()), list(made.heads.parameters())
    for update, loss, parameters in (
        (step_a, learning + 0.3 * moments, features + heads),
        (step_b, learning - discrepancy, heads),
        (steps_c[1], discrepancy, features),
    ):
        torch.testing.assert_close(update.loss, loss)
        torch.testing.assert_close(gradients(update.loss, parameters), gradients(loss, parameters))
    assert float(step_a.logs["moment_distance"]) == pytest.approx(moments.item())


def test_a_classifier_learns_from_its_own_source_alone() -> None:
    batch = make_batch()
    made = make(form="plain", norm="none", moment_weight=0.0)
    (update,) = made.updates(batch)
    for index, head in enumerate(made.heads):
        for domain in range(3):
            other = make_batch()
            other.source.images[other.source.domains == domain] += 1
            (changed,) = made.updates(other)
            same = torch.equal(gradients(update.loss, [head.weight])[0], gradients(changed.loss, [head.weight])[0])
            assert same is (index != domain)


def test_plain_m3sda_has_one_classifier_for_each_source_and_one_step() -> None:
    batch = make_batch()
    made = make(form="plain", num_moments=3, label_smoothing=0.0)
    (update,) = made.updates(batch)
    assert update.of == ("features", "heads") and len(made.heads) == 3
    source, target = made.encode(batch)
    learning = sum(mean_cross_entropy(made.heads[i], source, batch, i) for i in range(3))
    moments = moment_distances(source, batch.source.domains, target, num_sources=3, num_moments=3).total()
    torch.testing.assert_close(update.loss, learning + 5e-4 * moments)


def test_released_moments_are_five_in_the_place_of_two() -> None:
    batch = make_batch(4)
    made = make(4, moments="released", moment_weight=0.3)
    step_a = next(made.updates(batch))
    source, target = made.encode(batch)
    learning = sum(mean_cross_entropy(made.heads[i + k], source, batch, i) for i in range(4) for k in (0, 4))
    moments = released_moment_distance(source, batch.source.domains, target, num_moments=5)
    torch.testing.assert_close(step_a.loss, learning + 0.3 * moments)
    fewer = next(make(4, moments="released", num_moments=2).updates(batch)).logs["moment_distance"]
    wanted = released_moment_distance(source, batch.source.domains, target, num_moments=2)
    assert float(fewer) == pytest.approx(wanted.item())


def test_released_classifiers_learn_all_sources_but_in_step_b() -> None:
    batch = make_batch()
    made = make(classifiers="released", moment_weight=0.0)
    first, second = made.heads
    step_a, step_b, step_c, *_ = made.updates(batch)
    source, target = made.encode(batch)
    of_all = sum(mean_cross_entropy(head, source, batch, i) for i in range(3) for head in (first, second))
    torch.testing.assert_close(step_a.loss, of_all)
    # The first source on one, the second on the other, the third on none.
    kept = mean_cross_entropy(first, source, batch, 0) + mean_cross_entropy(second, source, batch, 1)
    discrepancy = mean_disagreement(first, second, target)
    torch.testing.assert_close(step_b.loss, kept - discrepancy)
    torch.testing.assert_close(step_c.loss, discrepancy)
    torch.testing.assert_close(made.scores(target), (first(target) + second(target)) / 2)


def test_one_source_has_its_distance_to_the_target_alone() -> None:
    batch = make_batch(1)
    made = make(1, moment_weight=1.0, form="plain")
    (update,) = made.updates(batch)
    source, target = made.encode(batch)
    moments = sum((source.pow(k).mean(dim=0) - target.pow(k).mean(dim=0)).norm() for k in (1, 2))
    torch.testing.assert_close(update.loss, mean_cross_entropy(made.heads[0], source, batch, 0) + moments)


def test_a_source_without_a_sample_is_left_out() -> None:
    batch = make_batch(2)
    batch.source.domains *= 2
    made = make(prediction="weighted")
    assert made.nearness is not None
    made.nearness.distances.copy_(torch.tensor([0.0, 7.0, 0.0]))
    step_a, step_b, *_ = made.updates(batch)
    for update in (step_a, step_b):
        assert update.loss.isfinite()
    source, _ = made.encode(batch)
    learning = sum(mean_cross_entropy(made.heads[i + k], source, batch, i) for i in (0, 2) for k in (0, 3))
    assert float(step_a.logs["cross_entropy"]) == pytest.approx(learning.item())
    # Nothing new is known of how near it is.
    assert made.nearness.distances[1] == 7 and bool((made.nearness.distances > 0).all())


def test_predictions_are_the_mean_over_the_classifiers() -> None:
    made, batch = make(), make_batch()
    target = made.encode(batch)[1]
    torch.testing.assert_close(made.scores(target), sum(head(target) for head in made.heads) / 6)
    torch.testing.assert_close(made.predict(batch.target.images), made.scores(target))


def test_weighted_predictions_trust_the_nearest_source() -> None:
    made, batch = make(prediction="weighted"), make_batch()
    target = made.encode(batch)[1]
    torch.testing.assert_close(made.scores(target), sum(head(target) for head in made.heads) / 6)
    seen = []
    for _ in range(2):
        source, target = made.encode(batch)
        found = moment_distances(source, batch.source.domains, target, num_sources=3, num_moments=2)
        seen.append(found.to_target.mean(dim=0).detach())
        next(made.updates(batch))
        batch.target.images += 1
    distances = 0.99 * seen[0] + 0.01 * seen[1]
    assert made.nearness is not None
    torch.testing.assert_close(made.nearness.distances, distances)
    total = sum(1 / float(distance) for distance in distances)
    wanted = sum(
        1 / float(distances[i]) / total * (made.heads[i](target) + made.heads[i + 3](target)) / 2 for i in range(3)
    )
    torch.testing.assert_close(made.scores(target), wanted)
    again = make(prediction="weighted")
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again.scores(target), wanted)


def _share(rank: int, folder: Path) -> None:
    batch, made = make_batch(), make(norm="none")
    # Two of the eight samples here, six there: the first process has none of the third source.
    part = slice(0, 2) if rank == 0 else slice(2, 8)
    own = share_of(6, rank, 2)
    source = SourceBatch(batch.source.images[part], batch.source.labels[part], batch.source.domains[part])
    step_a = next(made.updates(Batch(source, TargetBatch(batch.target.images[own], batch.target.indices[own]))))
    parameters = list(made.parameters())
    found = torch.autograd.grad(step_a.loss, parameters, allow_unused=True)
    torch.save([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)],
               folder / f"{rank}.pt")  # fmt: skip


def test_two_processes_with_unequal_shares_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    forked(_share, tmp_path)
    made = make(norm="none")
    wanted = gradients(next(made.updates(make_batch())).loss, list(made.parameters()))
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close([(a + b) / 2 for a, b in zip(*halves, strict=True)], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"moment_weight": -1.0}, "moment_weight: expected at least 0, got -1.0"),
        ({"num_moments": 0}, "num_moments: expected at least 1, got 0"),
        ({"discrepancy_steps": 0}, "discrepancy_steps: expected at least 1, got 0"),
        ({"form": "plain", "discrepancy_steps": 2}, "discrepancy_steps: 2 contradicts form 'plain'"),
        ({"moment_weight": 0.0, "moments": "released"}, "moments: released contradicts moment_weight 0"),
        ({"moment_weight": 0.0, "num_moments": 3}, "num_moments: 3 contradicts moment_weight 0"),
        ({"form": "plain", "classifiers": "released"}, "classifiers: released contradicts form 'plain'"),
        ({"classifiers": "released", "prediction": "weighted"}, "prediction: weighted contradicts classifiers"),
    ],
)
def test_contradicting_fields_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        M3SDAConfig(**fields)


def test_what_is_released_is_for_its_number_of_sources() -> None:
    with pytest.raises(ValueError, match="moments: 'released' is written for 4 sources, here are 3; choose moments"):
        make(3, moments="released")
    with pytest.raises(ValueError, match="classifiers: 'released' has the first source for one .* here is one;"):
        make(1, classifiers="released")
    with pytest.raises(ValueError, match="num_sources: expected at least 1, got 0"):
        make(0)
    with pytest.raises(ValueError, match="domains: expected 0 to 1, for there are 2 sources; got 0 to 2"):
        next(make(2).updates(make_batch(3)))
    with pytest.raises(TypeError, match="config: expected an M3SDAConfig, got a SourceOnlyConfig"):
        M3SDA.for_task(SourceOnlyConfig(), 3, 2)


def test_defaults_are_those_of_the_paper_and_where_it_is_silent_of_the_release() -> None:
    config = M3SDAConfig()
    assert (config.form, config.moments, config.matched_moments, config.classifiers) == (
        "beta",
        "paper",
        2,
        "by source",
    )
    assert (config.moment_weight, config.discrepancy_steps, config.prediction) == (5e-4, 4, "average")
    # Weighted predictions look at moments that are not matched, too.
    assert M3SDAConfig(moment_weight=0.0, num_moments=3, prediction="weighted").matched_moments == 3
    assert M3SDAConfig(moments="released").matched_moments == 5


@pytest.fixture(scope="module")
def digits() -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Real handwriting: two sources, of which one is paler, the target, which is paler still, and the labels."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    return (images, 0.6 * images - 0.2, 0.3 * images + 0.2), torch.from_numpy(data.target)


@pytest.mark.parametrize(("form", "steps"), [("plain", 12), ("beta", 5)])
def test_it_brings_the_moments_of_real_digits_together(
    form: str, steps: int, digits: tuple[tuple[Tensor, Tensor, Tensor], Tensor], train: Callable
) -> None:
    (one, two, target), labels = digits

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        domains = torch.arange(32) % 2
        while True:
            first, second = torch.randint(TRAIN, (2, 32), generator=generator)
            images = torch.where((domains == 0)[:, None, None, None], one[first], two[first])
            yield Batch(SourceBatch(images, labels[first], domains), TargetBatch(target[second], second))

    found = {}
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        config = M3SDAConfig(form=form, moment_weight=weight, norm="none", lr=1e-3)
        made = M3SDA(config, 10, num_sources=2)
        train(made, batches(), steps)
        made.eval()
        with torch.no_grad():
            features = [made.features(images[TRAIN : TRAIN + 300]) for images in (one, two, target)]
        domains = torch.arange(2).repeat_interleave(len(features[0]))
        distance = moment_distances(torch.cat(features[:2]), domains, features[2], num_sources=2).total()
        # Of the features' size: shrinking them all brings nothing together.
        found[weight] = float(distance / torch.cat(features).norm(dim=1).mean())
    assert found[0.1] < 0.7 * found[0.0]

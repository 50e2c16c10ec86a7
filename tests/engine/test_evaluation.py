from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import forked
from torch import Tensor, nn

from dynconv.data import Domain, Protocol, Split
from dynconv.engine import evaluation, scoring
from dynconv.engine.evaluation import Evaluation, split_metrics
from dynconv.engine.scoring import Scoring, evaluating
from dynconv.engine.selection import mean_of
from dynconv.methods import Method
from dynconv.metrics import VALIDATORS, NonFiniteError, deep_embedded_validation, prediction_validators
from dynconv.models import NetworkInput

CPU = Scoring(torch.device("cpu"))
THREE = ("0", "1", "2")


class ByBrightness(nn.Module):
    """Predicts class round(255 * brightness) // 100, and remembers what it saw."""

    observed_images = None
    diagnosed_images = 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, int]] = []
        self.domains: list[tuple[str, float]] = []
        self.observed: list[float] = []
        self.domain = "target"

    def predict(self, images: Tensor) -> Tensor:
        return self.scores(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        return self.features(images)

    def features(self, images: Tensor) -> Tensor:
        self.seen.append((self.training, len(images)))
        self.domains.append((self.domain, self.levels(images)[0].item()))
        return images

    def scores(self, features: Tensor) -> Tensor:
        return nn.functional.one_hot(self.levels(features).long() // 100, 3).float() * 9

    def levels(self, images: Tensor) -> Tensor:
        return ((images.mean(dim=(1, 2, 3)) + 1) * 127.5).round()

    @contextlib.contextmanager
    def evaluating_domain(self, domain: str) -> Iterator[None]:
        self.domain = domain
        yield
        self.domain = "target"

    def observe_target(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        assert not self.training
        self.observed += [level for images in batches() for level in self.levels(images).tolist()]


def split(levels: list[int], labels: list[int]) -> Split:
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    return Split(images.contiguous(), torch.tensor(labels))


def method() -> Method:
    return ByBrightness()  # type: ignore[return-value]  # the part of a method that evaluation calls


@pytest.fixture
def protocol() -> Protocol:
    classes = ("0", "1", "2")
    one = Domain("one", classes, split([0, 1], [0, 0]), split([0, 100, 200, 0], [0, 1, 2, 2]))
    two = Domain("two", classes, split([0, 1], [0, 0]), None)
    goal = Domain("goal", classes, split([0, 100, 200, 200], [2, 2, 2, 2]), split([0, 0], [1, 1]))
    return Protocol("one+two-goal", (one, two), goal)


def test_each_split_is_measured_under_its_own_name(protocol: Protocol) -> None:
    held_out = (split([0, 100], [0, 1]), split([0, 100], [0, 0]))
    row = Evaluation(protocol, held_out, CPU).measure(method())
    accuracies = {name: value for name, value in row.items() if name.endswith("accuracy")}
    assert accuracies == {
        "source-val/one/accuracy": 1.0,
        "source-val/two/accuracy": 0.5,
        "source-test/one/accuracy": 0.75,
        "target-test/goal/accuracy": 0.0,
        "target-test/goal/class-mean-accuracy": 0.0,
    }


def test_the_target_has_figures_by_class_and_the_mean_is_over_those_it_has() -> None:
    classes = ("a", "lacking", "b/c")
    part = split([0, 200, 0, 0, 0], [0, 2, 2, 0, 2])
    row = split_metrics(method().eval(), "target-test/goal", part, classes, CPU, by_class=True)
    assert row == {
        "target-test/goal/accuracy": 3 / 5,
        "target-test/goal/class-mean-accuracy": pytest.approx((1 + 1 / 3) / 2),
        "target-test/goal/accuracy-of-a": 1.0,
        "target-test/goal/accuracy-of-b/c": 1 / 3,
    }
    # What chooses a model sees the accuracy over all images alone.
    assert mean_of(row, "target-test") == 3 / 5


def test_target_scores_are_of_every_training_image_in_order(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 3)
    model = method().train()
    scores = Evaluation(protocol, (split([0], [0]),) * 2, CPU).target_scores(model)
    assert scores.argmax(dim=1).tolist() == [0, 1, 2, 2]
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert model.seen == [(False, 3), (False, 1)] and model.training


def test_large_images_come_in_smaller_chunks_and_normalised_for_the_network() -> None:
    model = method().eval()
    seen: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 3)

    model.predict = predict
    scoring = Scoring(CPU.device, network_input=NetworkInput(224, "imagenet"))
    list(scoring.batches(model, split([255] * 50, [0] * 50)))
    assert [len(images) for images in seen] == [40, 10]
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0][0, :, 0, 0], expected)


def test_ten_crops_of_images_without_a_margin_are_refused_before_anything_is_measured(protocol: Protocol) -> None:
    with pytest.raises(ValueError, match="--ten-crop: the images of source-test/one, target-test/goal are seen whole"):
        Evaluation(replace(protocol, sources=protocol.sources[:1]), (replace(split([0], [0]), side=4),), CPU, True)


def test_ten_crops_give_the_logarithm_of_the_mean_probability() -> None:
    images = torch.full((2, 3, 6, 6), 0, dtype=torch.uint8)
    images[1, :, :4, :4] = 255
    part = Split(images, torch.tensor([0, 2]), side=4)
    (scores, labels), *rest = CPU.batches(method().eval(), part, ten_crop=True)
    assert not rest and labels.tolist() == [0, 2]
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(2))
    assert scores[0].argmax() == 0
    # The mirror images are as bright, so that each of the five places counts twice.
    sides = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    levels = [images[1, 0, top : top + 4, left : left + 4].float().mean().round().long() // 100 for top, left in sides]
    single = torch.stack([nn.functional.one_hot(level, 3).float() * 9 for level in levels]).softmax(dim=1)
    torch.testing.assert_close(scores[1].exp(), single.mean(dim=0))


def test_the_label_free_measure_reads_no_label(protocol: Protocol) -> None:
    held_out = (split([0], [0]), split([0], [0]))
    images = protocol.target.train.images
    relabelled = replace(
        protocol, target=replace(protocol.target, train=Split(images, torch.zeros(4, dtype=torch.int64)))
    )
    rows = [Evaluation(p, held_out, CPU).measure(method()) for p in (protocol, relabelled)]
    assert rows[0] == rows[1]
    found = [name.rpartition("/")[2] for name in rows[0] if name.startswith("target-train/")]
    assert found == list(VALIDATORS)
    # Sure predictions of the classes 0, 1, 2, 2: the entropy of their mean is 1.0397 nats.
    assert rows[0]["target-train/goal/information-maximisation"] == pytest.approx(1.0397, abs=0.02)


def test_the_validators_see_the_targets_images_and_the_sources_held_out_labels(protocol: Protocol) -> None:
    held_out = (split([0, 100, 150], [0, 1, 0]), split([200], [1]))
    row = Evaluation(protocol, held_out, CPU).measure(method())
    model = ByBrightness().eval()

    def outputs(*parts: Split) -> tuple[Tensor, Tensor]:
        images = torch.cat([part.images for part in parts]) / 127.5 - 1
        features = model.features(images)
        return features.flatten(1), model.scores(features)

    target, scores = outputs(protocol.target.train)
    expected = prediction_validators(scores)
    source, _ = outputs(*(domain.train for domain in protocol.sources))
    validation = outputs(*held_out)
    labels = torch.tensor([0, 1, 0, 1])
    expected["deep-embedded-validation"] = deep_embedded_validation(source, target, *validation, labels)
    found = {name.rpartition("/")[2]: value for name, value in row.items() if name.startswith("target-train/")}
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_validators_look_at_a_limited_number_of_evenly_spread_images(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.Evaluation, "unlabelled", 4)
    monkeypatch.setattr(evaluation, "TRAINED", 2)
    many = replace(protocol.target, train=split(list(range(0, 250, 10)), [0] * 25))
    sources = tuple(replace(domain, train=split([0, 60, 120], [0] * 3)) for domain in protocol.sources)
    seen: list[list[float]] = []
    model = method().eval()
    features = model.features

    def watched(images: Tensor) -> Tensor:
        seen.append(model.levels(images).tolist())
        return features(images)

    model.features = watched
    held_out = (split([0, 100, 200], [0, 1, 2]), split([0, 100, 200], [0, 0, 0]))
    row = Evaluation(replace(protocol, target=many, sources=sources), held_out, CPU).measure(model)
    # Two of those held out of each source and four of the target, for the validators; one of each source's own.
    assert seen[:2] == [[0, 200]] * 2
    assert seen[-3:] == [[0, 80, 160, 240], [0], [0]]
    # The accuracy is of all that was held out.
    assert seen[2:4] == [[0, 100, 200]] * 2 and row["source-val/one/accuracy"] == 1.0


def test_the_images_of_each_side_are_predicted_as_that_sides(protocol: Protocol) -> None:
    sources = tuple(replace(domain, train=split([7, 8], [0, 0])) for domain in protocol.sources)
    model = method()
    Evaluation(replace(protocol, sources=sources), (split([9], [0]), split([9], [0])), CPU).measure(model)
    source_test, target_test, target_train = ("source", 0.0), ("target", 0.0), ("target", 0.0)
    held_out, trained = [("source", 9.0)] * 2, [("source", 7.0)] * 2
    assert model.domains == [*held_out, source_test, target_test, target_train, *trained]
    # The target's own statistics, of all its training images, before anything is measured.
    assert model.observed == [0, 100, 200, 200]
    Evaluation(protocol, (split([9], [0]),) * 2, CPU).target_scores(model)
    assert model.observed == [0, 100, 200, 200] * 2 and model.domains[-1] == ("target", 0.0)


@pytest.mark.parametrize(("kept", "reads"), [(10**6, [5]), (5 * 3 * 4 * 4, [5]), (5 * 3 * 4 * 4 - 1, [2, 2, 1] * 3)])
def test_target_images_that_memory_does_not_hold_are_read_at_every_pass(
    kept: int, reads: list[int], protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "KEPT_BYTES", kept)
    monkeypatch.setattr(scoring, "CHUNK", 2)
    part = split([0, 100, 200, 200, 50], [0] * 5)
    found: list[int] = []
    passes: list[list[float]] = []

    class Files:
        """Images that are read whenever they are asked for, as files are."""

        shape = part.images.shape

        def images_at(self, indices: Tensor) -> Tensor:
            found.append(len(indices))
            return part.images[indices]

    def observe(batches: Callable[[], Iterator[Tensor]]) -> None:
        for _ in range(3):
            passes.append([level for images in batches() for level in model.levels(images).tolist()])

    model = method().eval()
    model.observe_target = observe
    target = replace(protocol.target, train=Split(Files(), part.labels))
    Evaluation(replace(protocol, target=target), (split([9], [0]),) * 2, CPU)._observe_target(model)
    assert passes == [[0, 100, 200, 200, 50]] * 3 and found == reads


def _measure_in_two(rank: int, folder: Path) -> None:
    protocol, held_out = uneven()
    scored = Evaluation(protocol, held_out, CPU)
    model = method()
    torch.save((scored.measure(model), scored.target_scores(model)), folder / f"{rank}.pt")
    # Images of a share of its own: each process's network fails on the second's alone.
    images = int(rank == 1)
    model.scores = lambda features: torch.full((len(features), 3), float("nan") if images else 0.0)
    with pytest.raises(NonFiniteError, match="scores: 6 of 9 are not finite"):
        split_metrics(model, "test/x", split([0] * 3, [0] * 3), THREE, CPU, by_class=False)
    with pytest.raises(NonFiniteError):
        scored.measure(model)


def uneven() -> tuple[Protocol, tuple[Split, ...]]:
    """A target of an odd number of images, and a source with a single test image and a single one held out."""
    one = Domain("one", THREE, split([0, 100, 200], [0, 1, 2]), split([100], [0]))
    goal = Domain("goal", THREE, split([0, 100, 200, 0, 210], [2] * 5), split([0, 100, 200], [0, 1, 1]))
    return Protocol("one-goal", (one,), goal), (split([100], [1]),)


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    forked(_measure_in_two, tmp_path)
    protocol, held_out = uneven()
    scored = Evaluation(protocol, held_out, CPU)
    for rank in range(2):
        row, scores = torch.load(tmp_path / f"{rank}.pt")
        assert row == scored.measure(method())
        assert torch.equal(scores, scored.target_scores(method()))


def test_evaluation_is_in_chunks_without_gradients_and_in_evaluation_mode(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 3)
    model = method()
    model.train()
    many = split([0] * 7, [0] * 7)
    with evaluating(model):
        assert split_metrics(model, "test/x", many, THREE, CPU, by_class=False) == {"test/x/accuracy": 1.0}
    assert model.seen == [(False, 3), (False, 3), (False, 1)]
    assert model.training
    model.eval()
    with evaluating(model):
        pass
    assert not model.training


def test_the_mode_is_restored_after_an_error() -> None:
    model = method().train()
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert model.training


def test_autocast_surrounds_the_prediction_alone() -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def autocast() -> Iterator[None]:
        log.append("in")
        yield
        log.append("out")

    list(Scoring(CPU.device, autocast).batches(method().eval(), split([0], [0])))
    assert log == ["in", "out"]

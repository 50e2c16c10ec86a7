from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dynconv.data import Domain, Protocol, Split
from dynconv.engine import evaluation
from dynconv.engine.evaluation import Evaluation, Scoring, evaluating, split_metrics
from dynconv.engine.selection import mean_of
from dynconv.methods import Method
from dynconv.models import NetworkInput

CPU = Scoring(torch.device("cpu"))
THREE = ("0", "1", "2")


class ByBrightness(nn.Module):
    """Predicts class round(255 * brightness) // 100, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, int]] = []

    def predict(self, images: Tensor) -> Tensor:
        self.seen.append((self.training, len(images)))
        level = ((images.mean(dim=(1, 2, 3)) + 1) * 127.5).round() // 100
        return nn.functional.one_hot(level.long(), 3).float() * 9


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
    monkeypatch.setattr(evaluation, "CHUNK", 3)
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
    # Sure predictions of the classes 0, 1, 2, 2: the entropy of their mean is 1.0397 nats.
    assert rows[0]["target-train/goal/information-maximisation"] == pytest.approx(1.0397, abs=0.02)


def test_evaluation_is_in_chunks_without_gradients_and_in_evaluation_mode(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "CHUNK", 3)
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

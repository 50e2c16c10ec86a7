from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dynconv.data import Domain, Protocol, Split
from dynconv.engine import evaluation
from dynconv.engine.evaluation import Evaluation, evaluating, split_accuracy
from dynconv.methods import Method

CPU = torch.device("cpu")


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
    }


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
        assert split_accuracy(model, many, 3, CPU) == 1.0
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

    split_accuracy(method().eval(), split([0], [0]), 3, CPU, autocast)
    assert log == ["in", "out"]

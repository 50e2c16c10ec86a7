"""What is measured during a run, and on which images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv.data import Protocol, Split, evaluation_batches, normalise
from dynconv.methods import Method
from dynconv.metrics import Prediction, accuracy, prediction_statistics

Autocast = Callable[[], AbstractContextManager[object]]

# On one CPU core 100 took 2.2 s where 500 took 2.3 and 1,000 took 2.8 (3,000 images, lenet-small).
CHUNK = 100
# The label-free validator looks at this many target training images: the spread of its mean over 2,000 is far below
# the difference between two models worth choosing between, and all of MNIST would take longer than the training step.
UNLABELLED = 2000


@dataclass(frozen=True)
class Evaluation:
    """The measurements of a run, as `SPLIT/DOMAIN/METRIC`.

    `source-val` are the images held out of the sources' training splits, `source-test` and `target-test` the test
    splits; `target-train` are training images of the target without their labels.
    """

    protocol: Protocol
    held_out: Sequence[Split]
    device: torch.device
    autocast: Autocast = contextlib.nullcontext

    def labelled(self) -> Iterator[tuple[str, Split]]:
        """Pairs of SPLIT/DOMAIN and the split, in the order of the columns."""
        for domain, held_out in zip(self.protocol.sources, self.held_out, strict=True):
            yield f"source-val/{domain.name}", held_out
        for domain in self.protocol.sources:
            if domain.test is not None:
                yield f"source-test/{domain.name}", domain.test
        if self.protocol.target.test is not None:
            yield f"target-test/{self.protocol.target.name}", self.protocol.target.test

    def measure(self, method: Method) -> dict[str, float]:
        """Every metric of `method`, which is left in the mode (training or evaluation) it came in."""
        with evaluating(method):
            row = {
                f"{name}/accuracy": split_accuracy(method, split, self.protocol.num_classes, self.device, self.autocast)
                for name, split in self.labelled()
            }
            statistics = self._without_labels(method)
        prefix = f"target-train/{self.protocol.target.name}"
        row[f"{prefix}/entropy"] = statistics.entropy
        row[f"{prefix}/information-maximisation"] = statistics.information_maximisation
        return row

    def _without_labels(self, method: Method) -> Prediction:
        images = self.protocol.target.train.images
        # Evenly spread over the split: a list sorted by class would otherwise show its first classes only.
        chosen = torch.linspace(0, len(images) - 1, min(UNLABELLED, len(images))).round().long()
        return prediction_statistics(
            _scores(method, normalise(images[indices], self.device), self.autocast) for indices in chosen.split(CHUNK)
        )


def split_accuracy(
    method: Method, split: Split, num_classes: int, device: torch.device, autocast: Autocast = contextlib.nullcontext
) -> float:
    """Accuracy of `method`, which must be in evaluation mode, on a labelled split, computed in chunks."""
    batches = (
        (_scores(method, images, autocast), labels)
        for images, labels in evaluation_batches(split, batch_size=CHUNK, device=device)
    )
    return accuracy(batches, num_classes)


@torch.no_grad()
def _scores(method: Method, images: Tensor, autocast: Autocast) -> Tensor:
    with autocast():
        return method.predict(images).float()


@contextlib.contextmanager
def evaluating(method: Method) -> Iterator[None]:
    """`method` in evaluation mode (batch normalisation by its running statistics, no dropout) within the context."""
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)

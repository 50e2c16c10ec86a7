"""What is measured during a run, and on which images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv.data import Protocol, Split, evaluation_batches
from dynconv.engine.selection import of_class
from dynconv.methods import Method
from dynconv.metrics import classification, prediction_statistics
from dynconv.models import NetworkInput

Autocast = Callable[[], AbstractContextManager[object]]

# On one CPU core 100 took 2.2 s where 500 took 2.3 and 1,000 took 2.8 (3,000 images, lenet-small).
CHUNK = 100
# Of images beyond 64 x 64: the widest activations of a ResNet at 224 x 224 are 3.2 MB an image and layer.
LARGE_CHUNK = 40
CROPS = 10
# The label-free validator looks at this many target training images: the spread of its mean over 2,000 is far below
# the difference between two models worth choosing between, and all of MNIST would take longer than the training step.
UNLABELLED = 2000


@dataclass(frozen=True)
class Scoring:
    """How the images of a split become class scores."""

    device: torch.device
    autocast: Autocast = contextlib.nullcontext
    network_input: NetworkInput = NetworkInput(32, "half")
    """Size and normalisation of the network's images."""

    @torch.no_grad()
    def batches(self, method: Method, split: Split, *, ten_crop: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of scores float32 (B, C) and labels (B,) of every image in order; `method` is in evaluation mode.

        With `ten_crop` an image's scores are the logarithm of its mean probabilities over the four corners, the centre
        and their mirror images.
        """
        chunk = CHUNK if self.network_input.image_size <= 64 else LARGE_CHUNK
        size = chunk // CROPS if ten_crop else chunk
        normalisation = self.network_input.normalisation
        for images, labels in evaluation_batches(
            split, batch_size=size, device=self.device, normalisation=normalisation, ten_crop=ten_crop
        ):
            with self.autocast():
                scores = method.predict(images.flatten(0, 1) if ten_crop else images).float()
            if ten_crop:
                # In logarithms from end to end: a probability that underflows to 0 would give -inf.
                scores = scores.log_softmax(dim=1).unflatten(0, (-1, CROPS)).logsumexp(dim=1) - math.log(CROPS)
            yield scores, labels


@dataclass(frozen=True)
class Evaluation:
    """The measurements of a run, as `SPLIT/DOMAIN/METRIC`.

    `source-val` are the images held out of the sources' training splits, `source-test` and `target-test` the test
    splits; `target-train` are training images of the target without their labels.

    Raises:
        ValueError: `ten_crop` for images that have no margin to crop from.
    """

    protocol: Protocol
    held_out: Sequence[Split]
    scoring: Scoring
    ten_crop: bool = False
    """Whether labelled images are judged by ten crops."""

    def __post_init__(self) -> None:
        whole = [name for name, split in self.labelled() if split.side is None]
        if self.ten_crop and whole:
            raise ValueError(
                f"--ten-crop: the images of {', '.join(whole)} are seen whole and have no margin to crop from; leave "
                "it out (it is for image files at 224 x 224)"
            )

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
        """Every metric of `method`, which is left in the mode (training or evaluation) it came in.

        The accuracies of each split; of the target's test split also those of its classes and their mean.
        """
        row: dict[str, float] = {}
        with evaluating(method):
            for name, split in self.labelled():
                by_class = name.startswith("target-test/")
                row |= split_metrics(
                    method, name, split, self.protocol.classes, self.scoring, by_class=by_class, ten_crop=self.ten_crop
                )
            statistics = prediction_statistics(self._spread_scores(method))
        prefix = f"target-train/{self.protocol.target.name}"
        row[f"{prefix}/entropy"] = statistics.entropy
        row[f"{prefix}/information-maximisation"] = statistics.information_maximisation
        return row

    def target_scores(self, method: Method) -> Tensor:
        """Scores float32 (N, C) of all target training images, in their order, in evaluation mode."""
        with evaluating(method):
            return torch.cat([scores for scores, _ in self.scoring.batches(method, self.protocol.target.train)])

    def _spread_scores(self, method: Method) -> Iterator[Tensor]:
        split = self.protocol.target.train
        # Evenly spread over the split: a list sorted by class would otherwise show its first classes only.
        chosen = torch.linspace(0, len(split) - 1, min(UNLABELLED, len(split))).round().long()
        return (scores for scores, _ in self.scoring.batches(method, split.subset(chosen)))


def split_metrics(
    method: Method,
    name: str,
    split: Split,
    classes: Sequence[str],
    scoring: Scoring,
    *,
    by_class: bool,
    ten_crop: bool = False,
) -> dict[str, float]:
    """`NAME/accuracy` of `method`, which must be in evaluation mode, on a labelled split, computed in chunks.

    `by_class` adds `NAME/class-mean-accuracy`, and `NAME/accuracy-of-CLASS` for every class that the split has.
    """
    found = classification(scoring.batches(method, split, ten_crop=ten_crop), len(classes))
    row = {f"{name}/accuracy": found.accuracy}
    if by_class:
        row[f"{name}/class-mean-accuracy"] = found.class_mean
        pairs = zip(classes, found.of_classes, strict=True)
        row |= {of_class(name, label): value for label, value in pairs if value is not None}
    return row


@contextlib.contextmanager
def evaluating(method: Method) -> Iterator[None]:
    """`method` in evaluation mode (batch normalisation by its running statistics, no dropout) within the context."""
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)

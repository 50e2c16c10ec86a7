"""What is measured during a run, and on which images."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from dynconv.data import Protocol, Split, evaluation_batches
from dynconv.distributed import gather_rows, my_share, world_size
from dynconv.engine.selection import of_class
from dynconv.methods import Matched, Method
from dynconv.metrics import classification, deep_embedded_validation, prediction_validators
from dynconv.models import DomainName, NetworkInput

Autocast = Callable[[], AbstractContextManager[object]]
S = TypeVar("S", bound=Split)

# On one CPU core 100 took 2.2 s where 500 took 2.3 and 1,000 took 2.8 (3,000 images, lenet-small).
CHUNK = 100
# Of images beyond 64 x 64: the widest activations of a ResNet at 224 x 224 are 3.2 MB an image and layer.
LARGE_CHUNK = 40
# Of label maps: one scene of 1024 x 512, whose widest activations are 64 MB in an ERFNet and 400 MB in an FCN-8s.
SCENE_PIXELS = 2**19
CROPS = 10
# Validators and AdaBN look at this many images of a side: the spread of a mean over 2,000 is far below the difference
# between two models worth choosing from, and all of MNIST would take longer than the training step.
UNLABELLED = 2000
# Of target images that are passed over many times: `UNLABELLED` of them at 224 x 224. All 120,906 of DomainNet's real
# would take 18 GB.
KEPT_BYTES = UNLABELLED * 3 * 224**2
# Enough of the sources' training images to tell them from the target's.
TRAINED = 1000


class Outputs(NamedTuple):
    """What a network makes of images, on one device."""

    features: Tensor
    """float32 (B, F): what the classifiers see."""
    scores: Tensor
    """float32 (B, C)."""
    labels: Tensor
    """int64 (B,): theirs, for whom they concern."""


@dataclass(frozen=True)
class Scoring:
    """How the images of a split become class scores."""

    device: torch.device
    autocast: Autocast = contextlib.nullcontext
    network_input: NetworkInput = NetworkInput(32, "half")
    """Size and normalisation of the network's images."""
    batch_size: int | None = None
    """Images, or crops of them, that the network is given at a time; None for what is quick at their size."""

    @property
    def chunk(self) -> int:
        """`batch_size`, or its default for whole images."""
        return self.batch_size or (CHUNK if self.network_input.image_size <= 64 else LARGE_CHUNK)

    def chunk_of(self, split: Split) -> int:
        """`chunk`, or, where every pixel is labelled, as many scenes as have `SCENE_PIXELS`."""
        if self.network_input.labels == "image":
            return self.chunk
        return self.batch_size or max(SCENE_PIXELS // math.prod(split.image_shape[1:]), 1)

    @torch.no_grad()
    def batches(self, method: Method, split: Split, *, ten_crop: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of scores float32 (B, C) and labels (B,) of every image in order; `method` is in evaluation mode.

        With `ten_crop` an image's scores are the logarithm of its mean probabilities over the four corners, the centre
        and their mirror images.
        """
        if len(split) == 0:
            return
        size = max(self.chunk // CROPS, 1) if ten_crop else self.chunk_of(split)
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

    @torch.no_grad()
    def outputs(self, method: Method, split: Split) -> Outputs:
        """Features and scores of every image in order, on every process, each of which computes its share; `method` is
        in evaluation mode."""
        mine = my_share(len(split))
        # A process without a share looks at an image too, for the shapes of the rows that it is to receive.
        part = split if world_size() == 1 else split.subset(mine if len(mine) else torch.zeros(1, dtype=torch.int64))
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for images in self.images(part):
            with self.autocast():
                features = method.embed(images)
                scores = method.scores(features)
            found[0].append(features.flatten(1).float())
            found[1].append(scores.float())
        features, scores = (gather_rows(torch.cat(rows)[: len(mine)], len(split)) for rows in found)
        return Outputs(features, scores, split.labels.to(scores.device))

    def images(self, split: Split) -> Iterator[Tensor]:
        """The images of a split as the network takes them, in chunks."""
        chunks = evaluation_batches(
            split, batch_size=self.chunk_of(split), device=self.device, normalisation=self.network_input.normalisation
        )
        return (images for images, _ in chunks)


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
    unlabelled: ClassVar[int] = UNLABELLED
    """Images of a side, at most, that the validators and AdaBN look at."""

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

        The accuracies of each split; of the target's test split also those of its classes and their mean; and the
        validators (`dynconv.metrics`), for which no label of the target is looked at. Several processes share the work,
        and all get the same.

        Raises:
            NonFiniteError: A feature or a score is not finite.
        """
        with evaluating(method):
            self._observe_target(method)
            return self.figures(method) | self._diagnosis(method)

    def images(self, split: Split) -> Iterator[Tensor]:
        """The images of a split that a method is given without their labels, in chunks."""
        return self.scoring.images(split)

    def figures(self, method: Method) -> dict[str, float]:
        """The metrics of the labelled splits, and the validators; `method` is in evaluation mode."""
        row: dict[str, float] = {}
        held_out = self._outputs(method, self.held_out, "source", self.unlabelled)
        for place, (name, split) in enumerate(self.labelled()):
            if place < len(held_out) and len(held_out[place].scores) == len(split) and not self.ten_crop:
                # At hand: on small sets another pass would make an evaluation a fifth longer.
                pairs = [(held_out[place].scores, held_out[place].labels)]
                found = classification(pairs, self.protocol.num_classes, device=self.scoring.device)
                row[f"{name}/accuracy"] = found.accuracy
            else:
                by_class = name.startswith("target-test/")
                row |= split_metrics(
                    method,
                    name,
                    split,
                    self.protocol.classes,
                    self.scoring,
                    by_class=by_class,
                    ten_crop=self.ten_crop,
                )
        return row | self._validators(method, held_out)

    def target_scores(self, method: Method) -> Tensor:
        """Scores float32 (N, C) of all target training images, in their order, in evaluation mode."""
        split = self.protocol.target.train
        # Of a process without a share.
        rows = [torch.empty(0, self.protocol.num_classes, device=self.scoring.device)]
        with evaluating(method):
            self._observe_target(method)
            with method.evaluating_domain("target"):
                rows += [scores for scores, _ in self.scoring.batches(method, my_part(split))]
        return gather_rows(torch.cat(rows), len(split))

    def _outputs(self, method: Method, splits: Sequence[Split], domain: DomainName, count: int) -> list[Outputs]:
        """Of `count` images at most, as many of each split: in training the sources take turns."""
        each = max(count // len(splits), 1)
        with method.evaluating_domain(domain):
            return [self.scoring.outputs(method, spread(split, each)) for split in splits]

    def _validators(self, method: Method, held_out: Sequence[Outputs]) -> dict[str, float]:
        (target,) = self._outputs(method, [self.protocol.target.train], "target", self.unlabelled)
        trained = self._outputs(method, [domain.train for domain in self.protocol.sources], "source", TRAINED)
        found = prediction_validators(target.scores)
        found["deep-embedded-validation"] = deep_embedded_validation(
            torch.cat([one.features for one in trained]),
            target.features,
            *(torch.cat(column) for column in zip(*held_out, strict=True)),
        )
        return {f"target-train/{self.protocol.target.name}/{name}": value for name, value in found.items()}

    def _diagnosis(self, method: Method) -> dict[str, float]:
        if not (count := method.diagnosed_images):
            return {}
        kinds = ([domain.train for domain in self.protocol.sources], self.held_out)
        parts = ([spread(split, count // len(splits)) for split in splits] for splits in kinds)
        trained, held_out = (torch.cat([images for part in own for images in self.images(part)]) for own in parts)
        with torch.no_grad(), self.scoring.autocast():
            return method.diagnose(trained, held_out)

    def match(self, method: Method) -> Matched:
        """`Method.match` with training images of both domains; `method` is in evaluation mode."""
        sources = self._passes(method, [domain.train for domain in self.protocol.sources])
        with self.scoring.autocast():
            return method.match(sources, self._passes(method, [self.protocol.target.train]))

    def _observe_target(self, method: Method) -> None:
        with self.scoring.autocast():
            method.observe_target(self._passes(method, [self.protocol.target.train]))

    def _passes(self, method: Method, splits: Sequence[Split]) -> Callable[[], Iterator[Tensor]]:
        """What gives, anew at each call, the images that a method is to observe, evenly spread over `splits`."""
        wanted = self.unlabelled if method.observed_images is None else method.observed_images
        each = max(wanted // len(splits), 1)
        parts = [my_part(spread(split, each if wanted else len(split))) for split in splits]

        # Every layer has a pass of its own (53 in a ResNet-50), so that files are read once where memory holds them.
        @functools.cache
        def read(place: int) -> Split:
            part = parts[place]
            return Split(part.images_at(torch.arange(len(part))), part.labels)

        kept = sum(math.prod((len(part), *part.image_shape)) for part in parts) <= KEPT_BYTES
        return lambda: (
            images for place, part in enumerate(parts) for images in self.images(read(place) if kept else part)
        )


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

    The images of a NAME that begins with "source-" are predicted as a source's, all others as the target's. `by_class`
    adds `NAME/class-mean-accuracy`, and `NAME/accuracy-of-CLASS` for every class that the split has. Several processes
    share the images.
    """
    with method.evaluating_domain("source" if name.startswith("source-") else "target"):
        batches = scoring.batches(method, my_part(split), ten_crop=ten_crop)
        found = classification(batches, len(classes), device=scoring.device)
    row = {f"{name}/accuracy": found.accuracy}
    if by_class:
        row[f"{name}/class-mean-accuracy"] = found.class_mean
        pairs = zip(classes, found.of_classes, strict=True)
        row |= {of_class(name, label): value for label, value in pairs if value is not None}
    return row


def my_part(split: S) -> S:
    """The images that this process computes; all of them in one process."""
    return split if world_size() == 1 else split.subset(my_share(len(split)))


def spread(split: S, count: int) -> S:
    """`count` images at most, evenly spread: a list sorted by class would otherwise show its first classes only."""
    if len(split) <= count:
        return split
    return split.subset(torch.linspace(0, len(split) - 1, count).round().long())


@contextlib.contextmanager
def evaluating(method: Method) -> Iterator[None]:
    """`method` in evaluation mode (batch normalisation by its running statistics, no dropout) within the context."""
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)

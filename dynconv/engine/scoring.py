"""How the images of a split become class scores, in chunks that fit into memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dynconv.data import Split, evaluation_batches
from dynconv.distributed import gather_rows, my_share, world_size
from dynconv.methods import Method
from dynconv.models import NetworkInput

Autocast = Callable[[], AbstractContextManager[object]]
S = TypeVar("S", bound=Split)

# On one CPU core 100 took 2.2 s where 500 took 2.3 and 1,000 took 2.8 (3,000 images, lenet-small).
CHUNK = 100
# Of images beyond 64 x 64: the widest activations of a ResNet at 224 x 224 are 3.2 MB an image and layer.
LARGE_CHUNK = 40
# Of label maps: one scene of 1024 x 512, whose widest activations are 64 MB in an ERFNet and 400 MB in an FCN-8s.
SCENE_PIXELS = 2**19
CROPS = 10


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

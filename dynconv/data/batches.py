"""Batches: the endless stream that training draws, whose whole state is one number and the selection of target images;
and those of a split, once through, for evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynconv.data.augment import AUGMENTATIONS, Augmentation, ten_crops
from dynconv.data.base import Protocol, Split
from dynconv.data.batch import Batch, SourceBatch, TargetBatch, TargetSelection
from dynconv.data.normalise import NORMALISATIONS, Normalisation, normalise
from dynconv.data.samplers import Balanced, Shuffled
from dynconv.data.threads import read_ahead, reading_pool
from dynconv.distributed import share_of

# The last word of the generator's key of each random draw (see `samplers`).
_AUGMENTATION = 3


class _Drawn(NamedTuple):
    """What a batch is made of, before it goes to the device: bytes and numbers."""

    source: Tensor
    labels: Tensor
    domains: Tensor
    target: Tensor
    indices: Tensor
    # Without rows where there is no selection, or none with probabilities.
    pseudo_labels: Tensor
    pseudo_probabilities: Tensor


class DomainBatches:
    """Endless iterator over `Batch`: `batch_size` images of the union of the sources and `batch_size` of the target.

    The sources take turns image by image, so each is seen equally often whatever its size; every domain is reshuffled
    at the start of each of its own passes, and a batch that reaches the end of one goes on into the next: no image is
    dropped, and a batch may be larger than a domain. Images that stay in files, and all on their way to a GPU, are
    prepared some batches ahead, in a thread.

    Of `world_size` processes each gives its own consecutive part of every batch: together they see exactly the images,
    crops and mirrorings that one process sees, and the state is the same for any number of them.

    Args:
        protocol: Domains to draw from; only their training splits are read.
        batch_size: Source images per batch, and target images per batch, over all processes.
        seed: Fixes every order, crop and mirroring.
        device: Where the batches are put.
        class_balanced: Within each source, every class equally often, whatever its size (GSDA section 3.1).
        augmentation: What is random about the training images (see `Split.drawn_at`).
        normalisation: As the network wants it (see `normalise`).
        rank, world_size: Which part of every batch to give.
        prefetch: Batches prepared ahead; 0 for none.

    Raises:
        ValueError: `batch_size` below 1 or no multiple of `world_size`, a negative `seed` or `prefetch`, an unknown
            word, or a domain without training images.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        class_balanced: bool = False,
        augmentation: Augmentation = "none",
        normalisation: Normalisation = "half",
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if batch_size % world_size:
            raise ValueError(f"batch_size: expected a multiple of the {world_size} processes, got {batch_size}")
        if prefetch < 0:
            raise ValueError(f"prefetch: expected 0 or more, got {prefetch}")
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {seed}")
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"augmentation: expected one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation: expected one of {', '.join(NORMALISATIONS)}, got {normalisation!r}")
        domains = (*protocol.sources, protocol.target)
        if empty := [domain.name for domain in domains if len(domain.train) == 0]:
            raise ValueError(f"protocol {protocol.name}: no training images in {', '.join(empty)}")
        self._splits = [domain.train for domain in domains]
        self._num_sources = len(protocol.sources)
        self._num_classes = protocol.num_classes
        self._sources: list[Shuffled | Balanced] = [
            Balanced(split.labels, seed, stream) if class_balanced else Shuffled(len(split), seed, stream)
            for stream, split in enumerate(self._splits[: self._num_sources])
        ]
        self._target = Shuffled(len(self._splits[-1]), seed, self._num_sources)
        self._identity = {
            "protocol": protocol.name,
            "batch_size": batch_size,
            "seed": seed,
            "sizes": [len(split) for split in self._splits],
            "class_balanced": class_balanced,
            "augmentation": augmentation,
        }
        self._batch_size = batch_size
        self._part = share_of(batch_size, rank, world_size)
        self._seed = seed
        self._device = torch.device(device)
        self._augmentation: Augmentation = augmentation
        self._normalisation: Normalisation = normalisation
        self._step = 0
        self._selection: TargetSelection | None = None
        self._selected: Balanced | None = None
        from_files = any(not isinstance(split.images, Tensor) for split in self._splits)
        # What is in memory is drawn in less time than a thread on the same cores would take from the training.
        self._prefetch = prefetch if from_files or self._device.type == "cuda" else 0
        self._reader = reading_pool(1, "batches") if self._prefetch else None
        self._ahead: deque[Future[_Drawn]] = deque()

    @property
    def steps_per_epoch(self) -> int:
        """The smallest number of batches from the start after which every source image was seen.

        With `class_balanced` just as many, though the images of large classes are then not all seen.
        """
        last = max(
            (len(split) - 1) * self._num_sources + source
            for source, split in enumerate(self._splits[: self._num_sources])
        )
        return last // self._batch_size + 1

    @property
    def steps_per_pass(self) -> int:
        """The smallest number of batches from the start after which every image, the target's too, was seen."""
        return max(self.steps_per_epoch, -(-len(self._splits[-1]) // self._batch_size))

    def select_target(self, selection: TargetSelection | None) -> None:
        """From the next batch on, draw target images from `selection` only, every pseudo class of it equally often.

        Args:
            selection: Which images, as what; None for all images, each equally often.

        Raises:
            ValueError: an empty selection, an index outside the target's training split, or a label that is no class.
        """
        if selection is not None:
            self._check(selection)
            # A copy, for the caller may go on writing to these tensors.
            selection = selection.copy()
        self._forget_ahead()
        self._selection = selection
        self._selected = None if selection is None else Balanced(selection.labels, self._seed, self._num_sources)

    def _check(self, selection: TargetSelection) -> None:
        if selection.indices.numel() == 0:
            raise ValueError("selection: it holds no image; None selects all")
        for name, values, size in (
            ("indices", selection.indices, len(self._splits[-1])),
            ("labels", selection.labels, self._num_classes),
        ):
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= size:
                raise ValueError(f"selection.{name}: expected 0 to {size - 1}, got {low if low < 0 else high}")
        if selection.probabilities is not None and selection.probabilities.shape[1] != self._num_classes:
            raise ValueError(
                f"selection.probabilities: expected {self._num_classes} columns, got {selection.probabilities.shape[1]}"
            )

    def __iter__(self) -> DomainBatches:
        return self

    def __next__(self) -> Batch:
        drawn = self._ahead.popleft().result() if self._ahead else self._draw(self._step)
        self._step += 1
        if self._reader is not None:
            while len(self._ahead) < self._prefetch:
                self._ahead.append(self._reader.submit(self._draw, self._step + len(self._ahead)))
        # From pinned memory a copy to a GPU runs beside the computation.
        labels, domains, indices = (
            each.to(self._device, non_blocking=True) for each in (drawn.labels, drawn.domains, drawn.indices)
        )
        source = SourceBatch(self._give(drawn.source), labels.long(), domains)
        pseudo = (
            each.to(self._device, non_blocking=True) if len(each) else None
            for each in (drawn.pseudo_labels, drawn.pseudo_probabilities)
        )
        return Batch(source, TargetBatch(self._give(drawn.target), indices, *pseudo))

    def _give(self, images: Tensor) -> Tensor:
        return normalise(images, self._device, self._normalisation)

    def _forget_ahead(self) -> None:
        while self._ahead:
            # The first may be drawing, and then uses what is about to change; the others have not begun.
            future = self._ahead.pop()
            if not future.cancel():
                future.exception()

    def _draw(self, step: int) -> _Drawn:
        start = step * self._batch_size
        mine = np.arange(start + self._part.start, start + self._part.stop)
        domains = torch.from_numpy(mine % self._num_sources)
        first_split = self._splits[0]
        shape = (len(mine), *first_split.drawn_shape)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        # Label maps travel as bytes: eight times fewer of them.
        dtype = torch.uint8 if first_split.label_shape else torch.int64
        labels = torch.empty((len(mine), *first_split.label_shape), dtype=dtype)
        for source, split in enumerate(self._splits[: self._num_sources]):
            # Of this source's images in the whole batch, those of this process come after `before` others.
            first, before = self._drawn_before(start, source), self._drawn_before(start + self._part.start, source)
            # A slice, for 32 images of 224 x 224 are copied to one in 0.4 ms and to a list of places in 5.
            slots = slice((source - int(mine[0])) % self._num_sources, None, self._num_sources)
            indices = self._sources[source].take(before, len(labels[slots]))
            total = self._drawn_before(start + self._batch_size, source) - first
            images[slots], labels[slots] = self._drawn_of(split, indices, source, step, (before - first, total))
        pseudo_labels, pseudo_probabilities = torch.empty(0, dtype=torch.int64), torch.empty(0)
        if self._selection is None or self._selected is None:
            indices = self._target.take(int(mine[0]), len(mine))
        else:
            places = self._selected.take(int(mine[0]), len(mine))
            indices, pseudo_labels = self._selection.indices[places], self._selection.labels[places]
            if self._selection.probabilities is not None:
                pseudo_probabilities = self._selection.probabilities[places]
        of_batch = (self._part.start, self._batch_size)
        target, _ = self._drawn_of(self._splits[-1], indices, self._num_sources, step, of_batch)
        drawn = _Drawn(images, labels, domains, target, indices, pseudo_labels, pseudo_probabilities)
        return _Drawn(*(each.pin_memory() for each in drawn)) if self._device.type == "cuda" else drawn

    def _drawn_before(self, place: int, source: int) -> int:
        """Images of `source` among the first `place` of the sequence in which the sources take turns."""
        return int(place - source + self._num_sources - 1) // self._num_sources

    def _drawn_of(
        self, split: Split, indices: Tensor, stream: int, step: int, places: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng([self._seed, stream, step, _AUGMENTATION])
        return split.drawn_at(indices, self._augmentation, generator, places)

    def state_dict(self) -> dict[str, Any]:
        """Batches given so far, what they were drawn from (plain numbers and words), and the selection (tensors, or
        None)."""
        selection = None if self._selection is None else self._selection.state()
        return {"step": self._step, "selection": selection, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            ValueError: `state` belongs to another protocol, batch size, seed, way of drawing or data of another size.
        """
        differing = [
            f"{name}: {state.get(name)!r} in the state, {value!r} here"
            for name, value in self._identity.items()
            if state.get(name) != value
        ]
        if differing:
            raise ValueError("the sampler's state belongs to other data: " + "; ".join(differing))
        stored = state["selection"]
        self.select_target(None if stored is None else TargetSelection(**stored))
        self._step = int(state["step"])


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    normalisation: Normalisation = "half",
    ten_crop: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of `split` once, in order: normalised images (B, C, H, W) and labels (B, *label_shape).

    The last batch is shorter.

    Args:
        split: What to go through.
        batch_size: Images per batch.
        device: Where the batches are put.
        normalisation: As the network wants it.
        ten_crop: Give (B, 10, C, S, S) instead: the four corners and the centre of each image and of its mirror image,
            whose scores are to be averaged (the custom of PADA and CDAN).

    Raises:
        ValueError: `ten_crop` of images without a margin to crop from, or `batch_size` below 1.
        DataError: a file cannot be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if ten_crop and split.side is None:
        height, width = split.images.shape[2:]
        raise ValueError(
            f"ten_crop: the images of {height} x {width} are seen whole: there is no margin to crop from; it is for "
            "image files at 224 x 224"
        )
    places = torch.arange(len(split)).split(batch_size)

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        return (split.stored_at(indices), split.labels[indices]) if ten_crop else split.labelled_at(indices)

    every = map(read, places) if isinstance(split.images, Tensor) else read_ahead(read, places, "read")
    for images, of_images in every:
        labels = of_images.to(device)
        if ten_crop and split.side is not None:
            crops = ten_crops(images, (split.side, split.side))
            yield normalise(crops.flatten(0, 1), device, normalisation).unflatten(0, crops.shape[:2]), labels
        else:
            yield normalise(images, device, normalisation), labels

"""What a data set is here: `Split`, `Domain` and `Protocol`, and the seeded draws that make subsets and hold-outs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dynconv.data.augment import CROP_SCALE, SMALL_CROP_SCALE, Augmentation, augment, centre_crop, ten_crops
from dynconv.data.errors import DataError
from dynconv.data.files import ImageFiles, Skipped
from dynconv.data.normalise import Normalisation, normalise
from dynconv.data.threads import read_ahead

HOLD_OUT = 0.2


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split. Who wants pixels asks `images_at`, wherever they are.

    Attributes:
        images: uint8 (N, C, H, W) in memory (grey images replicated to three channels may be an expanded view), or
            files that are decoded when they are asked for.
        labels: int64 (N,), indices into the domain's classes.
        side: Height and width that a network sees, where the stored images have a margin around it to crop from;
            None where it sees the whole image.
        origins: int64 (N,), where images are there more than once: equal for those that are the same image.
    """

    most_held_out: ClassVar[int | None] = None
    """How many images of a training split `source_validation_split` takes at most; None for any number."""
    images: Tensor | ImageFiles
    labels: Tensor
    side: int | None = None
    origins: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.images.shape
        if isinstance(self.images, Tensor) and (self.images.dtype != torch.uint8 or self.images.ndim != 4):
            raise ValueError(f"images: expected uint8 (N, C, H, W), got {self.images.dtype} {tuple(shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != shape[:1]:
            raise ValueError(
                f"labels: expected int64 ({shape[0]},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if self.side is not None and not 0 < self.side <= min(shape[2:]):
            raise ValueError(f"side: expected 1 to the images' {min(shape[2:])}, got {self.side}")

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what `images_at` gives."""
        channels, height, width = self.images.shape[1:]
        return (channels, height, width) if self.side is None else (channels, self.side, self.side)

    def stored_at(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64 (n,)) with their margin, uint8 (n, C, H, W).

        Raises:
            DataError: a file cannot be read.
        """
        if not isinstance(self.images, Tensor):
            return self.images.images_at(indices)
        if self.images.is_contiguous(memory_format=torch.channels_last):
            # 32 images of 256 x 256 in 1.2 ms instead of 4.6.
            return self.images.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
        return self.images[indices]

    def images_at(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64 (n,)) as a network sees them outside training: the centre, uint8 (n, C, S, S).

        Raises:
            DataError: a file cannot be read.
        """
        stored = self.stored_at(indices)
        return stored if self.side is None else centre_crop(stored, (self.side, self.side))

    def labelled_at(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """`images_at(indices)` and their labels (n, *label_shape)."""
        return self.images_at(indices), self.labels[indices]

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of an image's label: that of a number."""
        return ()

    @property
    def drawn_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what `drawn_at` gives."""
        return self.image_shape

    def drawn_at(
        self, indices: Tensor, augmentation: Augmentation, generator: np.random.Generator, places: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The images at `indices` (int64 (n,)) as they are trained on, uint8 (n, *drawn_shape), and their labels.

        Args:
            indices: Places in the split.
            augmentation, generator, places: As in `augment`. "crop-flip" takes 0.08 to 1 of the area of images with a
                margin (224 x 224 from 256 x 256) and 0.7 to 1 of smaller ones.

        Raises:
            DataError: a file cannot be read.
        """
        if augmentation == "none":
            return self.labelled_at(indices)
        scale = SMALL_CROP_SCALE if self.side is None else CROP_SCALE
        size = self.image_shape[1:]
        images = augment(self.stored_at(indices), size, augmentation, generator, scale=scale, places=places)
        return images, self.labels[indices]

    def subset(self, indices: Tensor) -> Self:
        """The images and labels at `indices` (int64), in that order; files stay files."""
        return replace(self._subset(indices), origins=None if self.origins is None else self.origins[indices])

    def _subset(self, indices: Tensor) -> Self:
        if not isinstance(self.images, Tensor):
            return replace(self, images=self.images.subset(indices), labels=self.labels[indices])
        if self.images.shape[1] > 1 and self.images.stride(1) == 0:
            # A replicated grey image stays a view: MNIST at 32 x 32 is 61 MB so, and 184 MB written out.
            grey = self.images[:, :1][indices]
            return replace(self, images=grey.expand(-1, self.images.shape[1], -1, -1), labels=self.labels[indices])
        return replace(self, images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, eq=False)
class Domain:
    """A named data set with its classes. `test` is None where nothing is left to test on."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None


@dataclass(frozen=True, eq=False)
class Protocol:
    """Which labelled sources and which unlabelled target an experiment uses, and how their images were chosen.

    `target.train` is what training sees (without its labels); `target.test` is for evaluation alone. Where the target
    has no published test split, both hold all its images (the custom of Office-31).
    """

    name: str
    sources: tuple[Domain, ...]
    target: Domain
    variant: str = "full"
    partial: tuple[int, ...] | None = None
    """The classes that the target is limited to (partial adaptation), as indices into `classes`; None for all."""
    skipped: tuple[Skipped, ...] = ()
    """Images that were left out because they cannot be read, where that was asked for."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, which all domains share."""
        return self.target.classes

    @property
    def num_classes(self) -> int:
        return len(self.target.classes)

    @property
    def target_classes(self) -> tuple[int, ...]:
        """Indices of the classes that the target may hold: all, but for partial adaptation. For reports alone."""
        return tuple(range(self.num_classes)) if self.partial is None else self.partial

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per domain and split, `{"mnist": {"train": 60000, "test": 10000}, ...}`: the target comes last."""
        return {
            domain.name: {"train": len(domain.train), "test": 0 if domain.test is None else len(domain.test)}
            for domain in (*self.sources, self.target)
        }


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


def _ranked_within_class(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """For each image, its place in a seeded shuffle of its class, and the size of that class (both float64 (N,))."""
    generator = torch.Generator().manual_seed(seed)
    shuffle = torch.randperm(labels.shape[0], generator=generator)
    by_class = shuffle[torch.argsort(labels[shuffle], stable=True)]
    counts = torch.bincount(labels)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.empty(labels.shape[0], dtype=torch.float64)
    rank[by_class] = (torch.arange(labels.shape[0]) - starts).to(torch.float64)
    return rank, counts[labels].to(torch.float64)


def stratified_hold_out(labels: Tensor, seed: int, fraction: float = HOLD_OUT) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of indices that together cover `labels` (N,): kept, and held out (`fraction` of each class).

    A class of two or more images has at least one on each side; a single image is kept.
    """
    rank, size = _ranked_within_class(labels, seed)
    held = torch.where(size > 1, torch.minimum((size * fraction).round().clamp(min=1), size - 1), 0.0)
    mask = rank < held
    return torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()


def _hold_out(split: Split, seed: int, fraction: float) -> tuple[Tensor, Tensor]:
    """`stratified_hold_out` of a split: an image that is there more than once is held out once, and no copy kept."""
    if split.origins is None:
        return stratified_hold_out(split.labels, seed, fraction)
    _, image = torch.unique(split.origins, return_inverse=True)
    first = torch.full((int(image.max()) + 1,), len(image)).scatter_reduce(0, image, torch.arange(len(image)), "amin")
    kept, held = stratified_hold_out(split.labels[first], seed, fraction)
    return torch.nonzero(torch.isin(image, kept)).flatten(), first[held]


def stratified_draw(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices, ascending, of `count` images in which every class keeps its share and none is lost.

    Raises:
        DataError: `count` is below the number of classes present.
    """
    present = int(torch.unique(labels).numel())
    if count < present:
        raise DataError(f"a limit of {count} images cannot hold the {present} classes present: give at least {present}")
    rank, size = _ranked_within_class(labels, seed)
    # The first of each class goes in whatever its share; then the classes advance at the same relative pace.
    key = torch.where(rank == 0, 0.0, (rank + 0.5) / size)
    return torch.argsort(key, stable=True)[:count].sort().values


def uniform_draw(total: int, count: int, seed: int) -> Tensor:
    """Indices, ascending, of `count` of `total` images, drawn without a look at any label."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def supervised_by_target(protocol: Protocol) -> Protocol:
    """`protocol` with the target's training split, labels and all, as its only source: for a bound, not for adaptation.

    Raises:
        DataError: the target has no test split of its own, so that what was trained on would be tested on.
    """
    target = protocol.target
    if target.test is None or target.test is target.train:
        raise DataError(f"{target.name}: no test split is left beside the labelled training images")
    # Its test split stands under the target's name alone.
    return replace(protocol, sources=(replace(target, test=None),))


def with_pseudo_labels(protocol: Protocol, indices: Tensor, labels: Tensor) -> Protocol:
    """`protocol` with training images of its target as one more source, the last, "TARGET (pseudo-labelled)".

    It has no test split. The target stays as it is, with all its unlabelled training images.

    Args:
        protocol: Sources and target.
        indices: int64 (n,), places in `protocol.target.train`.
        labels: int64 (n,), what they are taken for.
    """
    target = protocol.target
    train = replace(target.train.subset(indices), labels=labels)
    source = Domain(f"{target.name} (pseudo-labelled)", target.classes, train, None)
    return replace(protocol, sources=(*protocol.sources, source))


def source_validation_split(
    protocol: Protocol, seed: int, fraction: float = HOLD_OUT
) -> tuple[Protocol, tuple[Split, ...]]:
    """Take a stratified `fraction` of each source's training split, of scenes at most `SceneSplit.most_held_out`, away
    from training, for `source-val`.

    Returns:
        The protocol with smaller source training splits, and one held-out `Split` per source, in their order.
    """
    kept_sources: list[Domain] = []
    held_splits: list[Split] = []
    for source in protocol.sources:
        most = source.train.most_held_out
        own = fraction if most is None else min(fraction, most / max(len(source.train), 1))
        kept, held = _hold_out(source.train, seed, own)
        if held.numel() == 0:
            raise DataError(
                f"source {source.name}: {len(source.train)} training images, no class with two: nothing can be held "
                "out for source validation"
            )
        kept_sources.append(replace(source, train=source.train.subset(kept)))
        held_splits.append(source.train.subset(held))
    return replace(protocol, sources=tuple(kept_sources)), tuple(held_splits)

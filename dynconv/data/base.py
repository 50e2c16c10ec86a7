"""What a data set is here: `Split`, `Domain` and `Protocol`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dynconv.data.augment import CROP_SCALE, SMALL_CROP_SCALE, Augmentation, augment, centre_crop
from dynconv.data.files import ImageFiles, Skipped

# Stands where a label would: no class has this index, so that nothing can be measured against it.
UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split. Who wants pixels asks `images_at`, wherever they are.

    Attributes:
        images: uint8 (N, C, H, W) in memory (grey images replicated to three channels may be an expanded view), or
            files that are decoded when they are asked for.
        labels: int64 (N,), indices into the domain's classes; `UNLABELLED` of images that have no label.
        side: Height and width that a network sees, where the stored images have a margin around it to crop from;
            None where it sees the whole image.
        origins: int64 (N,), where images are there more than once: equal for those that are the same image.

    Raises:
        ValueError: Images or labels of another dtype or shape, or a `side` beyond the images'.
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
    """A named data set with its classes."""

    name: str
    """As in a protocol, or as its user calls it."""
    classes: tuple[str, ...]
    """Their names; a label is an index into them."""
    train: Split
    """What is trained on."""
    test: Split | None
    """What is measured on; None where nothing is left for it, or nothing has labels."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """Which labelled sources and which unlabelled target an experiment uses, and how their images were chosen.

    `target.train` is what training sees (without its labels); `target.test` is for evaluation alone. Where the target
    has no published test split, both hold all its images (the custom of Office-31); where it has no labels, there is
    no `target.test`.
    """

    name: str
    """SOURCE[+SOURCE...]-TARGET."""
    sources: tuple[Domain, ...]
    """At least one, all of the target's classes."""
    target: Domain
    """Its training labels are for evaluation alone."""
    variant: str = "full"
    """Which of the images were chosen, by the name after the @ of a protocol; "full" for all."""
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
        """C; labels are 0 to C - 1."""
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

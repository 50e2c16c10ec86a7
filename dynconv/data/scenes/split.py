"""Splits of driving scenes: every pixel has a class."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dynconv.data.augment import Augmentation, centre_crop, mirrored, random_crops
from dynconv.data.base import Split
from dynconv.data.cache import fingerprint
from dynconv.data.errors import DataError
from dynconv.data.files import Decoding, ImageFiles, kept, mapped, versions
from dynconv.data.scenes import reading
from dynconv.data.scenes.reading import LabelFormat, Scene, read_labels, read_scene

COLOURS = 3
# So many scenes, evenly spread, tell how good a network is: as many as Cityscapes' validation set has. A fifth of GTA5
# would be 4,993 images to decode at each evaluation.
JUDGED = 500


class SceneFiles(ImageFiles):
    """Images and label maps of one split, of one size: uint8 (N, 4, H, W), the colours and, last, the class indices.

    Args:
        name: The domain, for messages.
        scenes: The files.
        labels: How the label files are read; None for scenes whose label files are not looked at.
        size: Height and width that images and label maps are resized to.
        decoding: Threads and cache; its own size has no use here.
    """

    def __init__(
        self, name: str, scenes: Sequence[Scene], labels: LabelFormat | None, size: tuple[int, int], decoding: Decoding
    ) -> None:
        super().__init__(name, [scene.image for scene in scenes], decoding)
        self.scenes = tuple(scenes)
        self.labels = labels
        self.size = size

    @property
    def frame(self) -> tuple[int, int, int]:
        return (*self.size, COLOURS + 1)

    def contents(self) -> dict[str, object]:
        labels = () if self.labels is None else (scene.labels for scene in self.scenes)
        return {"files": fingerprint([*self.paths, *labels]), "labels": repr(self.labels)}

    def recipe(self) -> dict[str, object]:
        resizing = {"size": list(self.size), "labels resized": reading.LABELS_RESIZED}
        return {**self.contents(), **resizing, "made by": versions()}

    def subset(self, indices: Tensor) -> Self:
        other = super().subset(indices)
        other.scenes = tuple(self.scenes[index] for index in indices.tolist())
        return other

    def decoded(self, index: int) -> np.ndarray[Any, Any]:
        try:
            return read_scene(self.scenes[index], self.name, self.labels, self.size)
        except DataError as error:
            raise DataError(
                f"{error}; `dynconv data check` finds all such scenes, `dynconv train --skip-bad` goes without them"
            ) from error

    def check(self, index: int) -> None:
        read_scene(self.scenes[index], self.name, self.labels, self.size)

    def native_labels(self, places: Sequence[int]) -> list[Tensor]:
        """The label maps of scenes at the size of their files, each uint8 (H, W).

        Raises:
            DataError: A file cannot be read.
            ValueError: The label files are not looked at.
        """
        if (labels := self.labels) is None:
            raise ValueError(f"{self.name}: these scenes are taken without their labels")
        scenes = [self.scenes[place] for place in places]
        read = mapped(lambda scene: read_labels(scene, self.name, labels), scenes, self.decoding.threads)
        return [torch.from_numpy(label_map) for label_map in read]

    def without_labels(self) -> Self:
        """The same scenes, whose label files are not looked at."""
        other = copy.copy(self)
        other.labels = None
        return other


@dataclass(frozen=True, eq=False)
class SceneSplit(Split):
    """Images with a label map each; 255 in a map is no class.

    `labels` of the parent are zeros: a scene has no class of its own, so that what is drawn or held out by class is
    drawn from all alike.

    Attributes:
        files: The files of `images`, for what is read from them at another size.
        crop: Height and width of the random part that is trained on; None for whole scenes.
    """

    most_held_out: ClassVar[int | None] = JUDGED
    files: SceneFiles = field(kw_only=True)
    crop: tuple[int, int] | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, files: SceneFiles, crop: tuple[int, int] | None = None) -> SceneSplit:
        """The split of `files`, decoded now where they fit in memory (see `Decoding`).

        Raises:
            DataError: A scene that is decoded here cannot be read.
        """
        return cls(kept(files), torch.zeros(len(files), dtype=torch.int64), files=files, crop=crop)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (COLOURS, *self.images.shape[2:])

    @property
    def drawn_shape(self) -> tuple[int, int, int]:
        return self.image_shape if self.crop is None else (COLOURS, *self.crop)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of the label maps that are trained on."""
        return self.drawn_shape[1:]

    def images_at(self, indices: Tensor) -> Tensor:
        return self.stored_at(indices)[:, :COLOURS]

    def label_maps_at(self, indices: Tensor) -> Tensor:
        """The label maps at `indices` (int64 (n,)), of the images' size, uint8 (n, H, W)."""
        return self.stored_at(indices)[:, COLOURS]

    def labelled_at(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        stored = self.stored_at(indices)
        return stored[:, :COLOURS], stored[:, COLOURS]

    def native_at(self, indices: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each scene at `indices` the image as `images_at` gives it, uint8 (3, H, W), and its label map at the size
        of its file, uint8 (H', W').

        Raises:
            DataError: A file cannot be read.
        """
        # What is not in memory is read without its label file, which is read here.
        held = isinstance(self.images, Tensor)
        images = self.images_at(indices) if held else self.files.without_labels().images_at(indices)[:, :COLOURS]
        return list(zip(images, self.files.native_labels(indices.tolist()), strict=True))

    def drawn_at(
        self, indices: Tensor, augmentation: Augmentation, generator: np.random.Generator, places: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 (n, *drawn_shape) and label maps uint8 (n, *label_shape), cropped and mirrored together.

        Args:
            indices: Places in the split.
            augmentation: "none" and "flip" take the centre of a scene with `crop`, "crop-flip" a random part of it.
            generator, places: As in `augment`.

        Raises:
            DataError: A file cannot be read.
        """
        scenes = self.stored_at(indices)
        size = self.drawn_shape[1:]
        scenes = (
            random_crops(scenes, size, generator, places) if augmentation == "crop-flip" else centre_crop(scenes, size)
        )
        if augmentation != "none":
            scenes = mirrored(scenes, generator, places)
        return scenes[:, :COLOURS], scenes[:, COLOURS]

    def _subset(self, indices: Tensor) -> Self:
        return replace(super()._subset(indices), files=self.files.subset(indices))

"""Random crops and mirrored images for training."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Augmentation = Literal["none", "flip", "crop-flip"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

# Shares of the image's area. 0.08 to 1 is the usual range for networks trained on ImageNet (torchvision's, CDAN's); of
# 64 x 64 pixels 0.08 would be 18 x 18. A small ResNet trained on Webcam and on DSLR from scratch (500 steps of 36
# images, one seed) reached 84 and 68 % on held-out images without crops, 76 and 85 from 0.08, 87 and 83 from 0.4, 89
# and 82 from 0.7.
CROP_SCALE = (0.08, 1.0)
SMALL_CROP_SCALE = (0.7, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def centre_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (height, width) = `size` of images (N, C, H, W); a view."""
    from torchvision.transforms.v2.functional import center_crop

    return center_crop(images, list(size))


def ten_crops(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) to (N, 10, C, *size): the four corners and the centre, and the same of the mirrored image."""
    from torchvision.transforms.v2.functional import ten_crop

    return torch.stack(ten_crop(images, list(size)), dim=1)


def augment(
    images: Tensor,
    size: tuple[int, int],
    augmentation: Augmentation,
    generator: np.random.Generator,
    *,
    scale: tuple[float, float],
    places: tuple[int, int] | None = None,
) -> Tensor:
    """Training images of the network's size, uint8 (N, C, *size), from stored ones, uint8 (N, C, H, W).

    Args:
        images: Stored images, at least as high and wide as `size`.
        size: Height and width of the result.
        augmentation: "none" takes the centre; "flip" mirrors it for a random half of the images; "crop-flip" takes a
            random part, resized (antialiased), and mirrors half.
        generator: The only source of randomness.
        scale: Least and greatest area of a random part, as shares of the image.
        places: (first, total) where `images` are the ones from `first` on of `total` images whose randomness is drawn
            together: each looks as it would among all of them. None where they are all.
    """
    if augmentation == "none":
        return centre_crop(images, size)
    from torchvision.transforms.v2.functional import resized_crop

    first, total = (0, len(images)) if places is None else places
    mine = slice(first, first + len(images))
    # Drawn here and not by transforms, which draw from torch's one generator: a process has its part of a whole batch's
    # randomness, and a resumed run the same again.
    boxes = None
    if augmentation == "crop-flip":
        height, width = images.shape[2:]
        boxes = random_boxes(total, height, width, generator, scale)[mine].tolist()
    # 32 crops of 256 x 256 take 13 ms on one core so, and 7 where torch's interpolate, which is behind them, is given
    # bytes: torchvision does that on processors with AVX2, and gives it floats on those with AVX-512.
    parts = []
    for place in range(len(images)):
        part = images[place : place + 1]
        parts.append(centre_crop(part, size) if boxes is None else resized_crop(part, *boxes[place], size=list(size)))
    # Of many sources a process may have no image of one.
    found = torch.cat(parts) if parts else images.new_empty((0, images.shape[1], *size))
    return mirrored(found, generator, (first, total))


def mirrored(images: Tensor, generator: np.random.Generator, places: tuple[int, int]) -> Tensor:
    """A random half of images (N, C, H, W) mirrored; `places` as in `augment`."""
    from torchvision.transforms.v2.functional import horizontal_flip

    first, total = places
    chosen = generator.random(total)[first : first + len(images)] < 0.5
    # 32 images of 224 x 224 in 5 ms; where() takes 20.
    parts = [horizontal_flip(images[i : i + 1]) if flip else images[i : i + 1] for i, flip in enumerate(chosen)]
    return torch.cat(parts) if parts else images


def random_crops(
    images: Tensor, size: tuple[int, int], generator: np.random.Generator, places: tuple[int, int]
) -> Tensor:
    """A random part (height, width) = `size` of each of images (N, C, H, W); `places` as in `augment`."""
    from torchvision.transforms.v2.functional import crop

    first, total = places
    corners = [length - own + 1 for length, own in zip(images.shape[2:], size, strict=True)]
    starts = generator.integers(corners, size=(total, 2))[first : first + len(images)].tolist()
    parts = [crop(images[i : i + 1], *start, *size) for i, start in enumerate(starts)]
    return torch.cat(parts) if parts else images.new_empty((0, images.shape[1], *size))


def random_boxes(
    count: int, height: int, width: int, generator: np.random.Generator, scale: tuple[float, float]
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Rows (top, left, height, width), int64 (count, 4), drawn as torchvision's RandomResizedCrop draws them.

    The area is uniform within `scale`, the logarithm of the ratio of the sides within `CROP_RATIO`; of ten draws the
    first that fits counts, and where none does, the largest centred box of an allowed ratio.
    """
    area = height * width * generator.uniform(*scale, (count, _ATTEMPTS))
    ratio = np.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]), (count, _ATTEMPTS)))
    place = generator.random((count, 2))
    wides, talls = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (wides >= 1) & (wides <= width) & (talls >= 1) & (talls <= height)
    rows, first = np.arange(count), fits.argmax(axis=1)
    found = fits.any(axis=1)
    limited = min(max(width / height, CROP_RATIO[0]), CROP_RATIO[1])
    wide = np.where(found, wides[rows, first], round(min(width, height * limited)))
    tall = np.where(found, talls[rows, first], round(min(height, width / limited)))
    top = np.where(found, np.floor(place[:, 0] * (height - tall + 1)), (height - tall) // 2)
    left = np.where(found, np.floor(place[:, 1] * (width - wide + 1)), (width - wide) // 2)
    return np.stack([top, left, tall, wide], axis=1).astype(np.int64)

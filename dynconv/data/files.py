"""Images that stay in their files until they are asked for."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynconv.data.errors import DataError

# Office-31 and each domain of Office-Home stay below this at 256 x 256; VisDA-2017 would be 30 GB there.
MEMORY_LIMIT = 2**30


@dataclass(frozen=True)
class Decoding:
    """How image files become arrays.

    Attributes:
        size: Side of the square that every image is squeezed to (bilinear, antialiased).
        channels: 3, or 1 for grey.
        threads: Files decoded at a time (Pillow decodes outside the interpreter's lock). It changes no pixel.
        memory_limit: Splits of at most so many decoded bytes are decoded once and held; larger ones are read again
            whenever they are asked for.
    """

    size: int
    channels: int = 3
    threads: int = 1
    memory_limit: int = MEMORY_LIMIT

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise DataError(f"threads: expected 1 or more, got {self.threads}")
        if self.memory_limit < 0:
            raise DataError(f"memory_limit: expected a number of bytes, 0 or more, got {self.memory_limit}")


class ImageFiles:
    """Images of one split, decoded when they are asked for; it has the length and shape of the tensor it stands for.

    Args:
        name: The domain, for messages.
        paths: One file per image.
        decoding: Size, channels and threads.
    """

    def __init__(self, name: str, paths: Sequence[Path], decoding: Decoding) -> None:
        self.name = name
        self.paths = tuple(paths)
        self.decoding = decoding

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W), as of a tensor."""
        return torch.Size((len(self.paths), self.decoding.channels, self.decoding.size, self.decoding.size))

    def subset(self, indices: Tensor) -> ImageFiles:
        """The files at `indices` (int64), in that order."""
        return ImageFiles(self.name, [self.paths[index] for index in indices.tolist()], self.decoding)

    def images_at(self, indices: Tensor) -> Tensor:
        """uint8 (n, C, H, W), channels last in memory.

        Raises:
            DataError: a file cannot be read, or has more than 8 bits per channel.
        """
        size = self.decoding.size
        pixels: np.ndarray[Any, Any] = np.empty((indices.numel(), size, size, self.decoding.channels), dtype=np.uint8)
        rows = list(enumerate(indices.tolist()))

        def decode(row: tuple[int, int]) -> None:
            place, index = row
            pixels[place] = _decode(self.paths[index], self.name, size, self.decoding.channels)

        threads = min(self.decoding.threads, len(rows))
        if threads > 1:
            list(_decoders(self.decoding.threads).map(decode, rows))
        else:
            for row in rows:
                decode(row)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@functools.cache
def _decoders(threads: int) -> ThreadPoolExecutor:
    """Threads that live as long as the process: one pool for all data sets, batches and epochs."""
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")


if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads, and would wait for them.
    os.register_at_fork(after_in_child=_decoders.cache_clear)


def read_images(name: str, paths: Sequence[Path], decoding: Decoding) -> Tensor | ImageFiles:
    """The images of `paths`: decoded, uint8 (N, C, H, W), where that fits the memory limit, else left in their files.

    Raises:
        DataError: as `ImageFiles.images_at`, of the images that are decoded here.
    """
    files = ImageFiles(name, paths, decoding)
    if files.shape.numel() > decoding.memory_limit:
        return files
    return files.images_at(torch.arange(len(files)))


def _decode(path: Path, name: str, size: int, channels: int) -> np.ndarray[Any, Any]:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise DataError(f"{name}: {path} has {picture.mode} pixels: convert it to 8 bits per channel")
            upright = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
            return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: the image {path} cannot be read: {error}") from error

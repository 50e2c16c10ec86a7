"""Images that stay in their files, or decoded in the cache folder, until they are asked for."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from dynconv.data.cache import Arrays, cache_root, cached, fingerprint, one_at_a_time
from dynconv.data.decode import decode, read_picture
from dynconv.data.errors import DataError
from dynconv.data.stored import StoredImages
from dynconv.data.threads import reading_pool

T = TypeVar("T")
R = TypeVar("R")

CacheMode = Literal["auto", "memory", "disk", "none"]
CACHE_MODES: tuple[CacheMode, ...] = get_args(CacheMode)

# Office-31 and each domain of Office-Home stay below this at 256 x 256; VisDA-2017 would be 30 GB there.
MEMORY_LIMIT = 2**30

# Files handed to the threads at a time, between two calls of `on_progress`.
_CHUNK = 256


@dataclass(frozen=True)
class Decoding:
    """How image files become arrays, and where these are kept. Only `size` and `channels` change a pixel.

    Attributes:
        size: Side of the square that every image is squeezed to (bilinear, antialiased).
        channels: 3, or 1 for grey.
        threads: Files decoded at a time (outside the interpreter's lock).
        memory_limit: What `cache` "auto" holds in memory: splits of at most so many decoded bytes.
        cache: "memory" decodes a split once and holds it, whatever its size; "disk" keeps it in a file of the cache
            folder, which later runs read too and nothing removes (see `dynconv.data.stored`); "none" decodes an image
            whenever it is asked for; "auto" is "memory" below the limit and "none" above.
        cache_dir: The cache folder (default: $DYNCONV_CACHE or the user's).
        on_progress: Called while a split is decoded or looked through, with what is done, and images done and in all.
    """

    size: int
    channels: int = 3
    threads: int = 1
    memory_limit: int = MEMORY_LIMIT
    cache: CacheMode = "auto"
    cache_dir: Path | None = None
    on_progress: Callable[[str, int, int], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise DataError(f"threads: expected 1 or more, got {self.threads}")
        if self.memory_limit < 0:
            raise DataError(f"memory_limit: expected a number of bytes, 0 or more, got {self.memory_limit}")
        if self.cache not in CACHE_MODES:
            raise DataError(f"cache: expected one of {', '.join(CACHE_MODES)}, got {self.cache!r}")

    def progress(self, what: str) -> Callable[[int, int], None] | None:
        """`on_progress` of `what`, for images done and in all."""
        return None if self.on_progress is None else functools.partial(self.on_progress, what)


class ImageFiles:
    """Images of one split, decoded when they are asked for; it has the length and shape of the tensor it stands for.

    A subclass may decode other things of other shapes: it says so in `frame`, `contents`, `recipe`, `subset`, `decoded`
    and `check`.

    Args:
        name: The domain, for messages.
        paths: One file per image.
        decoding: Size, channels and threads.
    """

    def __init__(self, name: str, paths: Sequence[Path], decoding: Decoding) -> None:
        self.name = name
        self.paths = tuple(paths)
        self.decoding = decoding
        # Where the images lie decoded, if they do, and the place there of each of `paths`.
        self._stored: tuple[StoredImages, Sequence[int]] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def frame(self) -> tuple[int, int, int]:
        """(H, W, C) of each image."""
        return self.decoding.size, self.decoding.size, self.decoding.channels

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W), as of a tensor."""
        height, width, channels = self.frame
        return torch.Size((len(self.paths), channels, height, width))

    def contents(self) -> dict[str, object]:
        """What tells these files, as they are now, from any others."""
        return {"files": fingerprint(self.paths), "channels": self.decoding.channels}

    def recipe(self) -> dict[str, object]:
        """All that decides the pixels."""
        return {**self.contents(), "size": self.decoding.size, "made by": versions()}

    def subset(self, indices: Tensor) -> Self:
        """The files at `indices` (int64), in that order."""
        other = copy.copy(self)
        chosen = indices.tolist()
        other.paths = tuple(self.paths[index] for index in chosen)
        if self._stored is not None:
            other._stored = self._stored[0], [self._stored[1][index] for index in chosen]
        return other

    def images_at(self, indices: Tensor) -> Tensor:
        """uint8 (n, C, H, W), channels last in memory.

        Raises:
            DataError: a file cannot be read, or has more than 8 bits per channel.
        """
        return torch.from_numpy(self._frames(indices.tolist())).permute(0, 3, 1, 2)

    def held(self) -> Tensor:
        """All images, as `images_at` gives them."""
        every = torch.empty((len(self), *self.shape[2:], self.shape[1]), dtype=torch.uint8).permute(0, 3, 1, 2)
        progress = self.decoding.progress(f"{self.name}: decoding")
        for places in torch.arange(len(self)).split(_CHUNK):
            every[places[0] : places[-1] + 1] = self.images_at(places)
            if progress is not None:
                progress(int(places[-1]) + 1, len(self))
        return every

    def on_disk(self) -> Self:
        """The same images, decoded in a file of the cache folder.

        Raises:
            DataError: as `images_at`; or that file cannot be written.
        """
        if not self.paths:
            return self
        store = StoredImages(
            cache_root(self.decoding.cache_dir), self.name, self.recipe(), len(self), self.frame, self.decoded
        )
        store.open(self._frames, self.decoding.progress(f"{self.name}: decoding to the cache folder"))
        other = copy.copy(self)
        other._stored = store, range(len(self))
        return other

    def decoded(self, index: int) -> np.ndarray[Any, Any]:
        """The image at `index`, uint8 (H, W, C), decoded from its file.

        Raises:
            DataError: The file cannot be read.
        """
        try:
            return decode(self.paths[index], self.name, self.decoding.size, self.decoding.channels)
        except DataError as error:
            raise DataError(
                f"{error}; `dynconv data check` finds all such images, `dynconv train --skip-bad` goes without them"
            ) from error

    def check(self, index: int) -> None:
        """Raise a DataError, in words, where the file at `index` cannot be read."""
        read_picture(self.paths[index], self.name, self.decoding.channels)

    def _frames(self, places: Sequence[int]) -> np.ndarray[Any, Any]:
        """uint8 (n, H, W, C)."""
        pixels: np.ndarray[Any, Any] = np.empty((len(places), *self.frame), dtype=np.uint8)

        def fill(row: tuple[int, int]) -> None:
            place, index = row
            if self._stored is not None:
                store, records = self._stored
                store.read(records[index], pixels[place])
            else:
                pixels[place] = self.decoded(index)

        for _ in mapped(fill, list(enumerate(places)), self.decoding.threads):
            pass
        return pixels


def mapped(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterable[R]:
    """`function` of each item, in their order, in so many threads."""
    return _decoders(threads).map(function, items) if min(threads, len(items)) > 1 else map(function, items)


@functools.cache
def _decoders(threads: int) -> ThreadPoolExecutor:
    """Threads that live as long as the process: one pool for all data sets, batches and epochs."""
    return reading_pool(threads, "decode")


if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads, and would wait for them.
    os.register_at_fork(after_in_child=_decoders.cache_clear)


@functools.cache
def versions() -> str:
    """What else decides the pixels: the libraries' versions, and the instructions by which torch resizes."""
    import PIL

    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} {capability}, pillow {PIL.__version__}"


Files = TypeVar("Files", bound=ImageFiles)


def kept(files: Files) -> Tensor | Files:
    """The images of `files`, uint8 (N, C, H, W): decoded and in memory, or where `files.decoding.cache` says.

    Raises:
        DataError: as `ImageFiles.images_at`, of the images that are decoded here; or the cache cannot be written.
    """
    decoding = files.decoding
    if decoding.cache == "disk":
        return files.on_disk()
    fits = decoding.cache == "auto" and files.shape.numel() <= decoding.memory_limit
    return files.held() if fits or decoding.cache == "memory" else files


class Skipped(NamedTuple):
    """An image that was left out because it cannot be read."""

    domain: str
    """The name of the domain that it is of."""
    path: str
    """Relative to the domain's folder, or to that of its list."""
    why: str
    """What is wrong with it, in words."""


def unreadable(files: ImageFiles, on_progress: Callable[[int, int], None] | None = None) -> list[tuple[int, str]]:
    """Which of `files` cannot be read, and why: each is decoded once.

    Args:
        files: What to look through.
        on_progress: Called with the number of images looked at and of all.
    """

    def problem(index: int) -> str:
        try:
            files.check(index)
        except DataError as error:
            return str(error)
        return ""

    found = []
    for start in range(0, len(files), _CHUNK):
        chunk = range(start, min(start + _CHUNK, len(files)))
        problems: Iterator[str] = iter(mapped(problem, chunk, files.decoding.threads))
        found += [(place, why) for place, why in zip(chunk, problems, strict=True) if why]
        if on_progress is not None:
            on_progress(chunk.stop, len(files))
    return found


def remembered_unreadable(files: ImageFiles) -> list[tuple[int, str]]:
    """`unreadable`, from the cache folder where these very files were looked through before.

    Those found bad then are tried again, for the fault may have been the disk's or the network's.
    """
    name, decoding = files.name, files.decoding

    def make() -> Arrays:
        bad = unreadable(files, decoding.progress(f"{name}: looking for unreadable images"))
        return {"places": np.array([place for place, _ in bad], dtype=np.int64)}

    root = cache_root(decoding.cache_dir)
    recipe = {**files.contents(), "made by": versions()}
    with one_at_a_time(root / f"unreadable-{name}"):
        found = cached(root, f"unreadable-{name}", recipe, make)
    places = found["places"].tolist()
    again = unreadable(files.subset(torch.tensor(places, dtype=torch.int64)))
    return [(places[index], why) for index, why in again]

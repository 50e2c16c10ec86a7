"""Decoded images of one list of files in one file of the cache folder, read through a memory map.

The file is a row of records, each a checksum and the pixels of one image. A checksum is looked at when its image is
first asked for, so opening 30 GB costs nothing, and an image that was damaged on the disk is decoded again alone.

Nothing removes these files: those of images that changed, of another size or of other versions of the libraries stay
beside the new ones. Where space is wanted, delete `images-*` in the cache folder: what is needed is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.data.cache import one_at_a_time
from dynconv.data.errors import DataError

log = logging.getLogger(__name__)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# Images decoded between two writes: 50 MB at 256 x 256, so that an interruption loses a second of work.
CHUNK = 256

# 2: the checksum holds the image's place.
_FORMAT = 2


class StoredImages:
    """`count` images uint8 (H, W, C) that `decode` makes, kept in a file that several processes may share.

    `open` makes the file where it is not there yet. An interrupted making goes on where it was, with the images that
    are whole.

    Args:
        root: The cache folder.
        name: Whose images they are; the file's name begins with it.
        recipe: All that decides the pixels. Another recipe is another file.
        count, shape: Number of images, and (H, W, C) of each.
        decode: The image at a place, uint8 of `shape`.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        recipe: Mapping[str, object],
        count: int,
        shape: tuple[int, int, int],
        decode: Callable[[int], Pixels],
    ) -> None:
        digest = hashlib.sha256(json.dumps([_FORMAT, recipe], sort_keys=True).encode())
        self.path = root / f"images-{name}-{digest.hexdigest()[:16]}.bin"
        # The checksums begin with the recipe's and the place's, so that neither zeros nor another record pass for one.
        self._seed = zlib.crc32(digest.digest())
        self._count = count
        self._decode = decode
        self._record = np.dtype([("checksum", "<u4"), ("pixels", "u1", shape)])
        self._pixels: Pixels = np.empty(0, np.uint8)
        self._checksums: np.ndarray[Any, Any] = np.empty(0)
        self._is_checked = np.zeros(count, dtype=bool)

    @property
    def nbytes(self) -> int:
        """Bytes that the file takes."""
        return self._count * self._record.itemsize

    def open(
        self, decode_many: Callable[[range], Pixels], on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Map the file, which is made first where it is not whole; of several processes one makes it.

        Args:
            decode_many: The images at some places, uint8 (n, H, W, C).
            on_progress: Called with the number of images written and of all.

        Raises:
            DataError: an image cannot be read, or the file cannot be written.
        """
        try:
            if not self._is_there():
                with one_at_a_time(self.path):
                    # Another process may have made it meanwhile.
                    if not self._is_there(tell=True):
                        self._make(decode_many, on_progress)
            records = np.memmap(self.path, self._record, mode="r", shape=(self._count,))
        except OSError as error:
            raise DataError(
                f"--cache disk: {self.path} cannot be written and read: {error}; set DYNCONV_CACHE to a folder with "
                f"{_bytes(self.nbytes)} of space, or take another --cache"
            ) from error
        self._pixels, self._checksums = np.asarray(records["pixels"]), np.asarray(records["checksum"])

    def read(self, index: int, out: Pixels) -> None:
        """Copy the image at `index` to `out`, uint8 (H, W, C).

        Raises:
            DataError: its record is damaged, and its file cannot be read any more.
        """
        out[...] = self._pixels[index]
        if self._is_checked[index]:
            return
        if self._checksum(out, index) != self._checksums[index]:
            log.warning("%s: image %d is damaged there: decoding it again", self.path, index)
            out[...] = self._decode(index)
            self._mend(index, out)
        self._is_checked[index] = True

    def _is_there(self, *, tell: bool = False) -> bool:
        try:
            found = self.path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return False
        if found == self.nbytes:
            return True
        if tell:
            log.warning("%s is damaged (%d bytes, expected %d): making it again", self.path, found, self.nbytes)
        return False

    def _make(self, decode_many: Callable[[range], Pixels], on_progress: Callable[[int, int], None] | None) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        with open(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
            begun = self._whole_records(file)
            self._check_space(self.nbytes - begun * self._record.itemsize)
            file.truncate(begun * self._record.itemsize)
            file.seek(0, os.SEEK_END)
            for start in range(begun, self._count, CHUNK):
                places = range(start, min(start + CHUNK, self._count))
                file.write(self._records(decode_many(places), places).data)
                if on_progress is not None:
                    on_progress(places.stop, self._count)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def _whole_records(self, file: Any) -> int:
        """Records at the beginning of a partial file whose checksums are right."""
        count = 0
        while len(content := file.read(self._record.itemsize)) == self._record.itemsize and count < self._count:
            (record,) = np.frombuffer(content, self._record)
            if self._checksum(np.ascontiguousarray(record["pixels"]), count) != record["checksum"]:
                break
            count += 1
        return count

    def _records(self, pixels: Pixels, places: Sequence[int]) -> np.ndarray[Any, Any]:
        records = np.empty(len(pixels), self._record)
        records["pixels"] = pixels
        records["checksum"] = [
            self._checksum(np.ascontiguousarray(image), place) for image, place in zip(pixels, places, strict=True)
        ]
        return records

    def _checksum(self, image: Pixels, place: int) -> int:
        return zlib.crc32(image.data, zlib.crc32(place.to_bytes(8, "little"), self._seed))

    def _mend(self, index: int, image: Pixels) -> None:
        try:
            with self.path.open("r+b") as file:
                file.seek(index * self._record.itemsize)
                file.write(self._records(image[None], [index]).data)
        except OSError as error:
            log.warning("%s cannot be mended (%s): delete it", self.path, error)

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise DataError(
                f"--cache disk: {self.path.parent} has {_bytes(free)} of space, and the decoded images need "
                f"{_bytes(needed)}; set DYNCONV_CACHE to a folder with more, or take another --cache"
            )


def _bytes(count: int) -> str:
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if count >= size), ("KB", 1e3))
    return f"{count / size:.3g} {unit}"

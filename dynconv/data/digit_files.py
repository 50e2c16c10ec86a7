"""Readers of digit sets in their publishers' files: idx (MNIST), libsvm text (USPS), pictures and lists (MNIST-M) and
MATLAB files (SVHN, Synthetic Digits)."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.data.cache import Arrays, cached, stamp
from dynconv.data.download import Download
from dynconv.data.errors import DataError
from dynconv.data.folders import Listing
from dynconv.data.walk import sound_rows

CLASSES = tuple(str(digit) for digit in range(10))

Array = np.ndarray[Any, Any]

USPS_FILES = ("usps.bz2", "usps.t.bz2")
MNIST_M_LABELS = ("mnist_m/mnist_m_train_labels.txt", "mnist_m/mnist_m_test_labels.txt")
MNIST_M_FORM = "FILE.png DIGIT"

_USPS_LABELS = frozenset(str(label) for label in range(1, 11))


@dataclass(frozen=True)
class DigitSet:
    """A published set of digits and how its files are read.

    Attributes:
        title: Its name in prose.
        files: What it consists of, relative to the data root.
        read: (data root, cache folder) to uint8 `train_images`, `test_images`, (N, H, W) or (N, H, W, 3), and
            int64 `train_labels`, `test_labels` (N,), digits. It may raise what its library raises: ask
            `dynconv.data.digits.read_digits`.
        how_to_get: Data root to the words that say where the files are and where they belong.
        splits: Images of "train" and "test", as published.
        per_class: Images of each digit, by split; empty where they are not published and not known for sure.
        digests: File to "md5:..."; empty where the publisher gives none.
        cache_drawn: Cache what a protocol draws of it: the whole is too big to be kept twice.
        download: How torchvision fetches it; None where it cannot.
        image_files: Data root to its image files, of a set that consists of such; `read` then has a third argument, the
            files that are left out. None of a set of a few files, of which none can be.
    """

    title: str
    files: tuple[str, ...]
    read: Callable[..., Arrays]
    how_to_get: Callable[[Path], str]
    splits: Mapping[str, int]
    per_class: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    cache_drawn: bool = False
    download: Download | None = None
    image_files: Callable[[Path], Listing] | None = None


def read_mnist(root: Path, cache_dir: Path) -> Arrays:
    from torchvision.datasets import MNIST

    arrays: Arrays = {}
    for part in ("train", "test"):
        data = MNIST(str(root), train=part == "train", download=False)
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = data.data.numpy(), data.targets.numpy()
    return arrays


def read_usps(root: Path, cache_dir: Path) -> Arrays:
    def parse() -> Arrays:
        arrays: Arrays = {}
        for part, file in zip(("train", "test"), USPS_FILES, strict=True):
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = _read_libsvm(root / file)
        return arrays

    # Text in bz2: seconds to parse, 10 ms from the cache. Format 2: its values were checked.
    recipe = {"set": "usps", "format": 2, "files": stamp(root / file for file in USPS_FILES)}
    return cached(cache_dir, "usps", recipe, parse)


def _read_libsvm(path: Path) -> tuple[Array, Array]:
    """Images (N, 16, 16) uint8 and digits (N,) int64 of `LABEL 1:VALUE ... 256:VALUE` lines, a digit being its label
    minus one and a value from -1 to 1.

    torchvision's class for USPS gives the same pixels (float32, rounded down), but tells neither file nor line, and
    wraps values out of range to other greys.
    """
    places = [str(place) for place in range(1, 257)]
    rows, digits = [], []
    with bz2.open(path, "rt", encoding="ascii", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            label, *entries = line.split() or [""]
            if label not in _USPS_LABELS:
                raise DataError(f"{path}, line {number}: the label {label[:20]!r} is none of 1 to 10 (1 is digit 0)")
            found = [entry.partition(":") for entry in entries]
            try:
                values = [float(value) for _, _, value in found]
            except ValueError:
                values = []
            if len(values) != 256 or [place for place, _, _ in found] != places:
                raise DataError(
                    f'{path}, line {number}: expected a label and 256 entries "1:VALUE" to "256:VALUE", got '
                    f"{len(entries)} entries: {line[:60].strip()!r}..."
                )
            # Half a grey level of leave: there are files whose white is 1.00196.
            if wrong := [value for value in values if not -1.004 <= value <= 1.004]:
                raise DataError(f"{path}, line {number}: expected values from -1 to 1, got {wrong[0]:g}")
            rows.append(np.array(values, dtype=np.float32))
            digits.append(int(label) - 1)
    if not rows:
        raise DataError(f"{path} holds no image")
    grey = (np.stack(rows).reshape(-1, 16, 16) + 1) / 2 * 255
    return grey.astype(np.uint8), np.array(digits, dtype=np.int64)


def list_mnist_m(root: Path) -> Listing:
    """The image files of MNIST-M, none opened.

    Raises:
        DataError: a line of a list is wrong, or images that it names are missing.
    """
    folder = root / "mnist_m"
    train, test = (
        tuple(
            (row.path, int(row.label))
            for row in sound_rows("mnist_m", root / file, folder / f"mnist_m_{part}", read_digit, MNIST_M_FORM)
        )
        for part, file in zip(("train", "test"), MNIST_M_LABELS, strict=True)
    )
    return Listing("mnist_m", folder, CLASSES, train, test)


def read_digit(path: str, label: str) -> str:
    """The class of a row of MNIST-M's lists.

    Raises:
        ValueError: the label is no digit.
    """
    if label not in CLASSES:
        raise ValueError(f"the label {label[:20]!r} is none of {CLASSES[0]} to {CLASSES[-1]}")
    return label


def read_mnist_m(root: Path, cache_dir: Path, without: Collection[Path] = ()) -> Arrays:
    """See `DigitSet.read`; `without` are image files that are left out."""
    listing = list_mnist_m(root)
    rows = {
        part: [row for row in each or () if row[0] not in without]
        for part, each in (("train", listing.train), ("test", listing.test))
    }

    def decode() -> Arrays:
        from PIL import Image

        arrays: Arrays = {}
        for part, entries in rows.items():
            images = np.empty((len(entries), 32, 32, 3), dtype=np.uint8)
            for index, (path, _) in enumerate(entries):
                try:
                    with Image.open(path) as picture:
                        # One of 1 x 1 would be broadcast.
                        if picture.size != (32, 32):
                            raise ValueError("it has {} x {} pixels".format(*picture.size))
                        images[index] = np.asarray(picture.convert("RGB"))
                except (OSError, ValueError, SyntaxError) as error:
                    raise DataError(
                        f"mnist_m: {path} is no 32 x 32 image that can be read: {error} (`dynconv data check mnist_m` "
                        "tells all such files, and --skip-bad leaves out those that cannot be read)"
                    ) from error
            arrays[f"{part}_images"] = images
            arrays[f"{part}_labels"] = np.array([label for _, label in entries], dtype=np.int64)
        return arrays

    # What is left out is no part of the stamp, so that what remains is another recipe.
    files = [path for entries in rows.values() for path, _ in entries]
    recipe = {"set": "mnist_m", "format": 1, "files": stamp([*files, *(root / file for file in MNIST_M_LABELS)])}
    return cached(cache_dir, "mnist_m", recipe, decode)


def read_stacks(train: str, test: str) -> Callable[[Path, Path], Arrays]:
    """The reader of SVHN's layout, which Synthetic Digits has too: `X` uint8 (32, 32, 3, N) and `y` (N, 1).

    torchvision's class for SVHN is not used: it hashes the files at every start and knows one set of the two.
    """

    def read(root: Path, cache_dir: Path) -> Arrays:
        arrays: Arrays = {}
        for part, file in (("train", train), ("test", test)):
            stored = read_mat(root / file, ("X", "y"))
            if stored["X"].ndim != 4:
                raise DataError(f"{root / file}: X: expected (32, 32, 3, N), got {stored['X'].shape}")
            # A view: MATLAB stores the image's number as the slowest of the four.
            images = checked_images(stored["X"].transpose(3, 0, 1, 2), (32, 32, 3), f"{root / file}: X")
            arrays[f"{part}_images"] = images
            arrays[f"{part}_labels"] = checked_labels(stored["y"], len(images), f"{root / file}: y")
        return arrays

    return read


def read_mat(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """The variables `names` of a MATLAB file (version 5; what it holds beside them is not read).

    Raises:
        DataError: the file cannot be read, or lacks one of them (it says which there are).
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    # What scipy lets through of a truncated, damaged or wholly other file.
    wrong = (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, zlib.error)
    try:
        there = [name for name, _, _ in whosmat(str(path))]
        found = loadmat(str(path), variable_names=list(names)) if set(names) <= set(there) else {}
    except (*wrong, MatReadError, MemoryError) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file: {type(error).__name__}: {error}") from error
    if lacking := [name for name in names if name not in there]:
        raise DataError(
            f"{path}: expected the variables {', '.join(names)}; {', '.join(lacking)} is not among "
            f"{', '.join(there) or 'none'} (it may be cut short)"
        )
    return {name: found[name] for name in names}


def checked_images(images: Array, shape: tuple[int, ...], where: str, *, white: int = 255) -> Array:
    """`images` (N, *shape) of any numeric type, whose white is `white`, as uint8.

    Raises:
        DataError: another shape, no image, or values that are no grey levels.
    """
    if images.dtype.kind not in "uif" or images.shape[1:] != shape or len(images) == 0:
        expected = ", ".join(("N", *map(str, shape)))
        raise DataError(f"{where}: expected numbers ({expected}), got {images.dtype} {images.shape}")
    if images.dtype == np.uint8 and white == 255:
        return images
    low, high = float(images.min()), float(images.max())
    # Written so that NaN is refused.
    if not (low >= 0 and white / 255 < high <= white):
        raise DataError(f"{where}: expected values from 0 to {white}, got {low:g} to {high:g}")
    scaled = images if white == 255 else images * (255 / white)
    return np.rint(scaled).astype(np.uint8)


def checked_labels(labels: Array, count: int, where: str) -> Array:
    """Digits as int64 (count,), from one number per image or one-hot rows (count, 10). A 10 is the digit 0.

    Raises:
        DataError: another number of labels, or some that are no digits.
    """
    if labels.dtype.kind not in "uifb":
        raise DataError(f"{where}: expected numbers, got {labels.dtype}")
    if labels.shape == (count, 10):
        wrong = np.flatnonzero(~(np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1)))
        if wrong.size:
            raise DataError(f"{where}: row {wrong[0] + 1} of the one-hot labels is {labels[wrong[0]].tolist()}")
        return labels.argmax(axis=1).astype(np.int64)
    if labels.size != count or max(labels.shape) != count:
        raise DataError(f"{where}: expected {count} labels, one per image or {count} x 10 one-hot, got {labels.shape}")
    digits = labels.reshape(-1)
    wrong = np.flatnonzero(~np.isin(digits, np.arange(11)))
    if wrong.size:
        raise DataError(f"{where}: label {wrong[0] + 1} is {digits[wrong[0]]}: expected a digit (10 for 0)")
    if 0 in digits and 10 in digits:
        raise DataError(f"{where}: expected 0 or 10 for the digit 0, got both")
    return digits.astype(np.int64) % 10

"""MNIST, USPS and MNIST-M from the files that their publishers ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dynconv.data.base import Domain
from dynconv.data.cache import Arrays, cached, stamp
from dynconv.data.errors import DataError
from dynconv.data.images import to_split

CLASSES = tuple(str(digit) for digit in range(10))

_MNIST_FILES = tuple(
    f"MNIST/raw/{stem}-ubyte"
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
_USPS_FILES = ("usps.bz2", "usps.t.bz2")
_MNIST_M_LABELS = ("mnist_m/mnist_m_train_labels.txt", "mnist_m/mnist_m_test_labels.txt")

_FETCH = 'python -c "from torchvision.datasets import {0}; [{0}({1!r}, train=t, download=True) for t in (True, False)]"'


def load_digits(name: str, data_root: Path, *, cache_dir: Path, image_size: int, channels: int) -> Domain:
    """One of `REAL`, from the files below `data_root`.

    Raises:
        DataError: a file is missing (it says which, where, and how to get it) or cannot be read.
    """
    files, read, how_to_get = REAL[name]
    missing = [file for file in files if not (data_root / file).is_file()]
    if missing:
        raise DataError(
            f"{name}: not found below {data_root}: {', '.join(missing)}.\n"
            f"Expected layout: {', '.join(str(data_root / file) for file in files)}.\n"
            f"To get it: {how_to_get(data_root)}\n"
            "Then give the folder with --data-root or DYNCONV_DATA."
        )
    try:
        arrays = read(data_root, cache_dir)
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, AssertionError, IndexError, EOFError) as error:
        raise DataError(
            f"{name}: the files below {data_root} ({', '.join(files)}) cannot be read: "
            f"{type(error).__name__}: {error}.\nFetch them again: {how_to_get(data_root)}"
        ) from error
    train, test = (
        to_split(arrays[f"{part}_images"], arrays[f"{part}_labels"], image_size=image_size, channels=channels)
        for part in ("train", "test")
    )
    return Domain(name, CLASSES, train, test)


def _read_mnist(root: Path, cache_dir: Path) -> Arrays:
    from torchvision.datasets import MNIST

    arrays: Arrays = {}
    for part in ("train", "test"):
        data = MNIST(str(root), train=part == "train", download=False)
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = data.data.numpy(), data.targets.numpy()
    return arrays


def _read_usps(root: Path, cache_dir: Path) -> Arrays:
    def parse() -> Arrays:
        from torchvision.datasets import USPS

        arrays: Arrays = {}
        for part in ("train", "test"):
            data = USPS(str(root), train=part == "train", download=False)
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = data.data, np.array(data.targets, dtype=np.int64)
        return arrays

    # Text in bz2: about 4 s to parse, 10 ms from the cache.
    recipe = {"set": "usps", "format": 1, "files": stamp(root / file for file in _USPS_FILES)}
    return cached(cache_dir, "usps", recipe, parse)


def _read_mnist_m(root: Path, cache_dir: Path) -> Arrays:
    folder = root / "mnist_m"
    rows = {part: _mnist_m_rows(folder, part) for part in ("train", "test")}

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
                    raise DataError(f"mnist_m: {path} is no 32 x 32 image that can be read: {error}") from error
            arrays[f"{part}_images"] = images
            arrays[f"{part}_labels"] = np.array([label for _, label in entries], dtype=np.int64)
        return arrays

    files = [path for entries in rows.values() for path, _ in entries]
    recipe = {"set": "mnist_m", "format": 1, "files": stamp([*files, *(root / file for file in _MNIST_M_LABELS)])}
    return cached(cache_dir, "mnist_m", recipe, decode)


def _mnist_m_rows(folder: Path, part: str) -> list[tuple[Path, int]]:
    listing = folder / f"mnist_m_{part}_labels.txt"
    rows: list[tuple[Path, int]] = []
    for number, line in enumerate(listing.read_text().splitlines(), start=1):
        name, _, label = line.strip().rpartition(" ")
        if not name or label not in CLASSES:
            raise DataError(f'mnist_m: {listing}, line {number}: expected "FILE.png DIGIT", got {line!r}')
        rows.append((folder / f"mnist_m_{part}" / name, int(label)))
    if not rows:
        raise DataError(f"mnist_m: {listing} lists no image")
    absent = [path for path, _ in rows if not path.is_file()]
    if absent:
        raise DataError(
            f"mnist_m: {len(absent)} of {len(rows)} images that {listing} lists are missing: {absent[0]}, ..."
        )
    return rows


def _from_torchvision(dataset: str) -> Callable[[Path], str]:
    return lambda root: _FETCH.format(dataset, str(root))


def _from_publisher(root: Path) -> str:
    return (
        "the authors of DANN (Ganin et al., 2016) publish mnist_m.tar.gz at http://yaroslav.ganin.net (Unsupervised "
        f"Domain Adaptation by Backpropagation); unpack it in {root}"
    )


# name -> (files below the data root, reader, how to get them)
REAL: dict[str, tuple[tuple[str, ...], Callable[[Path, Path], Arrays], Callable[[Path], str]]] = {
    "mnist": (_MNIST_FILES, _read_mnist, _from_torchvision("MNIST")),
    "usps": (_USPS_FILES, _read_usps, _from_torchvision("USPS")),
    "mnist_m": (_MNIST_M_LABELS, _read_mnist_m, _from_publisher),
}

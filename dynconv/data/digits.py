"""Digit sets by name: what was published, and how its files become a `Domain`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol as Interface

import torch
from torch import Tensor

from dynconv.data import digit_five
from dynconv.data.arrays import to_split
from dynconv.data.base import Domain
from dynconv.data.cache import Arrays, cached, stamp
from dynconv.data.digit_files import (
    CLASSES,
    MNIST_M_LABELS,
    USPS_FILES,
    DigitSet,
    list_mnist_m,
    read_mnist,
    read_mnist_m,
    read_stacks,
    read_usps,
)
from dynconv.data.download import Download
from dynconv.data.errors import DataError
from dynconv.data.files import Decoding, Skipped
from dynconv.data.skip import without_unreadable

__all__ = ["CLASSES", "DIGIT_SETS", "REAL", "DigitSet", "Drawing", "fetch", "load_digits", "read_digits"]


class Drawing(Interface):
    """Which images of a set are used: told before they are resized, so that the rest costs nothing."""

    @property
    def key(self) -> str:
        """Tells it from other drawings, in the cache."""

    def check(self, found: dict[str, int]) -> None:
        """Raise a DataError where the images found in "train" and "test" are not those it is defined for."""

    def places(self, part: str, labels: Tensor) -> Tensor | None:
        """int64 places among the labels (int64 (N,)) of a split, repeated where an image is; None for all."""


def load_digits(
    name: str,
    data_root: Path,
    *,
    cache_dir: Path,
    image_size: int,
    channels: int,
    drawing: Drawing | None = None,
    without: Collection[Path] = (),
) -> Domain:
    """One of `DIGIT_SETS`, or what `drawing` takes of it, from the files below `data_root`.

    In memory at 32 x 32: SVHN 0.3 GB, Synthetic Digits whole 1.5 GB. While its files are read Synthetic Digits takes
    1.5 GB more, whatever is drawn; what was drawn is cached, so that is so the first time only. `without` are image
    files that are left out (see `unreadable_images`).

    Raises:
        DataError: a file is missing (it says which, where, and how to get it) or cannot be read, or the drawing is not
            defined for what was found.
    """
    known = DIGIT_SETS[name]

    def read() -> Arrays:
        arrays = read_digits(name, data_root, cache_dir, without)
        return arrays if drawing is None else _drawn(arrays, drawing)

    if drawing is not None and known.cache_drawn:
        check_present(name, data_root)
        files = stamp(data_root / file for file in known.files)
        recipe = {"set": name, "format": 1, "files": files, "drawing": drawing.key}
        arrays = cached(cache_dir, f"{name.replace(':', '-')}-drawn", recipe, read)
    else:
        arrays = read()
    train, test = (
        to_split(
            # Popped, so that the stored images of one split are gone before the other's are resized.
            arrays.pop(f"{part}_images"),
            arrays.pop(f"{part}_labels"),
            image_size=image_size,
            channels=channels,
        )
        for part in ("train", "test")
    )
    if "train_origins" in arrays:
        train = replace(train, origins=torch.from_numpy(arrays["train_origins"]))
    return Domain(name.rpartition(":")[2], CLASSES, train, test)


def read_digits(name: str, data_root: Path, cache_dir: Path, without: Collection[Path] = ()) -> Arrays:
    """The stored images and labels of one of `DIGIT_SETS`: see `DigitSet.read`.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    known = DIGIT_SETS[name]
    check_present(name, data_root)
    try:
        return known.read(data_root, cache_dir, without) if without else known.read(data_root, cache_dir)
    except DataError as error:
        text = str(error).removeprefix(f"{name}: ")
        raise DataError(f"{name}: {text}\n{_AGAIN}: {known.how_to_get(data_root)}") from error
    except ImportError as error:
        raise DataError(f'{name} needs {error.name}: pip install "dynconv[train]"') from error
    except (OSError, ValueError, RuntimeError, AssertionError, IndexError, EOFError) as error:
        raise DataError(
            f"{name}: the files below {data_root} ({', '.join(known.files)}) cannot be read: "
            f"{type(error).__name__}: {error}.\n{_AGAIN}: {known.how_to_get(data_root)}"
        ) from error


def unreadable_images(name: str, data_root: Path, decoding: Decoding) -> tuple[Skipped, ...]:
    """The image files of one of `DIGIT_SETS` that cannot be read (see `without_unreadable`); none of a set that
    consists of a few files.

    Raises:
        DataError: a file is missing, a list is wrong, or no image of a class is left.
    """
    known = DIGIT_SETS[name]
    if known.image_files is None:
        return ()
    check_present(name, data_root)
    return without_unreadable(known.image_files(data_root), decoding)[1]


def check_present(name: str, data_root: Path) -> None:
    """Raise a DataError that says which files of one of `DIGIT_SETS` are missing, where, and how to get them."""
    known = DIGIT_SETS[name]
    if missing := [file for file in known.files if not (data_root / file).is_file()]:
        raise DataError(
            f"{name}: not found below {data_root}: {', '.join(missing)}.\n"
            f"Expected layout: {', '.join(str(data_root / file) for file in known.files)}.\n"
            f"To get it: {known.how_to_get(data_root)}\n"
            "Then give the folder with --data-root or DYNCONV_DATA."
        )


def _drawn(arrays: Arrays, drawing: Drawing) -> Arrays:
    drawing.check({part: len(arrays[f"{part}_labels"]) for part in ("train", "test")})
    for part in ("train", "test"):
        places = drawing.places(part, torch.from_numpy(arrays[f"{part}_labels"]))
        if places is not None:
            for kind in ("images", "labels"):
                arrays[f"{part}_{kind}"] = arrays[f"{part}_{kind}"][places.numpy()]
            if len(places.unique()) < len(places):
                arrays[f"{part}_origins"] = places.numpy()
    return arrays


# A download leaves what is there alone.
_AGAIN = "Delete what is damaged and fetch it again"


def _from_dann(archive: str, folder: str = "", part: str = "") -> Callable[[Path], str]:
    """How to get a set that the authors of DANN publish; `folder` below the data root is where the archive belongs."""

    def how_to_get(root: Path) -> str:
        return (
            f"the authors of DANN (Ganin et al., 2016) publish {archive} at http://yaroslav.ganin.net (Unsupervised "
            f"Domain Adaptation by Backpropagation{part}); unpack it in {root / folder}"
        )

    return how_to_get


_MNIST = tuple(
    f"MNIST/raw/{stem}-ubyte"
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
_SVHN = ("train_32x32.mat", "test_32x32.mat")
_MNIST_DOWNLOAD = Download("mnist", "MNIST", ({"train": True}, {"train": False}))
_USPS_DOWNLOAD = Download("usps", "USPS", ({"train": True}, {"train": False}))
_SVHN_DOWNLOAD = Download("svhn", "SVHN", ({"split": "train"}, {"split": "test"}))
_SYN = ("SynthDigits/synth_train_32x32.mat", "SynthDigits/synth_test_32x32.mat")

REAL: dict[str, DigitSet] = {
    "mnist": DigitSet(
        "MNIST",
        _MNIST,
        read_mnist,
        _MNIST_DOWNLOAD.command,
        {"train": 60000, "test": 10000},
        {
            "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        },
        # Of the unpacked files; torchvision's own are of the .gz, which it removes.
        dict(
            zip(
                _MNIST,
                (
                    "md5:6bbc9ace898e44ae57da46a324031adb",
                    "md5:a25bea736e30d166cdddb491f175f624",
                    "md5:2646ac647ad5339dbf082846283269ea",
                    "md5:27ae3e4e09519cfbb04c329615203637",
                ),
                strict=True,
            )
        ),
        download=_MNIST_DOWNLOAD,
    ),
    # Without digests: torchvision compares the archive's when it downloads, and an archive packed anew differs in its
    # bytes though not in its text.
    "usps": DigitSet(
        "USPS",
        USPS_FILES,
        read_usps,
        _USPS_DOWNLOAD.command,
        {"train": 7291, "test": 2007},
        {
            "train": (1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644),
            "test": (359, 264, 198, 166, 200, 160, 170, 147, 166, 177),
        },
        download=_USPS_DOWNLOAD,
    ),
    "mnist_m": DigitSet(
        "MNIST-M",
        MNIST_M_LABELS,
        read_mnist_m,
        _from_dann("mnist_m.tar.gz"),
        {"train": 59001, "test": 9001},
        image_files=list_mnist_m,
    ),
    "svhn": DigitSet(
        "SVHN (cropped digits)",
        _SVHN,
        read_stacks(*_SVHN),
        _SVHN_DOWNLOAD.command,
        {"train": 73257, "test": 26032},
        {
            "train": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
            "test": (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
        },
        dict(zip(_SVHN, ("md5:e26dedcc434d2e4c54c9b2d4a06d8373", "md5:eb5a983be6a315427106f1b164d9cef3"), strict=True)),
        cache_drawn=True,
        download=_SVHN_DOWNLOAD,
    ),
    "syn": DigitSet(
        "Synthetic Digits",
        _SYN,
        read_stacks(*_SYN),
        _from_dann("SynthDigits.zip", "SynthDigits", ", SYN NUMBERS"),
        {"train": 479400, "test": 9553},
        cache_drawn=True,
    ),
}

DIGIT_SETS: dict[str, DigitSet] = {
    **REAL,
    **{f"{digit_five.PREFIX}:{name}": known for name, known in digit_five.SETS.items()},
}
# SVHN as published, in renamed files.
_RENAMED = f"{digit_five.PREFIX}:svhn"
DIGIT_SETS[_RENAMED] = replace(DIGIT_SETS[_RENAMED], per_class=REAL["svhn"].per_class)


def fetch(names: Sequence[str], data_root: Path) -> None:
    """Download those of the domains `names` whose files are missing and that torchvision can fetch (`fetchable`).

    Raises:
        DataError: as `Download.run`.
    """
    for name in names:
        known = DIGIT_SETS.get(name)
        if known and known.download and not all((data_root / file).is_file() for file in known.files):
            known.download.run(known.files, data_root)


def fetchable(name: str) -> bool:
    """Whether torchvision has this set."""
    return name in DIGIT_SETS and DIGIT_SETS[name].download is not None

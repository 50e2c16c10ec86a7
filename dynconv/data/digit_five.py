"""Digit-Five as the authors of M3SDA released it: six MATLAB files, which are other builds of their sets than those of
the sets' own publishers.

| set | file | images |
|---|---|---|
| mnist | mnist_data.mat | 55,000 / 10,000, at 32 x 32, labels one-hot |
| mnist_m | mnistm_with_label.mat | 55,000 / 10,000, at 28 x 28, made by the authors, not DANN's; labels one-hot |
| usps | usps_28x28.mat | 7,438 / 1,860, at 28 x 28 (the published split is 7,291 / 2,007) |
| svhn | svhn_train_32x32.mat, svhn_test_32x32.mat | 73,257 / 26,032, the published files renamed |
| syn | syn_number.mat | 25,000 / 9,000, the first of Synthetic Digits' 479,400 / 9,553 |

The protocol (Peng et al., ICCV 2019) draws 25,000 and 9,000 images of each; USPS is taken whole, its training images
four times: 29,752 / 1,860. The released code draws anew in every run, tests on all 10,000 images of MNIST and on the
first 9,000 elsewhere; here both drawings are uniform and the same in every run (`dynconv.data.variants`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dynconv.data.cache import Arrays
from dynconv.data.digit_files import DigitSet, checked_images, checked_labels, read_mat, read_stacks
from dynconv.data.errors import DataError

PREFIX = "digit-five"
FOLDER = "Digit-Five"


def _read_four(file: str, shape: tuple[int, ...], images: str, labels: str) -> Callable[[Path, Path], Arrays]:
    """The reader of a file with four variables, whose names are `images` and `labels` with the part in braces."""
    names = {part: (images.format(part), labels.format(part)) for part in ("train", "test")}

    def read(root: Path, cache_dir: Path) -> Arrays:
        path = root / FOLDER / file
        stored = read_mat(path, tuple(name for pair in names.values() for name in pair))
        arrays: Arrays = {}
        for part, (image, label) in names.items():
            pixels = checked_images(stored[image], shape, f"{path}: {image}")
            arrays[f"{part}_images"] = pixels
            arrays[f"{part}_labels"] = checked_labels(stored[label], len(pixels), f"{path}: {label}")
        return arrays

    return read


def _read_usps(root: Path, cache_dir: Path) -> Arrays:
    path = root / FOLDER / "usps_28x28.mat"
    cells = read_mat(path, ("dataset",))["dataset"]
    if cells.shape != (2, 2) or cells.dtype != np.object_:
        raise DataError(f"{path}: dataset: expected 2 x 2 cells of images and labels, got {cells.dtype} {cells.shape}")
    arrays: Arrays = {}
    for part, (images, labels) in zip(("train", "test"), cells, strict=True):
        grey = checked_images(images, (1, 28, 28), f"{path}: images of {part}", white=1)[:, 0]
        arrays[f"{part}_images"] = grey
        arrays[f"{part}_labels"] = checked_labels(labels, len(grey), f"{path}: labels of {part}")
    return arrays


def _how_to_get(root: Path) -> str:
    return (
        "the authors of M3SDA (Peng et al., 2019) publish it as Digit-Five at "
        "https://drive.google.com/open?id=1A4RJOFj4BJkmliiEL7g9WzNIDUHLxfmm, linked from M3SDA/code_MSDA_digit of "
        f"https://github.com/VisionLearningGroup/VisionLearningGroup.github.io; put its .mat files in {root / FOLDER}"
    )


def _set(title: str, files: tuple[str, ...], read: Callable[..., Arrays], train: int, test: int) -> DigitSet:
    paths = tuple(f"{FOLDER}/{file}" for file in files)
    return DigitSet(
        f"{title} in Digit-Five", paths, read, _how_to_get, {"train": train, "test": test}, cache_drawn=True
    )


_SVHN = ("svhn_train_32x32.mat", "svhn_test_32x32.mat")

SETS = {
    "mnist": _set(
        "MNIST", ("mnist_data.mat",), _read_four("mnist_data.mat", (32, 32), "{}_32", "label_{}"), 55000, 10000
    ),
    "mnist_m": _set(
        "MNIST-M",
        ("mnistm_with_label.mat",),
        _read_four("mnistm_with_label.mat", (28, 28, 3), "{}", "label_{}"),
        55000,
        10000,
    ),
    "usps": _set("USPS", ("usps_28x28.mat",), _read_usps, 7438, 1860),
    "svhn": _set("SVHN", _SVHN, read_stacks(*(f"{FOLDER}/{file}" for file in _SVHN)), 73257, 26032),
    "syn": _set(
        "Synthetic Digits",
        ("syn_number.mat",),
        _read_four("syn_number.mat", (32, 32, 3), "{}_data", "{}_label"),
        25000,
        9000,
    ),
}

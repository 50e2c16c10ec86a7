"""SVHN, Synthetic Digits and Digit-Five in their publishers' layouts: a few images whose pixels tell their number,
row, column and channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

Array = np.ndarray[Any, Any]


def pictures(count: int, side: int, channels: int = 3) -> Array:
    """uint8 (count, side, side, channels)."""
    n, row, column, channel = np.indices((count, side, side, channels))
    values: Array = (2 + 7 * n + 3 * row + 2 * column + 40 * channel) % 256
    return values.astype(np.uint8)


def digits(count: int) -> Array:
    """The digits in turn, from 0."""
    return np.arange(count) % 10


def one_hot(labels: Array) -> Array:
    rows: Array = np.eye(10)[labels]
    return rows


def write_stack(path: Path, images: Array, labels: Array) -> None:
    """SVHN's form: X (32, 32, 3, N), y (N, 1), compressed as published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stack = {"X": images.transpose(1, 2, 3, 0), "y": labels.astype(np.uint8)[:, None]}
    savemat(path, stack, do_compression=True)


def write_svhn(root: Path, counts: tuple[int, int] = (24, 21)) -> None:
    """0 is written as 10."""
    for part, count in zip(("train", "test"), counts, strict=True):
        labels = digits(count)
        write_stack(root / f"{part}_32x32.mat", pictures(count, 32), np.where(labels == 0, 10, labels))


def write_syn(root: Path, counts: tuple[int, int] = (24, 21)) -> None:
    """0 is written as 0."""
    for part, count in zip(("train", "test"), counts, strict=True):
        write_stack(root / "SynthDigits" / f"synth_{part}_32x32.mat", pictures(count, 32), digits(count))


def write_digit_five(root: Path, counts: tuple[int, int] = (24, 21)) -> None:
    """All six files, with the same number of images of every set."""
    folder = root / "Digit-Five"
    folder.mkdir(parents=True)
    parts = dict(zip(("train", "test"), counts, strict=True))
    mnist: dict[str, Array] = {}
    mnist_m: dict[str, Array] = {}
    syn: dict[str, Array] = {}
    usps = np.empty((2, 2), dtype=object)
    for row, (part, count) in enumerate(parts.items()):
        labels = digits(count)
        # As published the 28 x 28 version has an axis of channels and the other has none.
        mnist |= {f"{part}_28": pictures(count, 28, 1), f"{part}_32": pictures(count, 32, 1)[..., 0]}
        mnist[f"label_{part}"] = one_hot(labels)
        mnist_m |= {part: pictures(count, 28), f"label_{part}": one_hot(labels)}
        usps[row] = (
            pictures(count, 28, 1).transpose(0, 3, 1, 2).astype(np.float32) / 255,
            labels[:, None].astype(np.int64),
        )
        write_stack(folder / f"svhn_{part}_32x32.mat", pictures(count, 32), np.where(labels == 0, 10, labels))
        syn |= {f"{part}_data": pictures(count, 32), f"{part}_label": labels[:, None].astype(np.uint8)}
    for file, content in (
        ("mnist_data.mat", mnist),
        ("mnistm_with_label.mat", mnist_m),
        ("usps_28x28.mat", {"dataset": usps}),
        ("syn_number.mat", syn),
    ):
        savemat(folder / file, content, do_compression=True)

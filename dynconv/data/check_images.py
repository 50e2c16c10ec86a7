"""Every image opened, decoded and compared with the others: what of them is unreadable, of another size, of one colour
or a copy."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.data.decode import read_picture
from dynconv.data.errors import DataError
from dynconv.data.findings import Findings
from dynconv.data.threads import reading_pool

Progress = Callable[[int, int], None]

# Files handed to the threads at a time: enough to keep them busy, few enough that a progress bar moves.
_CHUNK = 256


@dataclass(frozen=True)
class ImageRow:
    """One image file with the split and the class (by name) that it stands under."""

    path: Path
    split: str
    label: str


@dataclass(frozen=True)
class Seen:
    """What is compared between images: a digest of the pixels, where the image stands, and its name for messages."""

    digest: bytes
    split: str
    label: str
    name: str


def check_image_files(
    findings: Findings,
    rows: Sequence[ImageRow],
    *,
    threads: int,
    size: tuple[int, int] | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Decode every file of `rows` and add what is wrong with it, or worth a note, to `findings`.

    Args:
        findings: Where the findings go.
        rows: The files. One that stands in several splits, or under several classes, counts as a copy of itself.
        threads: Files decoded at a time.
        size: Width and height that each image must have; None for any.
        on_progress: Called with the number of files done and of all.
    """
    seen: dict[ImageRow, Seen] = {}
    examine = partial(_examine, findings.domain)
    with reading_pool(max(1, threads), "check") as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            for row, (digest, why, found, colour) in zip(chunk, pool.map(examine, chunk), strict=True):
                here = {"split": row.split, "label": row.label, "file": str(row.path)}
                if why is not None:
                    findings.add("unreadable image", why, **here)
                    continue
                if size is not None and found != size:
                    expected, got = ("{} x {}".format(*pair) for pair in (size, found))
                    text = f"the image {row.path} has {got} pixels, expected {expected}"
                    findings.add("wrong image size", text, **here)
                if colour is not None:
                    findings.add("one colour", f"the image {row.path} is of one colour, {colour}", **here)
                seen.setdefault(row, Seen(digest, row.split, row.label, str(row.path)))
            if on_progress is not None:
                on_progress(start + len(chunk), len(rows))
    note_copies(findings, seen.values())


def check_image_arrays(
    findings: Findings, split: str, images: np.ndarray[Any, Any], labels: Sequence[str]
) -> list[Seen]:
    """Note images of one colour in an array (N, H, W) or (N, H, W, 3) of uint8; returns what `note_copies` compares.

    `labels` are the names of their classes.
    """
    seen = []
    for start in range(0, len(images), _CHUNK):
        chunk = np.ascontiguousarray(images[start : start + _CHUNK])
        pixels = chunk.reshape(len(chunk), chunk.shape[1] * chunk.shape[2], -1)
        plain = (pixels == pixels[:, :1]).all(axis=(1, 2))
        for place, image in enumerate(chunk):
            index = start + place
            name = f"image {index:,} of {split}"
            if plain[place]:
                text = f"{name} is of one colour, {_colour(pixels[place, 0].tolist())}"
                findings.add("one colour", text, split=split, label=labels[index])
            seen.append(Seen(digest_of(image), split, labels[index], name))
    return seen


def note_copies(findings: Findings, images: Iterable[Seen]) -> None:
    """Note identical images: within a class and split, between splits, and under several classes."""
    groups: defaultdict[bytes, list[Seen]] = defaultdict(list)
    for image in images:
        groups[image.digest].append(image)
    copied = [group for group in groups.values() if len(group) > 1]
    if not copied:
        return
    surplus, shown = sum(len(group) - 1 for group in copied), copied[0]
    text = f"{_images(surplus)} the copy of another, pixel for pixel, such as {shown[1].name} of {shown[0].name}"
    across = [group for group in copied if len({image.split for image in group}) > 1]
    if across:
        held = sum(image.split == "test" for group in across for image in group)
        text += f"; {_images(held)} in the test split and in the training split"
    findings.add("copies", text)
    for group in copied:
        by_label: dict[str, Seen] = {}
        for image in group:
            by_label.setdefault(image.label, image)
        under = list(by_label.values())
        if len(under) > 1:
            places = "; ".join(f"{image.name} ({image.label})" for image in under[:3])
            places += f"; and {len(under) - 3:,} more" * (len(under) > 3)
            findings.add("copies with other labels", f"one image stands under {len(under)} classes: {places}")


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"


def _examine(domain: str, row: ImageRow) -> tuple[bytes, str | None, tuple[int, int], str | None]:
    """Digest of the pixels, why there are none (or None), width and height, the colour where there is one only."""
    try:
        picture = read_picture(row.path, domain, 3)
    except DataError as error:
        return b"", str(error).removeprefix(f"{domain}: "), (0, 0), None
    pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
    first = pixels[0, 0]
    colour = _colour(first.tolist()) if (pixels == first).all() else None
    height, width, _ = pixels.shape
    return digest_of(pixels), None, (width, height), colour


def digest_of(pixels: np.ndarray[Any, Any]) -> bytes:
    """What identical images of one size have in common, and others have not."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.data)
    return digest.digest()


def _colour(levels: Sequence[float]) -> str:
    return f"({', '.join(f'{level:g}' for level in levels)})"

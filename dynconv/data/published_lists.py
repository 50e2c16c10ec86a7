"""Lists of `path number` lines as a publisher ships them: every line, label and file checked, no image opened."""

from __future__ import annotations

import os
from pathlib import Path

from dynconv.data.errors import DataError


def read_published_list(name: str, file: Path, base: Path, classes: tuple[str, ...]) -> tuple[tuple[Path, int], ...]:
    """The rows of a list whose paths are `DOMAIN/CLASS/IMAGE` below `base` and whose numbers count `classes` from 0.

    Raises:
        DataError: a line of another form, a number that is no class or not that of the folder in its path, or an image
            that is not there (it says how many of how many are missing, and the first).
    """
    rows: list[tuple[str, int]] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f'{name}: {file} is no text file of "path number" lines: {error}') from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        folders = path.split("/")
        if len(folders) < 3 or not label.isdecimal():
            raise DataError(f'{name}: {file}, line {number}: expected "DOMAIN/CLASS/IMAGE number", got {line!r}')
        if int(label) >= len(classes):
            raise DataError(
                f"{name}: {file}, line {number}: the label {label} is no class: expected 0 to {len(classes) - 1}"
            )
        if classes[int(label)] != folders[-2]:
            raise DataError(
                f"{name}: {file}, line {number}: {path} has the label {label}, which is {classes[int(label)]}"
            )
        rows.append((path, int(label)))
    if not rows:
        raise DataError(f"{name}: {file} lists no image")
    if absent := _absent([path for path, _ in rows], base):
        raise DataError(
            f"{name}: {len(absent)} of {len(rows)} images that {file} lists are missing below {base}: {absent[0]}"
            + ", ..." * (len(absent) > 1)
            + "; unpack the archives of the list's version again"
        )
    return tuple((base / path, label) for path, label in rows)


def _absent(paths: list[str], base: Path) -> list[str]:
    # One look per folder: DomainNet's lists name 586,575 images in 2,070 folders.
    held: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        folder, _, image = path.rpartition("/")
        if folder not in held:
            place = base / folder
            held[folder] = set(os.listdir(place)) if place.is_dir() else set()
        if image not in held[folder]:
            absent.append(path)
    return absent

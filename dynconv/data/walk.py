"""Lists of "path label" lines and folders of classes, read in one place: the loaders stop at the first problem, as
training must, and a check goes on and tells them all."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from dynconv.data.errors import DataError
from dynconv.distributed import is_main

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})

# Of the suffixes that are no image's the most common are told.
_KINDS = 6
_FOLDER = "folder"
# What is shown of a line or a word that someone else wrote.
_SHOWN = 80
# Far above any number of classes, and far below the 4,300 digits that Python refuses to convert.
_MOST_DIGITS = 18


class Row(NamedTuple):
    """An image that a list names, and its class."""

    path: Path
    label: str


class ListProblem(NamedTuple):
    """What is wrong with a list, or with one of its lines."""

    kind: Literal["unreadable file", "malformed line", "unknown label", "list that lacks files"]
    text: str
    """With the list and the line."""
    file: Path
    label: str = ""
    named: str = ""
    """The image that is not there, as the list names it, and the line's number."""


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return Path(name).suffix.lower() in SUFFIXES


def is_number(text: str) -> bool:
    """Whether `text` is a number of ASCII digits, of a length that is worth converting."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def read_list(
    listing: Path, folder: Path, read_label: Callable[[str, str], str], form: str = "path label"
) -> Iterator[Row | ListProblem]:
    """The lines of `listing`, each as the image that it names or as what is wrong with it. Blank lines are none.

    Args:
        listing: A text file (UTF-8), path and label of each line being separated by the line's last blanks or tabs.
        folder: What its paths are relative to.
        read_label: A path and its label to the name of the class; raises a ValueError with the words for a label that
            fits neither the set nor the path.
        form: What a line should be, for messages.
    """
    try:
        # A byte order mark, which editors of Windows write, is no part of the first path.
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        yield ListProblem("unreadable file", f'{listing} is no text file of "{form}" lines: {error}', listing)
        return
    filled = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        yield ListProblem("malformed line", f"{listing} lists no image", listing)
    is_there = _Present(folder)
    for number, line in filled:
        here, parts = f"{listing}, line {number}", line.rsplit(maxsplit=1)
        if len(parts) != 2:
            yield ListProblem("malformed line", f'{here}: expected "{form}", got {line[:_SHOWN]!r}', listing)
            continue
        try:
            label = read_label(*parts)
        except ValueError as error:
            yield ListProblem("unknown label", f"{here}: {error}", listing)
            continue
        path = folder / parts[0]
        if is_there(parts[0]):
            yield Row(path, label)
        else:
            text, named = f"{here}: the image {path} is not there", f"{parts[0]} (line {number})"
            yield ListProblem("list that lacks files", text, path, label, named)


def sound_rows(
    name: str, listing: Path, folder: Path, read_label: Callable[[str, str], str], form: str = "path label"
) -> list[Row]:
    """The images of a list (see `read_list`) in which nothing is wrong.

    Raises:
        DataError: a line or a label is wrong (the first), or images are missing (how many of how many, and the first).
    """
    rows: list[Row] = []
    absent: list[ListProblem] = []
    for found in read_list(listing, folder, read_label, form):
        if isinstance(found, Row):
            rows.append(found)
        elif found.kind == "list that lacks files":
            absent.append(found)
        else:
            raise DataError(f"{name}: {found.text}")
    if absent:
        raise DataError(
            f"{name}: {len(absent)} of {len(rows) + len(absent)} images that {listing} lists are missing below "
            f"{folder}: {absent[0].named}" + ", ..." * (len(absent) > 1)
        )
    return rows


class _Present:
    """Whether an image lies below a folder."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._held: dict[str, frozenset[str]] = {}

    def __call__(self, path: str) -> bool:
        # One look per folder: DomainNet's lists name 586,575 images in 2,070 folders.
        folder, image = os.path.split(path)
        if folder not in self._held:
            try:
                self._held[folder] = frozenset(os.listdir(self._base / folder))
            except (OSError, ValueError):
                self._held[folder] = frozenset()
        # Asked where a file system takes another spelling for the same name; no error for a name that is too long.
        return image in self._held[folder] or os.path.isfile(self._base / path)


@dataclass(frozen=True)
class ClassFolder:
    """One folder of a folder of classes: its images, and what else lies in it; `error` where it cannot be read."""

    place: Path
    images: tuple[Path, ...] = ()
    stray: tuple[Path, ...] = ()
    error: OSError | None = None


def class_folders(folder: Path) -> tuple[list[ClassFolder], list[Path]]:
    """The class folders of `folder` in the order of their names, and what lies beside them. An image is what is called
    one, whether it can be opened or not; names that start with a dot are not looked at.

    Raises:
        OSError: `folder` cannot be read.
    """
    found: list[ClassFolder] = []
    stray: list[Path] = []
    for place in _entries(folder):
        if not place.is_dir():
            stray.append(place)
            continue
        try:
            files = _entries(place)
        except OSError as error:
            found.append(ClassFolder(place, error=error))
            continue
        images = tuple(file for file in files if is_image(file.name))
        others = tuple(file for file in files if not is_image(file.name))
        found.append(ClassFolder(place, images, others))
    return found, stray


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def passed_over(stray: Iterable[Path]) -> str:
    """What of `stray` is no image by its name, in words: how many files of which suffixes, and how many folders; empty
    where there is nothing of the kind."""
    kinds = Counter(_kind(path) for path in stray if not is_image(path.name))
    told = [f"{count:,} {kind}{'s' * (kind == _FOLDER and count > 1)}" for kind, count in kinds.most_common()]
    more = [f"{len(told) - _KINDS} more suffixes"] if len(told) > _KINDS else []
    return ", ".join([*told[:_KINDS], *more])


def _kind(path: Path) -> str:
    return _FOLDER if path.is_dir() else path.suffix.lower() or "without a suffix"


def tell_passed_over(name: str, folder: Path, stray: Iterable[Path]) -> None:
    """Say on stderr what of `stray`, of the domain `name` in `folder`, no one reads; nothing where that is nothing."""
    if is_main() and (told := passed_over(stray)):
        read = ", ".join(sorted(SUFFIXES))
        log.warning("%s: passed over what is no image by its name in %s: %s; read are %s", name, folder, told, read)

"""A user's own images without labels, which a target alone may be: a folder of image files, or a list of paths.

What has folders in it, or a label in a line, is never taken for unlabelled: a class that is misspelt stays an error.
"""

from __future__ import annotations

import os
from pathlib import Path

from dynconv.data.errors import DataError
from dynconv.data.translated import NAME
from dynconv.data.walk import is_image, tell_passed_over


def unlabelled_images(name: str, place: Path) -> tuple[Path, ...] | None:
    """The images of `place` where nothing there tells a class; None where something does, or there is no image.

    Args:
        name: The domain, for messages.
        place: A folder that holds image files and no folder (names that start with a dot are not looked at), in the
            order of their names; or a text file (UTF-8) of paths relative to its own folder, in the order of the lines,
            each of which ends as an image file does.

    Raises:
        DataError: the folder cannot be read, or listed images are missing.
    """
    if os.path.isfile(place):
        return _listed(name, place)
    return _held(name, place) if os.path.isdir(place) else None


def _held(name: str, folder: Path) -> tuple[Path, ...] | None:
    images, others = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    return None
                path = folder / entry.name
                if not is_image(path.name):
                    others.append(path)
                    continue
                if NAME.fullmatch(path.stem):
                    # A translated image, whose name tells its label.
                    return None
                images.append(path)
    except OSError as error:
        raise DataError(f"{name}: the folder {folder} cannot be read: {error}") from error
    if images:
        tell_passed_over(name, folder, sorted(others))
    return tuple(sorted(images)) or None


def _listed(name: str, listing: Path) -> tuple[Path, ...] | None:
    try:
        lines = [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        # Whoever reads it as a list with labels says so.
        return None
    if not lines or not all(_is_path(line, listing.parent) for line in lines):
        return None
    paths = tuple(listing.parent / line for line in lines)
    if absent := [path for path in paths if not os.path.isfile(path)]:
        raise DataError(
            f"{name}: {len(absent)} of {len(paths)} images that {listing} lists, without labels, are not there: "
            f"{absent[0]}" + ", ..." * (len(absent) > 1)
        )
    return paths


def _is_path(line: str, folder: Path) -> bool:
    """Whether a line is a path and no label: the path may have spaces in it, and a label look like a file."""
    if not is_image(line):
        return False
    first, *label = line.rsplit(maxsplit=1)
    return not label or not os.path.isfile(folder / first)

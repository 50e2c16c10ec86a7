"""Which images a folder, a list or a file stands for, without a look at labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dynconv.data import DataError
from dynconv.data.walk import SUFFIXES


def find_images(place: Path) -> tuple[Path, list[str]]:
    """Paths of images, and the folder that they are relative to.

    Args:
        place: A folder (all images below it, sorted; names that start with a dot are left out), a text file of
            "path" or "path label" lines relative to its own folder (in their order), or an image.

    Raises:
        DataError: `place` is absent, cannot be read, or holds no image.
    """
    try:
        if place.is_dir():
            names = sorted(_below(place))
            if not names:
                raise DataError(f"{place} holds no image ({', '.join(sorted(SUFFIXES))}), nor does a folder below it")
            return place, names
        if place.suffix.lower() in SUFFIXES and place.is_file():
            return place.parent, [place.name]
        lines = (line.strip() for line in place.read_text(encoding="utf-8").splitlines())
        names = [_without_label(line, place.parent) for line in lines if line]
    except FileNotFoundError as error:
        raise DataError(f"{place} does not exist (looked from {Path.cwd()})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f'{place} cannot be read: {error}; give a folder of images or a text file of "path" lines'
        ) from error
    if not names:
        raise DataError(f"{place} lists no image")
    return place.parent, names


def _below(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(parent).resolve()
        # A link to where it lies, or above, would go round for ever.
        folders[:] = [
            name for name in folders if name[0] != "." and not real.is_relative_to(Path(parent, name).resolve())
        ]
        for name in files:
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                yield Path(parent, name).relative_to(folder).as_posix()


def _without_label(line: str, folder: Path) -> str:
    """The path in a line "path" or "path label"; the path may have spaces in it."""
    if Path(line).suffix.lower() in SUFFIXES or (folder / line).is_file():
        return line
    return line.rsplit(maxsplit=1)[0]

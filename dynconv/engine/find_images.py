"""Which images a folder, a list or a file stands for, without a look at labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dynconv.data import DataError
from dynconv.data.walk import SUFFIXES, is_image, passed_over, tell_passed_over


def find_images(place: Path) -> tuple[Path, list[str]]:
    """Paths of images, and the folder that they are relative to.

    Args:
        place: A folder (all images below it, sorted; what is no image by its name is told, names that start with a dot
            are not looked at), a text file of "path" or "path label" lines relative to its own folder (in their order),
            or an image.

    Raises:
        DataError: `place` is absent, cannot be read, or holds no image.
    """
    try:
        if place.is_dir():
            files = sorted(_below(place))
            names = [name for name in files if is_image(name)]
            others = [place / name for name in files if not is_image(name)]
            if not names:
                there = f"; it holds {told}" if (told := passed_over(others)) else ""
                raise DataError(
                    f"{place} holds no image ({', '.join(sorted(SUFFIXES))}), nor does a folder below it{there}"
                )
            tell_passed_over("predict", place, others)
            return place, names
        if is_image(place.name) and place.is_file():
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
    """Files at any depth, relative to `folder`; names that start with a dot are not looked at."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(parent).resolve()
        # A link to where it lies, or above, would go round for ever.
        folders[:] = [
            name for name in folders if name[0] != "." and not real.is_relative_to(Path(parent, name).resolve())
        ]
        for name in files:
            if name[0] != ".":
                yield Path(parent, name).relative_to(folder).as_posix()


def _without_label(line: str, folder: Path) -> str:
    """The path in a line "path" or "path label"; the path may have spaces in it."""
    if is_image(line) or (folder / line).is_file():
        return line
    return line.rsplit(maxsplit=1)[0]

"""Translated images in the layout of the published CycleGAN digits: one folder of `LABEL_ID_fake_B.png`.

What a CycleGAN makes of labelled images has the label of its original, which the name tells; the part after the number
tells the direction of the translation. A folder of one direction is read whichever that is, of fake_A alone too: no
name tells which of both domains had the labels, so whoever gives the folder vouches for them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dynconv.data.errors import DataError
from dynconv.data.walk import Row, is_image, tell_passed_over
from dynconv.distributed import is_main

log = logging.getLogger(__name__)

NAME = re.compile(r"(?P<label>.+)_(?P<number>[0-9]+)_(?P<direction>fake_[^_]+)")
_NAMED = 5


class Translated(NamedTuple):
    """What a folder of translated images holds."""

    rows: list[Row]
    """The images in the order of label and number, and their labels."""
    misfits: list[Path]
    """Other image files, such as originals; sorted."""
    others: list[Path]
    """Files that are no images by their name."""


def translated_name(label: str, number: int) -> str:
    """The name of the translation of the image `number` of class `label`.

    Raises:
        DataError: no file can have that name, or its class could not be read from it again.
    """
    name = f"{label}_{number}_fake_B"
    match = NAME.fullmatch(name)
    # The pattern, by which names are read again, matches neither a line break nor an empty label.
    if "/" in label or "\0" in label or label.startswith(".") or match is None or match["label"] != label:
        raise DataError(f"the class {label!r} cannot be a part of a translated image's name: rename it")
    return f"{name}.png"


def read_translated(folder: Path) -> Translated | None:
    """The translated images that lie in `folder` itself, of whichever direction; None where there are none.

    Raises:
        DataError: it holds folders of images too, or translations of both directions, whose names are told from one
            another but not which of them have the label of their name.
        OSError: it cannot be read.
    """
    rows: dict[tuple[str, int, str], Row] = {}
    misfits: list[Path] = []
    others: list[Path] = []
    folders: list[Path] = []
    directions: dict[str, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(path)
                continue
            if not is_image(path.name):
                others.append(path)
                continue
            match = NAME.fullmatch(path.stem)
            if match is None:
                misfits.append(path)
                continue
            directions[match["direction"]] = directions.get(match["direction"], 0) + 1
            rows[match["label"], int(match["number"]), entry.name] = Row(path, match["label"])
    if not rows:
        return None
    with_images = sorted(each.name for each in folders if _holds_images(each))
    if with_images:
        raise DataError(
            f"{folder} holds {len(rows)} translated images (LABEL_ID_fake_B.png) and folders of images "
            f"({_words(with_images)}): give a folder that holds the one or the other"
        )
    if len(directions) > 1:
        found = ", ".join(f"{count} of {direction}" for direction, count in sorted(directions.items()))
        raise DataError(
            f"{folder} holds translations of more than one direction ({found}), and only those of the labelled images "
            "have the label that their name tells: move the others elsewhere"
        )
    return Translated([rows[key] for key in sorted(rows)], sorted(misfits), others)


def translated_rows(name: str, folder: Path) -> list[Row]:
    """The images of `read_translated`, none where `folder` has another layout; what does not fit, or is no image by its
    name, is counted and named on stderr.

    Raises:
        DataError: as `read_translated`, or `folder` cannot be read.
    """
    try:
        found = read_translated(folder)
    except OSError as error:
        raise DataError(f"{name}: the folder {folder} cannot be read: {error}") from error
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    if found is None:
        return []
    tell_passed_over(name, folder, found.others)
    if found.misfits and is_main():
        total = len(found.rows) + len(found.misfits)
        log.warning(
            "%s: left out %d of %d images, which are not called LABEL_ID_fake_B.png: %s",
            name,
            len(found.misfits),
            total,
            _words([each.name for each in found.misfits]),
        )
    return found.rows


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) for entry in entries)


def _words(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more

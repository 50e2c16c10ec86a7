"""CamVid's layout, which is that of a user's own scenes too: `train` and `trainannot`, `test` and `testannot`.

In SegNet's files the label maps are grey PNGs of 11 classes, 0 to 10, and 11 for what is ignored. `classes.txt` names
the classes, one on a line in the order of their numbers; a line that begins with "void" is a number to ignore, as 255
is without a line.
"""

from __future__ import annotations

import os
from pathlib import Path

from dynconv.data.errors import DataError
from dynconv.data.scenes.label_maps import IGNORE
from dynconv.data.scenes.reading import LabelFormat, Scene
from dynconv.data.walk import SUFFIXES, is_image

CLASS_FILE = "classes.txt"
VOID = "void"


def label_format(name: str, place: Path, published: tuple[str, ...] = ()) -> tuple[tuple[str, ...], LabelFormat]:
    """The classes of the scenes in `place`, and how their label files are read.

    Args:
        name: The domain, for messages.
        place: The folder with `classes.txt`.
        published: The names that the file must hold; where the file is missing, these are the classes, with one
            number more to ignore.

    Raises:
        DataError: no file and no published names, a file that cannot be read, has an empty line before others,
            names fewer than two classes or one twice, or other names than the published ones.
    """
    file = place / CLASS_FILE
    lines = [*published, VOID] if published and not file.is_file() else _lines(name, file)
    numbered = [(number, line) for number, line in enumerate(lines) if not line.lower().startswith(VOID)]
    classes = tuple(line for _, line in numbered)
    if len(classes) < 2 or len(set(classes)) < len(classes) or len(lines) >= IGNORE:
        raise DataError(
            f"{name}: {file}: expected 2 to {IGNORE - 1} different class names, one on a line, got {', '.join(lines)!r}"
        )
    if published and classes != published:
        raise DataError(f"{name}: {file}: expected the classes {', '.join(published)}; got {', '.join(classes)}")
    indices = {number: IGNORE for number in (*range(len(lines)), IGNORE)}
    indices |= {number: index for index, (number, _) in enumerate(numbered)}
    return classes, LabelFormat(f"a label map of {file.parent}", tuple(sorted(indices.items())))


def scenes_of(name: str, place: Path, split: str, *, labelled: bool = True) -> tuple[Scene, ...] | None:
    """The scenes of `place/SPLIT`, with label maps of the same name in `place/SPLITannot`, by name; None without both.
    Those that are not `labelled` may go without label maps.

    Raises:
        DataError: one of the two folders is missing, or the first holds no image.
    """
    images, labels = place / split, place / f"{split}annot"
    there = [folder for folder in (images, labels) if folder.is_dir()]
    if not there:
        return None
    if len(there) == 1 and (labelled or there == [labels]):
        (lacking,) = {images, labels} - set(there)
        raise DataError(
            f"{name}: {there[0]} has no {lacking.name} beside it: expected images in {split}, label maps of the same "
            f"names in {split}annot"
        )
    files = image_files(images)
    if not files:
        raise DataError(f"{name}: {images} holds no image ({', '.join(sorted(SUFFIXES))})")
    return tuple(Scene(file, labels / f"{file.stem}.png") for file in files)


def both_splits(name: str, place: Path, *, labelled: bool = True) -> tuple[tuple[Scene, ...], tuple[Scene, ...] | None]:
    """The training scenes, which where not `labelled` may go without label maps, and the test scenes or None.

    Raises:
        DataError: as `scenes_of`, or there is no training split.
    """
    train = scenes_of(name, place, "train", labelled=labelled)
    if train is None:
        raise DataError(f"{name}: {place} holds neither train nor trainannot: expected images and label maps in these")
    return train, scenes_of(name, place, "test")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder by name; hidden files are none. OSError where it cannot be read."""
    # Names alone: 24,966 times Path.is_file would be as many looks at the disk.
    names = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    return [folder / entry for entry in names if is_image(entry)]


def _lines(name: str, file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{name}: {file} cannot be read: {error}. Expected the names of the classes, one on a line in the order of "
            f"their numbers; a line that begins with {VOID!r} is a number to ignore"
        ) from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(
            f"{name}: {file}: line {lines.index('') + 1} is empty: expected a name on each line, or {VOID!r} for a "
            "number to ignore, for the line's place is the number in the label maps"
        )
    return lines

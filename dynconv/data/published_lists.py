"""Lists of `path number` lines as a publisher ships them: every line, label and file checked, no image opened."""

from __future__ import annotations

from pathlib import Path

from dynconv.data.walk import is_number, sound_rows

FORM = "DOMAIN/CLASS/IMAGE number"


def class_of(path: str, label: str, domain: str, classes: tuple[str, ...]) -> str:
    """The class of a row of a domain's list.

    Raises:
        ValueError: the path is of another form or domain, or the number is no class or not that of the path's folder.
    """
    folders = path.split("/")
    if len(folders) != 3:
        raise ValueError(f'expected "{FORM}", got the path {path[:80]!r}')
    if not is_number(label) or int(label) >= len(classes):
        raise ValueError(f"the label {label[:80]!r} is no class: expected 0 to {len(classes) - 1}")
    if folders[0] != domain:
        raise ValueError(f"{path} is an image of {folders[0]}: expected those of {domain}")
    found = classes[int(label)]
    if folders[1] != found:
        raise ValueError(f"{path} has the label {label}, which is {found}")
    return found


def read_published_list(name: str, file: Path, base: Path, classes: tuple[str, ...]) -> tuple[tuple[Path, int], ...]:
    """The rows of a list of the domain `name` whose paths are `DOMAIN/CLASS/IMAGE` below `base` and whose numbers count
    `classes` from 0.

    Raises:
        DataError: a line of another form or domain, a number that is no class or not that of the folder in its path, or
            an image that is not there (it says how many of how many are missing, and the first).
    """
    number = {label: place for place, label in enumerate(classes)}
    rows = sound_rows(name, file, base, lambda path, label: class_of(path, label, name, classes), FORM)
    return tuple((path, number[label]) for path, label in rows)

"""What is published of every known domain: counts, classes, digests, and where to get it.

The facts stand beside the loaders (`digit_files`, `digit_five`, `image_sets`, `scenes`); here they have one form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dynconv.data import embedded
from dynconv.data.digits import CLASSES, DIGIT_SETS
from dynconv.data.image_sets import IMAGE_SETS
from dynconv.data.scenes.listing import SCENE_SETS
from dynconv.data.specs import EMBEDDED, known_name

Presence = Literal["present", "partly", "missing", "generated"]

# Where no data root is given, the instructions say where files go below one.
DATA_ROOT = Path("DATA_ROOT")

# scikit-learn's 1,797 digits as `embedded` divides them: class by class, a fifth held out.
_OPTICAL = {
    "train": (142, 146, 142, 146, 145, 146, 145, 143, 139, 144),
    "test": (36, 36, 35, 37, 36, 36, 36, 36, 35, 36),
}


@dataclass(frozen=True)
class Published:
    """One domain as its publisher ships it.

    Attributes:
        domain: Its name, as in `known_domains()`.
        title: The set's name in prose.
        splits: Images by split, `{"train": n, "test": m}`, or `{"all": n}` where there is no published test split.
        classes: Names of the classes, whose places are the labels.
        how_to_get: Publisher, where to click, where to put it.
        per_class: Images of each of `classes`, by split; empty where they are not known for sure.
        digests: File, relative to the data root, to "md5:..." or "sha256:..."; empty where the publisher gives none.
        absent: Split to the classes that the published split really lacks.
        settings: Of driving scenes: which classes may be chosen, the default first (`@NAME` of a protocol).
    """

    domain: str
    title: str
    splits: Mapping[str, int]
    classes: tuple[str, ...]
    how_to_get: str
    per_class: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()


def published(name: str, data_root: Path | None = None) -> Published:
    """The facts of a known domain; nothing is read. `data_root` stands in the instructions.

    Raises:
        DataError: no such domain (with the known ones).
    """
    known_name(name, "the published sets", "NAME=DIR")
    collection, _, member = name.partition(":")
    if (digit_set := DIGIT_SETS.get(name)) is not None:
        return Published(
            name,
            digit_set.title,
            digit_set.splits,
            CLASSES,
            digit_set.how_to_get(data_root or DATA_ROOT),
            digit_set.per_class,
            digit_set.digests,
        )
    if collection == EMBEDDED:
        return _generated(name, member)
    if (scenes := SCENE_SETS.get(name)) is not None:
        how_to_get = f"{scenes.how_to_get} (below {data_root or DATA_ROOT})"
        classes, settings = scenes.classes("default"), tuple(scenes.settings)
        return Published(name, scenes.title, scenes.splits, classes, how_to_get, settings=settings)
    known = IMAGE_SETS[collection]
    return Published(
        name,
        known.title,
        known.splits[member],
        known.classes,
        f"{known.how_to_get} (below {data_root or DATA_ROOT})",
        known.per_class.get(member, {}),
        absent=known.absent.get(member, {}),
    )


def needed(name: str) -> tuple[tuple[str, ...], ...]:
    """Files and folders, relative to the data root, that a known domain consists of; each with the places where it may
    lie. Empty for what is generated."""
    collection, _, member = name.partition(":")
    if (digit_set := DIGIT_SETS.get(name)) is not None:
        return tuple((file,) for file in digit_set.files)
    if collection == EMBEDDED:
        return ()
    if (scenes := SCENE_SETS.get(name)) is not None:
        return tuple((f"{scenes.folder}/{folder}",) for folder in scenes.needed)
    known = IMAGE_SETS[collection]
    return ((known.folders[member],), *(known.lists[member].values() if known.lists else ()))


def presence(name: str, data_root: Path | None) -> Presence:
    """Whether what a known domain consists of lies below `data_root`; no file is opened."""
    wanted = needed(name)
    if not wanted:
        return "generated"
    there = [data_root is not None and any((data_root / place).exists() for place in places) for places in wanted]
    return "present" if all(there) else "partly" if any(there) else "missing"


def _generated(name: str, member: str) -> Published:
    per_class: Mapping[str, tuple[int, ...]] = _OPTICAL
    if member == "optical":
        title = "Optical digits of scikit-learn"
    else:
        counts = {"train": embedded.TRAIN_COUNT, "test": embedded.TEST_COUNT}
        per_class = {split: (count // len(CLASSES),) * len(CLASSES) for split, count in counts.items()}
        title = "Digits rendered from fonts"
    splits = {split: sum(each) for split, each in per_class.items()}
    return Published(name, title, splits, CLASSES, "nothing: it is made where it is needed", per_class)

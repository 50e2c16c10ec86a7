"""Cityscapes (Cordts et al., CVPR 2016): `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/`, 2048 x
1024.

Label maps are `*_gtFine_labelIds.png`, as they are published, or `*_gtFine_labelTrainIds.png`, as the authors' scripts
make them (0 to 18 in the order of the 19 classes). The published test split has no labels, so `val` is the test split
here, as in all papers.
"""

from __future__ import annotations

from pathlib import Path

from dynconv.data.errors import DataError
from dynconv.data.scenes.camvid import image_files
from dynconv.data.scenes.label_maps import CITYSCAPES_19, CITYSCAPES_IDS
from dynconv.data.scenes.reading import LabelFormat, Scene, ids_to

_IMAGE = "_leftImg8bit"
_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
# Of ids, 0 to 33 are published, and -1 (the number plate), which is 255 in a file of bytes. Of trainIds 255 is void.
_IGNORED_IDS = (*range(34), 255)


def scenes(place: Path, classes: tuple[str, ...]) -> tuple[tuple[Scene, ...], tuple[Scene, ...], LabelFormat]:
    """Training frames, those of `val`, by city and name, and how their label maps are read: as the first that is found,
    labelIds before trainIds.

    Raises:
        DataError: there is no image of a split, or no label map of a training frame.
    """
    train, val = _images(place, "train"), _images(place, "val")
    candidates = ((image, suffix) for image in train for suffix in (_IDS, _TRAIN_IDS))
    suffix = next((suffix for image, suffix in candidates if _labels(place, image, suffix).is_file()), None)
    if suffix is None:
        raise DataError(
            f"cityscapes: no training image has a label map: expected {_labels(place, train[0], _IDS)}, or "
            f"*{_TRAIN_IDS}, and so on"
        )
    if suffix == _IDS:
        labels = LabelFormat("Cityscapes' labelIds", ids_to(classes, CITYSCAPES_IDS, _IGNORED_IDS))
    else:
        names = dict(enumerate(CITYSCAPES_19))
        labels = LabelFormat("Cityscapes' labelTrainIds", ids_to(classes, names, (255,)))
    train_scenes, val_scenes = (
        tuple(Scene(image, _labels(place, image, suffix)) for image in images) for images in (train, val)
    )
    return train_scenes, val_scenes, labels


def _images(place: Path, split: str) -> list[Path]:
    folder = place / "leftImg8bit" / split
    cities = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    images = [image for city in cities for image in image_files(city) if image.stem.endswith(_IMAGE)]
    if not images:
        raise DataError(f"cityscapes: {folder} holds no CITY/*{_IMAGE}.png")
    return images


def _labels(place: Path, image: Path, suffix: str) -> Path:
    city = image.parent
    return place / "gtFine" / city.parent.name / city.name / (image.stem.removesuffix(_IMAGE) + suffix)

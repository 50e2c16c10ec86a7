"""GTA5 (Richter et al., ECCV 2016): `images/NNNNN.png`, `labels/NNNNN.png`, and `split.mat` where it is.

The label maps are PNGs with a palette; the numbers behind it are Cityscapes' ids. Frames are 1914 x 1052 for the most
part and some pixels more or less for the rest. `split.mat` (MATLAB) divides the frames into training, validation and
test by their numbers; without it all of them are training frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynconv.data.errors import DataError
from dynconv.data.scenes.camvid import image_files
from dynconv.data.scenes.label_maps import CITYSCAPES_IDS
from dynconv.data.scenes.reading import LabelFormat, Scene, ids_to

SPLIT_FILE = "split.mat"
# Cityscapes' ids 0 to 33; 34 is the number plate's here (-1 there), 255 what some copies mark as void.
_IGNORED = (*range(35), 255)
# Frames by split of the published split.mat; 6,382 more are for validation.
DIVIDED = {"train": 12_403, "test": 6_181}


def label_format(classes: tuple[str, ...], *, stylised: bool = False) -> LabelFormat:
    """How GTA5's label files are read. Label maps of `stylised` images are brought to these images' size."""
    return LabelFormat("GTA5", ids_to(classes, CITYSCAPES_IDS, _IGNORED), as_image=stylised)


def scenes(place: Path, stylised: Path | None = None) -> tuple[tuple[Scene, ...], tuple[Scene, ...] | None]:
    """Training and test frames, by name; test is None without `split.mat`. Frames that it names and that are not there
    are left out.

    Args:
        place: The folder with `images` and `labels`.
        stylised: A folder of images to take in place of `images`: their stems are those of the label files (CyCADA's
            translated frames are called like the originals), their suffix and size may be others. Frames that it lacks
            are left out.

    Raises:
        DataError: a folder is empty, `split.mat` cannot be read or names no frame that is there, or a stylised image
            has no label file.
    """
    images, labels = place / "images", place / "labels"
    files = image_files(images if stylised is None else stylised)
    if not files:
        raise DataError(f"gta5: {images if stylised is None else stylised} holds no image")
    found = {file.stem: Scene(file, labels / f"{file.stem}.png") for file in files}
    first = next(iter(found.values()))
    if stylised is not None:
        known = {file.stem for file in image_files(labels)}
        if strange := sorted(set(found) - known):
            raise DataError(
                f"gta5: {len(strange)} of {len(found)} stylised images have no label map of their name in {labels}, "
                f"such as {found[strange[0]].image}: expected names as in {images}"
            )
    split = place / SPLIT_FILE
    if not split.is_file():
        return tuple(found.values()), None
    train, test = (tuple(found[stem] for stem in stems if stem in found) for stems in _published(split))
    if not train or not test:
        raise DataError(f"gta5: {split} names no training or no test frame that is there, such as {first.image.name}")
    return train, test


def _published(split: Path) -> tuple[list[str], list[str]]:
    """Stems of the training and of the test frames."""
    from scipy.io import loadmat

    try:
        numbers: dict[str, Any] = loadmat(split)
        train, test = (list(map(_stem, numbers[f"{part}Ids"].reshape(-1).tolist())) for part in ("train", "test"))
    except Exception as error:
        # scipy's reader raises TypeError, ValueError, KeyError, zlib.error and others for what is no MATLAB file.
        raise DataError(
            f"gta5: {split} cannot be read: {error or type(error).__name__}; expected MATLAB's trainIds, valIds and "
            "testIds. Without the file all frames are training frames"
        ) from error
    return train, test


def _stem(number: float) -> str:
    # MATLAB's numbers are doubles where nobody chose otherwise.
    if int(number) != number:
        raise ValueError(f"{number} is no frame's number")
    return f"{int(number):05}"

"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): `RGB/NNNNNNN.png` and `GT/LABELS/NNNNNNN.png`, 1280 x 760.

The label maps are PNGs of 16 bits and three channels. The class is in the first one, red (the last one as OpenCV reads
it), the instance in the second. There is no published division: all frames are training frames.
"""

from __future__ import annotations

from pathlib import Path

from dynconv.data.errors import DataError
from dynconv.data.scenes.camvid import image_files
from dynconv.data.scenes.label_maps import SYNTHIA_22
from dynconv.data.scenes.reading import LabelFormat, Scene, ids_to


def label_format(classes: tuple[str, ...]) -> LabelFormat:
    """How SYNTHIA's label files are read: 0 is void, 1 to 22 are `SYNTHIA_22`."""
    names = dict(enumerate(SYNTHIA_22, start=1))
    return LabelFormat("SYNTHIA-RAND-CITYSCAPES", ids_to(classes, names, (0,)), channel="red16")


def scenes(place: Path) -> tuple[Scene, ...]:
    """All frames of the folder with `RGB` and `GT/LABELS`, by name.

    Raises:
        DataError: there is no image.
    """
    files = image_files(place / "RGB")
    if not files:
        raise DataError(f"synthia: {place / 'RGB'} holds no image")
    return tuple(Scene(file, place / "GT" / "LABELS" / f"{file.stem}.png") for file in files)

"""The classes of driving scenes: their names, their colours, and what the numbers in publishers' label files mean.

A label map is uint8 (H, W): the place of each pixel's class among the domain's class names, or `IGNORE`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence

IGNORE = 255

# The 19 classes that Cityscapes (Cordts et al., CVPR 2016) is judged by, in the order of its trainIds.
CITYSCAPES_19 = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
# Those that papers judge SYNTHIA -> Cityscapes by, for SYNTHIA-RAND-CITYSCAPES hardly shows the other three.
CITYSCAPES_16 = tuple(name for name in CITYSCAPES_19 if name not in ("terrain", "truck", "train"))
CITYSCAPES_13 = tuple(name for name in CITYSCAPES_16 if name not in ("wall", "fence", "pole"))
SUBSETS: Mapping[str, tuple[str, ...]] = {"16": CITYSCAPES_16, "13": CITYSCAPES_13}

# SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): its ids 1 to 22 in their order (0 is void), under Cityscapes' names
# where the two sets have the same class. Zhang et al. (ICCV 2017) and GAM pre-train on all 22.
SYNTHIA_22 = (
    "sky",
    "building",
    "road",
    "sidewalk",
    "fence",
    "vegetation",
    "pole",
    "car",
    "traffic sign",
    "person",
    "bicycle",
    "motorcycle",
    "parking slot",
    "road work",
    "traffic light",
    "terrain",
    "rider",
    "truck",
    "bus",
    "train",
    "wall",
    "lane marking",
)

# CamVid (Brostow et al., 2008) in the 11 classes of SegNet's files (Badrinarayanan et al., 2017), in their order.
CAMVID_11 = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "signsymbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

# What "NN classes" means.
CLASS_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "22": SYNTHIA_22,
    "19": CITYSCAPES_19,
    "16": CITYSCAPES_16,
    "13": CITYSCAPES_13,
    "11": CAMVID_11,
}

# Cityscapes' ids (its labelIds files) to its class names; the ids that are missing here are judged by nobody.
CITYSCAPES_IDS: Mapping[int, str] = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}

Colour = tuple[int, int, int]

_CITYSCAPES_COLOURS: Mapping[str, Colour] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
# The colours of SegNet's pictures of CamVid.
_CAMVID_COLOURS: Mapping[str, Colour] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "signsymbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


def palette_of(classes: Sequence[str]) -> tuple[Colour, ...]:
    """A colour (red, green, blue, each 0 to 255) for each class, all different.

    Classes of which each is one of CamVid's have SegNet's colours; otherwise each has Cityscapes' colour of its name,
    and names that Cityscapes does not have get colours of their own, the same for the same `classes`.
    """
    known = _CAMVID_COLOURS if set(classes) <= set(CAMVID_11) else _CITYSCAPES_COLOURS
    taken = {known[name] for name in classes if name in known}
    fresh = (colour for colour in _hues() if colour not in taken)
    return tuple(known[name] if name in known else next(fresh) for name in classes)


def _hues() -> Iterator[Colour]:
    """Colours without end, at first far apart: hues by the golden ratio, lighter and darker in turn."""
    place = 0
    seen: set[Colour] = set()
    while True:
        hue, value = (place * 0.618034) % 1.0, (1.0, 0.75, 0.5)[place % 3]
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, value))
        place += 1
        if (red, green, blue) not in seen:
            seen.add((red, green, blue))
            yield red, green, blue

"""Names, numbers and colours of the classes of driving scenes."""

from __future__ import annotations

import pytest

from dynconv.data.scenes.label_maps import (
    CAMVID_11,
    CITYSCAPES_13,
    CITYSCAPES_16,
    CITYSCAPES_19,
    CITYSCAPES_IDS,
    CLASS_SETTINGS,
    IGNORE,
    SUBSETS,
    SYNTHIA_22,
    palette_of,
)
from dynconv.data.scenes.listing import SCENE_SETS
from dynconv.data.scenes.reading import ids_to
from dynconv.data.scenes.synthia import label_format

# The maps that adaptation papers' code has for GTA5 and Cityscapes, and for SYNTHIA: a file's id to a trainId.
GTA5_TO_TRAIN = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
GTA5_TO_TRAIN |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
SYNTHIA_TO_TRAIN = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13}
SYNTHIA_TO_TRAIN |= {18: 14, 19: 15, 20: 16, 12: 17, 11: 18}


def test_the_ids_become_the_papers_train_ids() -> None:
    cityscapes = dict(ids_to(CITYSCAPES_19, CITYSCAPES_IDS, range(35)))
    assert cityscapes == {number: GTA5_TO_TRAIN.get(number, IGNORE) for number in range(35)}
    synthia = dict(label_format(CITYSCAPES_19).indices)
    assert synthia == {number: SYNTHIA_TO_TRAIN.get(number, IGNORE) for number in range(23)}
    assert dict(label_format(SYNTHIA_22).indices) == {0: IGNORE} | {number: number - 1 for number in range(1, 23)}


def test_each_setting_has_its_number_of_different_classes() -> None:
    for setting, classes in CLASS_SETTINGS.items():
        assert len(set(classes)) == len(classes) == int(setting)
    assert set(CITYSCAPES_19) - set(CITYSCAPES_16) == {"terrain", "truck", "train"}
    assert set(CITYSCAPES_16) - set(CITYSCAPES_13) == {"wall", "fence", "pole"}
    assert SUBSETS == {"16": CITYSCAPES_16, "13": CITYSCAPES_13}
    assert set(CITYSCAPES_19) < set(SYNTHIA_22)
    for known in SCENE_SETS.values():
        assert all(classes == CLASS_SETTINGS[setting] for setting, classes in known.settings.items())


@pytest.mark.parametrize("classes", [*CLASS_SETTINGS.values(), tuple(f"class {index}" for index in range(250))])
def test_the_colours_of_the_classes_differ(classes: tuple[str, ...]) -> None:
    palette = palette_of(classes)
    assert len(set(palette)) == len(palette) == len(classes)
    assert palette == palette_of(classes)


def test_known_classes_have_their_publishers_colours() -> None:
    assert palette_of(CITYSCAPES_19)[:2] == ((128, 64, 128), (244, 35, 232))
    assert palette_of(CAMVID_11)[:2] == ((128, 128, 128), (128, 0, 0))
    # A set that is not CamVid's alone has Cityscapes' sky.
    assert palette_of(("sky", "moon"))[0] == (70, 130, 180)
    assert palette_of(("moon", "sky", "lake"))[1] == (70, 130, 180)

"""`dynconv data check` of driving scenes: what is wrong with them, each told with its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from publishers_scenes import write_camvid, write_cityscapes, write_gta5, write_synthia

from dynconv.data.check import Checking, DomainCheck
from dynconv.data.check_names import check_domains, domains_meant
from dynconv.data.findings import NOTES
from dynconv.data.scenes import gta5
from dynconv.data.scenes.listing import SCENE_SETS

# As many scenes as the tests write, under the names of the sets.
SMALL = {"gta5": {"all": 4}, "synthia": {"all": 4}, "cityscapes": {"train": 4, "test": 4}}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three sets and own scenes, small, whose counts, classes and sizes are the published ones."""
    shown = {"4": ("vegetation", "sky", "car", "road")}
    sizes = {"gta5": (38, 70), "synthia": (30, 50), "cityscapes": (32, 64)}
    for name, splits in SMALL.items():
        small = replace(SCENE_SETS[name], splits=splits, settings=shown, size=sizes[name])
        monkeypatch.setitem(SCENE_SETS, name, small)
    monkeypatch.setattr(gta5, "DIVIDED", {"train": 3, "test": 1})
    write_gta5(tmp_path / "gta5", 4)
    write_synthia(tmp_path / "synthia", 4)
    write_cityscapes(tmp_path / "cityscapes", 4)
    write_camvid(tmp_path / "own", 3)
    return tmp_path


def check(word: str, root: Path, *, subset: bool = False) -> DomainCheck:
    word = f"own={root / 'own'}" if word == "own" else word
    (found,) = check_domains([word], root, Checking(subset=subset, threads=2))
    return found


def test_sound_sets_are_sound_and_counted_by_the_scenes_that_show_a_class(root: Path) -> None:
    assert set(domains_meant([], root)) == set(SMALL)
    for name, splits in SMALL.items():
        found = check(name, root)
        assert found.sound, found.findings.lines(problems=True)
        assert {split: found.found(split) for split in splits} == splits
        assert found.counts == {split: dict.fromkeys(found.classes, 4) for split in splits}
        assert found.to_dict()["images"] == splits and not found.to_dict()["compared"]
        # GTA5's second frame is of another size, as some published ones are.
        assert dict(found.findings.counts) == ({"other sizes": 1} if name == "gta5" else {})
    own = check("own", root)
    assert own.sound and own.images == {"train": 3, "test": 3}
    assert own.counts["test"] == {"sky": 3, "road": 3, "car": 3, "tree": 3}


def test_gta5_is_held_against_the_counts_of_its_split_file(root: Path) -> None:
    shutil.rmtree(root / "gta5")
    write_gta5(root / "gta5", 4, test=1)
    found = check("gta5", root)
    assert found.sound and found.splits == found.images == {"train": 3, "test": 1}


def _image(values: object, *, size: tuple[int, ...]) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(np.full(size, values, dtype=np.uint8)).save(file)


@pytest.mark.parametrize(
    ("word", "file", "damage", "kinds", "told"),
    [
        ("gta5", "labels/00003.png", Path.unlink, {"missing file": 1}, "00003.png of the image"),
        ("gta5", "labels/00001.png", _image(23, size=(38, 68)), {"wrong image size": 1}, "68 x 38"),
        ("gta5", "labels/00001.png", _image(99, size=(38, 70)), {"unknown label": 1}, "unknown ids: 99; GTA5 has"),
        ("gta5", "images/00001.png", _image(7, size=(38, 70, 3)), {"scene of one colour": 1}, "of one colour, (7, 7"),
        ("gta5", "images/00004.png", lambda file: file.write_bytes(b"x"), {"unreadable image": 1}, "cannot be read"),
        ("gta5", "images/00004.png", Path.unlink, {"too few images": 1}, "expected 4 images, found 3"),
        ("synthia", "GT/LABELS/0000002.png", _image(1, size=(30, 50)), {"unreadable image": 1}, "is no PNG of 16-bit"),
        ("synthia", "RGB", shutil.rmtree, {"malformed layout": 1}, "not found: "),
        ("own", "testannot/1.png", Path.unlink, {"missing file": 1}, "testannot/1.png of the image"),
        ("own", "classes.txt", Path.unlink, {"malformed layout": 1}, "classes.txt cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_file(
    word: str, file: str, damage: Callable[[Path], None], kinds: Mapping[str, int], told: str, root: Path
) -> None:
    damage(root / word / file)
    found = check(word, root)
    assert {kind: count for kind, count in found.findings.counts.items() if kind not in NOTES} == kinds
    (line,) = found.findings.lines(problems=True)
    assert line.startswith(f"{word}") and told in line


def test_copies_and_lacking_classes_are_told(root: Path) -> None:
    images, labels = (root / "cityscapes" / kind for kind in ("leftImg8bit", "gtFine"))
    first = images / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png"
    shutil.copy(first, images / "val" / "munster" / "munster_000000_000019_leftImg8bit.png")
    for file in (labels / "train" / "aachen").iterdir():
        _image(23, size=(32, 64))(file)
    found = check("cityscapes", root)
    assert found.findings.counts == {"copies": 1, "missing class": 3}
    assert found.findings.labels["missing class"] == {"vegetation", "car", "road"}
    assert "1 image in the test split and in the training split" in " ".join(
        found.findings.lines(problems=False)
    ).replace("image is in", "image in")


def test_a_subset_is_a_note_where_it_is_allowed(root: Path) -> None:
    (root / "synthia" / "RGB" / "0000001.png").unlink()
    found = check("synthia", root, subset=True)
    assert found.sound and found.findings.counts == {"subset": 1}


def test_a_set_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = check("cityscapes", tmp_path)
    assert found.findings.counts == {"no such data": 1} and not found.sound


def test_the_real_camvid_is_sound(data_root: Path) -> None:
    if not (data_root / "camvid_dusk").is_dir():
        pytest.skip(f"camvid_dusk is not below {data_root}")
    found = check("camvid_dusk", data_root)
    assert found.sound and not found.findings.counts
    assert found.images == {"train": 62, "test": 62} and set(found.counts["test"]) == set(found.classes)

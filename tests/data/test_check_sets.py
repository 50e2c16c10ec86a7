"""Damage to Digit-Five, Synthetic Digits, Office-Home, VisDA-2017 and PACS is told in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked_sets import by_digit, check, cut
from PIL import Image
from publishers_digits import digits as digits_in_turn
from publishers_digits import pictures, write_digit_five, write_stack, write_syn

from dynconv.data import digits
from dynconv.data.image_sets import IMAGE_SETS

COUNTS = {"train": 24, "test": 21}
DIGITS = ("syn", *(f"digit-five:{name}" for name in ("mnist_m", "mnist", "usps", "svhn", "syn")))
IMAGES = ("office-home:art", "visda2017:validation", "pacs:photo")
FIVE = "Digit-Five"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write_syn(root, (COUNTS["train"], COUNTS["test"]))
    write_digit_five(root, (COUNTS["train"], COUNTS["test"]))
    noise = np.random.default_rng(0)
    for name in IMAGES:
        collection, _, domain = name.partition(":")
        for label in IMAGE_SETS[collection].classes:
            folder = root / IMAGE_SETS[collection].folders[domain] / label
            folder.mkdir(parents=True)
            for index in range(2):
                Image.fromarray(noise.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small sets, whose counts are the published ones."""
    for name in DIGITS:
        known = digits.DIGIT_SETS[name]
        each = by_digit(COUNTS)
        monkeypatch.setitem(
            digits.DIGIT_SETS, name, replace(known, splits=COUNTS, per_class=each if known.per_class else {})
        )
    for name in IMAGES:
        collection, _, domain = name.partition(":")
        known_images = IMAGE_SETS[collection]
        count = len(known_images.classes)
        monkeypatch.setitem(
            IMAGE_SETS,
            collection,
            replace(
                known_images,
                splits={domain: {"all": 2 * count}},
                per_class={domain: {"all": (2,) * count}} if known_images.per_class else {},
            ),
        )
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", [*DIGITS, *IMAGES])
def test_a_whole_set_is_sound_and_counted(name: str, root: Path) -> None:
    found = check(name, root)
    assert found.findings.lines(problems=True) == []
    assert {split: found.found(split) for split in found.splits} == dict(found.splits)
    # Digits of these, and Office-Home's classes, are published as totals alone.
    assert found.uncompared == (name in {"office-home:art", *DIGITS} - {"digit-five:svhn"})


def _of_classes(*labels: int) -> np.ndarray:
    found = np.where(digits_in_turn(24) == 0, 10, digits_in_turn(24))
    found[: len(labels)] = labels
    return found


def _stack(file: str, *labels: int) -> Callable[[Path], object]:
    return lambda root: write_stack(root / file, pictures(24, 32), _of_classes(*labels))


HOME, VISDA, PACS = (IMAGE_SETS[name].folders for name in ("office-home", "visda2017", "pacs"))
ART, VALIDATION, PHOTO = HOME["art"], VISDA["validation"], PACS["photo"]

DAMAGE: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    "a truncated file of Synthetic Digits": (
        "syn", cut("SynthDigits/synth_test_32x32.mat", 150), ["synth_test_32x32.mat cannot be read as a MATLAB file"],
    ),
    "a label of Synthetic Digits": (
        "syn", _stack("SynthDigits/synth_train_32x32.mat", 12), ["synth_train_32x32.mat: y: label 1 is 12"],
    ),
    "a missing file of MNIST": ("digit-five:mnist", lambda root: (root / FIVE / "mnist_data.mat").unlink(), [
        "digit-five:mnist: not found below ",
    ]),
    "a truncated file of MNIST-M": (
        "digit-five:mnist_m", cut(f"{FIVE}/mnistm_with_label.mat", 150), ["mnistm_with_label.mat cannot be read"],
    ),
    "another set's file": (
        "digit-five:usps",
        lambda root: shutil.copy(root / FIVE / "syn_number.mat", root / FIVE / "usps_28x28.mat"),
        ["usps_28x28.mat: expected the variables dataset"],
    ),
    "an empty file": ("digit-five:syn", lambda root: (root / FIVE / "syn_number.mat").write_bytes(b""), [
        "syn_number.mat is empty (0 bytes)",
    ]),
    "other labels of SVHN in Digit-Five": ("digit-five:svhn", _stack(f"{FIVE}/svhn_train_32x32.mat", 3), [
        "train, class 0: expected 3 images, found 2", "train, class 3: expected 3 images, found 4",
    ]),
    "a lost class of Office-Home": ("office-home:art", lambda root: shutil.rmtree(root / ART / "Bed"), [
        "office-home:art: expected 130 images, found 128", "class Bed: no image of this class",
    ]),
    "a cut image of Office-Home": ("office-home:art", cut(f"{ART}/Mop/1.jpg", 150), ["Mop/1.jpg cannot be read: "]),
    "a class of VisDA that is none": (
        "visda2017:validation",
        lambda root: shutil.move(root / VALIDATION / "bus", root / VALIDATION / "coach"),
        ["coach is no class", "expected 24 images, found 22", "class bus: no image of this class"],
    ),
    "an image of VisDA in another class": (
        "visda2017:validation",
        lambda root: shutil.move(root / VALIDATION / "car" / "0.jpg", root / VALIDATION / "truck" / "7.jpg"),
        ["class car: expected 2 images, found 1", "class truck: expected 2 images, found 3"],
    ),
    "too few images of PACS": ("pacs:photo", lambda root: (root / PHOTO / "dog" / "1.jpg").unlink(), [
        "pacs:photo: expected 14 images, found 13", "class dog: expected 2 images, found 1",
    ]),
    "a missing folder of PACS": ("pacs:photo", lambda root: shutil.rmtree(root / PHOTO), ["not found below "]),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told_in_words(what: str, root: Path) -> None:
    name, damage, expected = DAMAGE[what]
    damage(root)
    lines = check(name, root).findings.lines(problems=True)
    assert len(lines) == len(expected), lines
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith(name) and words in line

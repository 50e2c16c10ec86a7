"""Sets that are whole are called whole; each kind of damage is told in words, and hides no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checked_sets import CLIPART_LISTS, M_TRAIN, WEBCAM, check, cut, write_classes
from PIL import Image
from publishers_digits import digits as digits_in_turn
from publishers_digits import pictures, write_stack

from dynconv.data.findings import MOST_PER_KIND

ALL = ("mnist", "usps", "mnist_m", "svhn", "office31:webcam", "domainnet:clipart")


@pytest.mark.parametrize("name", ALL)
def test_a_whole_set_is_sound_and_counted(name: str, sets: Path) -> None:
    found = check(name, sets)
    assert found.findings.lines(problems=True) == []
    assert found.sound
    assert {split: found.found(split) for split in found.splits} == dict(found.splits)
    assert all(set(counts) == set(found.classes) for counts in found.counts.values())


def _replace(file: str, content: bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / file).write_bytes(content)

    return damage


def _change_byte(file: str, place: int, value: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = bytearray((root / file).read_bytes())
        content[place] = value
        (root / file).write_bytes(content)

    return damage


def _line(file: str, number: int, text: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        lines = (root / file).read_text().splitlines()
        lines[number - 1] = text
        (root / file).write_text("\n".join(lines) + "\n")

    return damage


def _remove(place: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink()

    return damage


def _copy(file: str, to: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        shutil.copy(root / file, root / to)

    return damage


def _empty(folder: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        for file in (root / folder).iterdir():
            file.unlink()

    return damage


def _deep(file: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        Image.fromarray(np.full((9, 8), 3000, dtype=np.uint16)).save(root / file, format="png")

    return damage


def _resize(file: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        with Image.open(root / file) as picture:
            small = picture.resize((28, 28))
        small.save(root / file)

    return damage


def _wrong_stack(root: Path) -> None:
    labels = np.where(digits_in_turn(24) == 0, 10, digits_in_turn(24))
    labels[3] = 11
    write_stack(root / "train_32x32.mat", pictures(24, 32), labels)


HTML = b"<!DOCTYPE html><html>You have exceeded the download quota</html>"
M_LIST = "mnist_m/mnist_m_train_labels.txt"
RAW = "MNIST/raw/train-{}-ubyte"

# What was done -> (the set, the doing, and for each line that must be told some of its words: no others may be).
DAMAGE: dict[str, tuple[str, Callable[[Path], None], list[tuple[str, ...]]]] = {
    "a missing file": (
        "mnist",
        _remove(RAW.format("labels-idx1")),
        [("mnist: the file ", "train-labels-idx1-ubyte is missing")],
    ),
    "a truncated file": (
        "mnist",
        cut(RAW.format("images-idx3"), 5000),
        [
            ("train-images-idx3-ubyte is cut off", "its head tells 60 x 28 x 28, that is 47,056 bytes", "has 5,000"),
            ("train-images-idx3-ubyte is not the published file",),
        ],
    ),
    "a file of another format": (
        "mnist",
        _replace(RAW.format("labels-idx1"), b"\x1f\x8b\x08\x00not unpacked"),
        [("train-labels-idx1-ubyte is no idx file of 1 dimensions",), ("is not the published file",)],
    ),
    "a wrong digest": (
        "mnist",
        _change_byte(RAW.format("images-idx3"), 999, 77),
        [("train-images-idx3-ubyte is not the published file: expected md5:", ", found md5:")],
    ),
    "a label out of range in a file": (
        "mnist",
        _change_byte(RAW.format("labels-idx1"), 8 + 4, 11),
        [
            ("train-labels-idx1-ubyte is not the published file",),
            ("mnist, train: label 4 of the train split is 11, expected 0 to 9",),
            ("mnist, train: expected 60 images, found 59",),
            ("mnist, train, class 4: expected 6 images, found 5",),
        ],
    ),
    "a web page in an archive's place": (
        "usps",
        _replace("usps.bz2", HTML),
        [("usps.bz2 is a web page, not the data: it begins with b'<!DOCTYPE ht'",)],
    ),
    "an empty archive": ("usps", _replace("usps.t.bz2", b""), [("usps.t.bz2 is empty (0 bytes)",)]),
    "another kind of archive": ("usps", _replace("usps.bz2", b"PK\x03\x04zip"), [("usps.bz2 is no bzip2 archive",)]),
    "a truncated archive": (
        "usps",
        cut("usps.bz2", 3000),
        [("usps: ", "usps.bz2 is a damaged archive: Compressed file ended before")],
    ),
    "an unknown label in a MATLAB file": (
        "svhn",
        _wrong_stack,
        [("train_32x32.mat: y: label 4 is 11: expected a digit",)],
    ),
    "a truncated MATLAB file": (
        "svhn",
        cut("test_32x32.mat", 1500),
        [("svhn: ", "test_32x32.mat: expected the variables X, y", "it may be cut short")],
    ),
    "a list that names a file that is not there": (
        "mnist_m",
        _remove(f"{M_TRAIN}/00000007.png"),
        [
            ("mnist_m, train, class 7: ", "labels.txt, line 8: the image ", "00000007.png is not there"),
            ("mnist_m, train: expected 60 images, found 59",),
            ("class 7: expected 6 images, found 5",),
        ],
    ),
    "a malformed line": (
        "mnist_m",
        _line(M_LIST, 3, "00000002.png"),
        [
            ("labels.txt, line 3: expected \"FILE.png DIGIT\", got '00000002.png'",),
            ("expected 60 images, found 59",),
            ("class 2: expected 6 images, found 5",),
        ],
    ),
    "a label out of range in a list": (
        "mnist_m",
        _line(M_LIST, 3, "00000002.png 10"),
        [
            ("mnist_m, train: ", "labels.txt, line 3: the label '10' is none of 0 to 9"),
            ("expected 60 images, found 59",),
            ("class 2: expected 6 images, found 5",),
        ],
    ),
    "a missing list": (
        "mnist_m",
        _remove("mnist_m/mnist_m_test_labels.txt"),
        [("the file ", "mnist_m_test_labels.txt is missing")],
    ),
    "an image of another size": (
        "mnist_m",
        _resize(f"{M_TRAIN}/00000005.png"),
        [("mnist_m, train, class 5: the image ", "00000005.png has 28 x 28 pixels, expected 32 x 32")],
    ),
    "an unreadable image": (
        "office31:webcam",
        cut(f"{WEBCAM}/mug/1.jpg", 300),
        [("office31:webcam, class mug: the image ", "mug/1.jpg cannot be read: ")],
    ),
    "an image of no bytes": (
        "office31:webcam",
        _replace(f"{WEBCAM}/mug/0.jpg", b""),
        [("class mug: the image ", "mug/0.jpg cannot be read: the file is empty (0 bytes)")],
    ),
    "an image that is none": (
        "office31:webcam",
        _replace(f"{WEBCAM}/bike/0.jpg", HTML),
        [("class bike: the image ", "bike/0.jpg cannot be read: ")],
    ),
    "an image of 16 bits": (
        "office31:webcam",
        _deep(f"{WEBCAM}/bike/0.jpg"),
        [("class bike: ", "bike/0.jpg has I;16 pixels: convert it to 8 bits per channel")],
    ),
    "too few images": (
        "office31:webcam",
        _remove(f"{WEBCAM}/pen/1.jpg"),
        [("office31:webcam: expected 62 images, found 61",), ("class pen: expected 2 images, found 1",)],
    ),
    "a missing class": (
        "office31:webcam",
        _remove(f"{WEBCAM}/pen"),
        [("office31:webcam: expected 62 images, found 60",), ("office31:webcam, class pen: no image of this class",)],
    ),
    "an unknown class": (
        "office31:webcam",
        lambda root: write_classes(root / WEBCAM, ("spoon",), 1),
        [("class spoon: ", "spoon is no class of the published set")],
    ),
    "an empty class folder": (
        "office31:webcam",
        _empty(f"{WEBCAM}/ruler"),
        [("class ruler: the folder ", "ruler holds no image"), ("office31:webcam: expected 62 images, found 60",)],
    ),
    "too many images": (
        "office31:webcam",
        _copy(f"{WEBCAM}/pen/0.jpg", f"{WEBCAM}/pen/7.jpg"),
        [("expected 62 images, found 63",), ("class pen: expected 2 images, found 3",)],
    ),
    "a missing list of a split": (
        "domainnet:clipart",
        _remove(f"{CLIPART_LISTS}_test.txt"),
        [("domainnet:clipart, test: the list of the split is missing: ", "clipart_test.txt or ")],
    ),
    "a number that is no class": (
        "domainnet:clipart",
        _line(f"{CLIPART_LISTS}_test.txt", 1, "clipart/aircraft_carrier/clipart_2.jpg 3"),
        [
            ("clipart_test.txt, line 1: the label '3' is no class: expected 0 to 2",),
            ("test: expected 3 images, found 2",),
            ("test, class aircraft_carrier: no image of this class",),
        ],
    ),
    "a number that is not its folder's": (
        "domainnet:clipart",
        _line(f"{CLIPART_LISTS}_test.txt", 1, "clipart/aircraft_carrier/clipart_2.jpg 1"),
        [
            ("line 1: clipart/aircraft_carrier/clipart_2.jpg has the label 1, which is airplane",),
            ("test: expected 3 images, found 2",),
            ("test, class aircraft_carrier: no image of this class",),
        ],
    ),
    "nothing at all": (
        "syn",
        lambda root: None,
        [("syn: not found below ", "SynthDigits/synth_train_32x32.mat, SynthDigits/synth_test_32x32.mat")],
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told_in_words(what: str, sets: Path) -> None:
    name, damage, expected = DAMAGE[what]
    damage(sets)
    found = check(name, sets)
    lines = found.findings.lines(problems=True)
    assert len(lines) == len(expected) == found.findings.problems, lines
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith(name)
        for word in words:
            assert word in line
    assert not found.sound


def test_one_damage_hides_no_other(sets: Path) -> None:
    for what in ("a malformed line", "an image of another size", "a list that names a file that is not there"):
        DAMAGE[what][1](sets)
    told = "\n".join(check("mnist_m", sets).findings.lines(problems=True))
    for words in ("line 3: expected", "28 x 28 pixels", "00000007.png is not there", "expected 60 images, found 58"):
        assert words in told


def test_of_many_findings_of_a_kind_the_first_are_told_and_all_are_counted(sets: Path) -> None:
    for index in range(MOST_PER_KIND + 5):
        (sets / M_TRAIN / f"{index:08d}.png").unlink()
    found = check("mnist_m", sets)
    assert found.findings.counts["list that lacks files"] == MOST_PER_KIND + 5
    lines = [line for line in found.findings.lines(problems=True) if "is not there" in line or "more" in line]
    assert len(lines) == MOST_PER_KIND + 1
    assert lines[-1] == "mnist_m: and 5 more: list that lacks files"
    assert found.to_dict()["kinds"]["list that lacks files"] == MOST_PER_KIND + 5


def test_a_subset_is_allowed_where_it_is_asked_for_and_nothing_else_is(sets: Path) -> None:
    DAMAGE["too few images"][1](sets)
    found = check("office31:webcam", sets, subset=True)
    assert found.sound
    assert found.findings.lines(problems=False) == ["office31:webcam: 61 of 62 images: a subset"]
    DAMAGE["too many images"][1](sets)
    whole = check("office31:webcam", sets, subset=True).findings
    assert not whole.problems and not whole.counts["subset"], "one taken away, one added"
    shutil.copy(sets / WEBCAM / "pen" / "0.jpg", sets / WEBCAM / "pen" / "8.jpg")
    more = check("office31:webcam", sets, subset=True).findings.lines(problems=True)
    assert more == [
        "office31:webcam: expected 62 images, found 63",
        "office31:webcam, class pen: expected 2 images, found 3",
    ]
    (sets / WEBCAM / "pen" / "8.jpg").unlink()
    for what in ("an unknown class", "an image of no bytes"):
        DAMAGE[what][1](sets)
    told = "\n".join(check("office31:webcam", sets, subset=True).findings.lines(problems=True))
    assert "class pen" not in told
    assert "spoon" in told and "0 bytes" in told
    shutil.rmtree(sets / WEBCAM / "pen")
    told = "\n".join(check("office31:webcam", sets, subset=True).findings.lines(problems=True))
    assert "class pen: no image of this class" in told

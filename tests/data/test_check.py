"""Data that is whole is called whole; each kind of damage is told in words, and hides no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from publishers_digits import digits as digits_in_turn
from publishers_digits import pictures, write_stack, write_svhn
from publishers_files import write_digits

from dynconv.data import digits
from dynconv.data.check import Checking, DomainCheck
from dynconv.data.check_names import check_domains, domains_meant
from dynconv.data.errors import DataError
from dynconv.data.findings import MOST_PER_KIND
from dynconv.data.image_sets import IMAGE_SETS

DIGITS = {"train": 60, "test": 20}
WEBCAM = "office31/webcam/images"
CLIPART = "domainnet/clipart"
LISTS = "domainnet/original/clipart"


def _write_images(folder: Path, names: tuple[str, ...], count: int, prefix: str = "") -> None:
    noise = np.random.default_rng(len(names))
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(noise.integers(0, 256, (9, 8, 3), dtype=np.uint8))
            image.save(folder / name / f"{prefix}{index}.jpg")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write_digits(root, (DIGITS["train"], DIGITS["test"]))
    write_svhn(root, (24, 21))
    _write_images(root / WEBCAM, IMAGE_SETS["office31"].classes, 2)
    classes = IMAGE_SETS["domainnet"].classes[:3]
    _write_images(root / CLIPART, classes, 3, "clipart_")
    (root / "domainnet" / "original").mkdir()
    for split, indices in (("train", (0, 1)), ("test", (2,))):
        rows = [
            f"clipart/{name}/clipart_{index}.jpg {label}" for label, name in enumerate(classes) for index in indices
        ]
        (root / f"{LISTS}_{split}.txt").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small sets, whose counts and digests are the published ones."""
    for name in ("mnist", "usps", "mnist_m", "svhn"):
        known = digits.DIGIT_SETS[name]
        splits = {"train": 24, "test": 21} if name == "svhn" else DIGITS
        each = {
            split: tuple(count // 10 + (place < count % 10) for place in range(10)) for split, count in splits.items()
        }
        sums = {file: f"md5:{md5((whole / file).read_bytes()).hexdigest()}" for file in known.files if name == "mnist"}
        monkeypatch.setitem(digits.DIGIT_SETS, name, replace(known, splits=splits, per_class=each, digests=sums))
    office, net = IMAGE_SETS["office31"], IMAGE_SETS["domainnet"]
    monkeypatch.setitem(
        IMAGE_SETS,
        "office31",
        replace(office, splits={"webcam": {"all": 62}}, per_class={"webcam": {"all": (2,) * 31}}),
    )
    monkeypatch.setitem(
        IMAGE_SETS, "domainnet", replace(net, splits={"clipart": {"train": 6, "test": 3}}, classes=net.classes[:3])
    )
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


def check(name: str, root: Path, *, subset: bool = False) -> DomainCheck:
    (found,) = check_domains([name], root, Checking(subset=subset, threads=2, cache_dir=root.parent / "cache"))
    return found


ALL = ("mnist", "usps", "mnist_m", "svhn", "office31:webcam", "domainnet:clipart")


@pytest.mark.parametrize("name", ALL)
def test_a_whole_set_is_sound_and_counted(name: str, root: Path) -> None:
    found = check(name, root)
    assert found.findings.lines(problems=True) == []
    assert found.sound
    assert {split: found.found(split) for split in found.splits} == dict(found.splits)
    assert all(set(counts) == set(found.classes) for counts in found.counts.values())


def _cut(file: str, size: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[:size])

    return damage


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
M_TRAIN, M_LIST = "mnist_m/mnist_m_train", "mnist_m/mnist_m_train_labels.txt"
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
        _cut(RAW.format("images-idx3"), 5000),
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
        _cut("usps.bz2", 3000),
        [("usps: ", "usps.bz2 is a damaged archive: Compressed file ended before")],
    ),
    "an unknown label in a MATLAB file": (
        "svhn",
        _wrong_stack,
        [("train_32x32.mat: y: label 4 is 11: expected a digit",)],
    ),
    "a truncated MATLAB file": (
        "svhn",
        _cut("test_32x32.mat", 1500),
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
        _cut(f"{WEBCAM}/mug/1.jpg", 300),
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
        lambda root: _write_images(root / WEBCAM, ("spoon",), 1),
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
        _remove(f"{LISTS}_test.txt"),
        [("domainnet:clipart, test: the list of the split is missing: ", "clipart_test.txt or ")],
    ),
    "a number that is no class": (
        "domainnet:clipart",
        _line(f"{LISTS}_test.txt", 1, "clipart/aircraft_carrier/clipart_2.jpg 3"),
        [
            ("clipart_test.txt, line 1: the label '3' is no class: expected 0 to 2",),
            ("test: expected 3 images, found 2",),
            ("test, class aircraft_carrier: no image of this class",),
        ],
    ),
    "a number that is not its folder's": (
        "domainnet:clipart",
        _line(f"{LISTS}_test.txt", 1, "clipart/aircraft_carrier/clipart_2.jpg 1"),
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
def test_damage_is_told_in_words(what: str, root: Path) -> None:
    name, damage, expected = DAMAGE[what]
    damage(root)
    found = check(name, root)
    lines = found.findings.lines(problems=True)
    assert len(lines) == len(expected) == found.findings.problems, lines
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith(name)
        for word in words:
            assert word in line
    assert not found.sound


def test_one_damage_hides_no_other(root: Path) -> None:
    for what in ("a malformed line", "an image of another size", "a list that names a file that is not there"):
        DAMAGE[what][1](root)
    told = "\n".join(check("mnist_m", root).findings.lines(problems=True))
    for words in ("line 3: expected", "28 x 28 pixels", "00000007.png is not there", "expected 60 images, found 58"):
        assert words in told


def test_of_many_findings_of_a_kind_the_first_are_told_and_all_are_counted(root: Path) -> None:
    for index in range(MOST_PER_KIND + 5):
        (root / M_TRAIN / f"{index:08d}.png").unlink()
    found = check("mnist_m", root)
    assert found.findings.counts["list that lacks files"] == MOST_PER_KIND + 5
    lines = [line for line in found.findings.lines(problems=True) if "is not there" in line or "more" in line]
    assert len(lines) == MOST_PER_KIND + 1
    assert lines[-1] == "mnist_m: and 5 more: list that lacks files"
    assert found.to_dict()["kinds"]["list that lacks files"] == MOST_PER_KIND + 5


def test_a_subset_is_allowed_where_it_is_asked_for_and_nothing_else_is(root: Path) -> None:
    DAMAGE["too few images"][1](root)
    found = check("office31:webcam", root, subset=True)
    assert found.sound
    assert found.findings.lines(problems=False) == ["office31:webcam: 61 of 62 images: a subset"]
    DAMAGE["too many images"][1](root)
    whole = check("office31:webcam", root, subset=True).findings
    assert not whole.problems and not whole.counts["subset"], "one taken away, one added"
    shutil.copy(root / WEBCAM / "pen" / "0.jpg", root / WEBCAM / "pen" / "8.jpg")
    more = check("office31:webcam", root, subset=True).findings.lines(problems=True)
    assert more == [
        "office31:webcam: expected 62 images, found 63",
        "office31:webcam, class pen: expected 2 images, found 3",
    ]
    (root / WEBCAM / "pen" / "8.jpg").unlink()
    for what in ("an unknown class", "an image of no bytes"):
        DAMAGE[what][1](root)
    told = "\n".join(check("office31:webcam", root, subset=True).findings.lines(problems=True))
    assert "class pen" not in told
    assert "spoon" in told and "0 bytes" in told
    shutil.rmtree(root / WEBCAM / "pen")
    told = "\n".join(check("office31:webcam", root, subset=True).findings.lines(problems=True))
    assert "class pen: no image of this class" in told


def test_classes_that_the_published_list_lacks_are_no_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = root / f"{LISTS}_test.txt"
    listing.write_text("\n".join(listing.read_text().splitlines()[1:]) + "\n")
    known = IMAGE_SETS["domainnet"]
    shorter = replace(known, splits={"clipart": {"train": 6, "test": 2}})
    monkeypatch.setitem(IMAGE_SETS, "domainnet", shorter)
    assert not check("domainnet:clipart", root).sound
    absent: Mapping[str, Mapping[str, tuple[str, ...]]] = {"clipart": {"test": (known.classes[0],)}}
    monkeypatch.setitem(IMAGE_SETS, "domainnet", replace(shorter, absent=absent))
    assert check("domainnet:clipart", root).sound


def notes(name: str, root: Path) -> list[str]:
    found = check(name, root)
    assert found.sound
    return found.findings.lines(problems=False)


def test_copies_are_noted_within_a_class_between_splits_and_under_other_labels(root: Path) -> None:
    folder = root / WEBCAM
    shutil.copy(folder / "mug" / "0.jpg", folder / "mug" / "1.jpg")
    (line,) = notes("office31:webcam", root)
    assert line.startswith("office31:webcam: 1 image is the copy of another, pixel for pixel, such as ")
    shutil.copy(folder / "mug" / "0.jpg", folder / "pen" / "0.jpg")
    first, second = notes("office31:webcam", root)
    assert "2 images are the copy of another" in first
    assert "one image stands under 2 classes: " in second and "(mug)" in second and "(pen)" in second
    shutil.copy(root / M_TRAIN / "00000003.png", root / "mnist_m" / "mnist_m_test" / "00000003.png")
    (line,) = notes("mnist_m", root)
    assert "1 image is in the test split and in the training split" in line


def test_images_in_arrays_are_compared_too(root: Path) -> None:
    images = pictures(24, 32)
    images[9] = images[2]
    images[5] = 40
    labels = np.where(digits_in_turn(24) == 0, 10, digits_in_turn(24))
    write_stack(root / "train_32x32.mat", images, labels)
    told = "\n".join(notes("svhn", root))
    assert "image 5 of train is of one colour, (40, 40, 40)" in told
    assert "image 2 of train (2); image 9 of train (9)" in told


def test_single_colours_and_files_that_no_one_reads_are_noted(root: Path) -> None:
    Image.new("RGB", (8, 9), (10, 20, 30)).save(root / WEBCAM / "mug" / "0.png")
    (root / WEBCAM / "mug" / "0.jpg").unlink()
    (root / WEBCAM / "mug" / "Thumbs.db").write_bytes(b"x")
    lines = notes("office31:webcam", root)
    assert len(lines) == 2
    assert "1 other file beside the images of " in lines[0] and "such as Thumbs.db" in lines[0]
    assert "mug/0.png is of one colour, (10, 20, 30)" in lines[1]


def own(place: Path, name: str = "own") -> DomainCheck:
    (found,) = check_domains([f"{name}={place}"], None, Checking())
    return found


def test_a_users_folders_and_lists_are_checked_without_a_manifest(tmp_path: Path) -> None:
    _write_images(tmp_path / "a", ("x", "y"), 3)
    assert own(tmp_path / "a").sound
    assert own(tmp_path / "a").counts == {"all": {"x": 3, "y": 3}}
    (tmp_path / "a" / "x" / "0.jpg").write_bytes(b"")
    (tmp_path / "a" / "z").mkdir()
    told = "\n".join(own(tmp_path / "a").findings.lines(problems=True))
    assert "own, class x: the image" in told and "z holds no image" in told
    (tmp_path / "a" / "list.txt").write_text("x/1.jpg 1\ny/1.jpg 2\ny/9.jpg 2\nalone\n")
    told = "\n".join(own(tmp_path / "a" / "list.txt").findings.lines(problems=True))
    assert "line 3: the image" in told and "line 4: expected" in told
    (tmp_path / "a" / "list.txt").write_text("x/1.jpg 1\ny/1.jpg 2\nx/1.jpg 2\n")
    told = "\n".join(own(tmp_path / "a" / "list.txt").findings.lines(problems=False))
    assert "one image stands under 2 classes: " in told and "x/1.jpg (1); " in told and "x/1.jpg (2)" in told
    assert "does not exist" in own(tmp_path / "nowhere").findings.lines(problems=True)[0]
    _write_images(tmp_path / "b" / "train", ("x",), 2)
    told = "\n".join(own(tmp_path / "b").findings.lines(problems=True))
    assert "none called 'test'" in told and "one class only (x)" in told
    _write_images(tmp_path / "b" / "test", ("x", "w"), 2)
    assert "own, test, class w: the training split has no such class" in own(tmp_path / "b").findings.lines(
        problems=True
    )


def test_other_classes_in_a_users_other_domain_are_told(tmp_path: Path) -> None:
    _write_images(tmp_path / "a", ("x", "y"), 2)
    _write_images(tmp_path / "b", ("x", "y", "z"), 2)
    first, second = check_domains([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"], None, Checking())
    assert "it lacks classes that the others have: z; training refuses that" in first.findings.lines(problems=True)[0]
    assert not first.sound and second.sound


def test_without_names_all_that_is_there_is_meant(root: Path, tmp_path: Path) -> None:
    found = domains_meant((), root)
    assert [name for name in found if not name.startswith("domainnet")] == [
        "mnist", "usps", "mnist_m", "svhn", "office31:webcam",
    ]  # fmt: skip
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no known data set lies below"):
        domains_meant((), tmp_path / "nothing")
    with pytest.raises(DataError, match="--data-root, or set DYNCONV_DATA"):
        check_domains(["usps"], None, Checking())
    with pytest.raises(DataError, match="is no folder"):
        check_domains(["usps"], tmp_path / "gone", Checking())


def test_progress_reaches_the_end(root: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    how = Checking(on_progress=lambda name, done, total: seen.append((name, done, total)))
    check_domains(["office31:webcam"], root, how)
    assert seen[-1] == ("office31:webcam", 62, 62)


@pytest.mark.parametrize("word", ["mnist", "usps", "office31", "mnist_m"])
def test_the_published_sets_are_sound(word: str, data_root: Path) -> None:
    how = Checking(subset=word == "mnist_m", threads=2)
    for found in check_domains(domains_meant([word], data_root), data_root, how):
        assert found.findings.lines(problems=True) == []
        if not how.subset:
            assert {split: found.found(split) for split in found.splits} == dict(found.splits)

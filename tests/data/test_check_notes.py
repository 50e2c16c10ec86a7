"""What `dynconv data check` notes, what it says of a user's own images, and what its words mean."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked_sets import CLIPART_LISTS, M_TRAIN, WEBCAM, check, write_classes
from PIL import Image
from publishers_digits import digits as digits_in_turn
from publishers_digits import pictures, write_stack

from dynconv.data.check import Checking, DomainCheck
from dynconv.data.check_names import check_domains, domains_meant
from dynconv.data.errors import DataError
from dynconv.data.image_sets import IMAGE_SETS


def test_classes_that_the_published_list_lacks_are_no_damage(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = sets / f"{CLIPART_LISTS}_test.txt"
    listing.write_text("\n".join(listing.read_text().splitlines()[1:]) + "\n")
    known = IMAGE_SETS["domainnet"]
    shorter = replace(known, splits={"clipart": {"train": 6, "test": 2}})
    monkeypatch.setitem(IMAGE_SETS, "domainnet", shorter)
    assert not check("domainnet:clipart", sets).sound
    absent: Mapping[str, Mapping[str, tuple[str, ...]]] = {"clipart": {"test": (known.classes[0],)}}
    monkeypatch.setitem(IMAGE_SETS, "domainnet", replace(shorter, absent=absent))
    assert check("domainnet:clipart", sets).sound


def notes(name: str, sets: Path) -> list[str]:
    found = check(name, sets)
    assert found.sound
    return found.findings.lines(problems=False)


def test_copies_are_noted_within_a_class_between_splits_and_under_other_labels(sets: Path) -> None:
    folder = sets / WEBCAM
    shutil.copy(folder / "mug" / "0.jpg", folder / "mug" / "1.jpg")
    (line,) = notes("office31:webcam", sets)
    assert line.startswith("office31:webcam: 1 image is the copy of another, pixel for pixel, such as ")
    shutil.copy(folder / "mug" / "0.jpg", folder / "pen" / "0.jpg")
    first, second = notes("office31:webcam", sets)
    assert "2 images are the copy of another" in first
    assert "one image stands under 2 classes: " in second and "(mug)" in second and "(pen)" in second
    shutil.copy(sets / M_TRAIN / "00000003.png", sets / "mnist_m" / "mnist_m_test" / "00000003.png")
    (line,) = notes("mnist_m", sets)
    assert "1 image is in the test split and in the training split" in line


def test_images_in_arrays_are_compared_too(sets: Path) -> None:
    images = pictures(24, 32)
    images[9] = images[2]
    images[5] = 40
    labels = np.where(digits_in_turn(24) == 0, 10, digits_in_turn(24))
    write_stack(sets / "train_32x32.mat", images, labels)
    told = "\n".join(notes("svhn", sets))
    assert "image 5 of train is of one colour, (40, 40, 40)" in told
    assert "image 2 of train (2); image 9 of train (9)" in told


def test_single_colours_and_files_that_no_one_reads_are_noted(sets: Path) -> None:
    Image.new("RGB", (8, 9), (10, 20, 30)).save(sets / WEBCAM / "mug" / "0.png")
    (sets / WEBCAM / "mug" / "0.jpg").unlink()
    (sets / WEBCAM / "mug" / "Thumbs.db").write_bytes(b"x")
    lines = notes("office31:webcam", sets)
    assert len(lines) == 2
    assert "1 other file beside the images of " in lines[0] and "such as Thumbs.db" in lines[0]
    assert "mug/0.png is of one colour, (10, 20, 30)" in lines[1]


def own(place: Path, name: str = "own") -> DomainCheck:
    (found,) = check_domains([f"{name}={place}"], None, Checking())
    return found


def test_a_users_folders_and_lists_are_checked_without_a_manifest(tmp_path: Path) -> None:
    write_classes(tmp_path / "a", ("x", "y"), 3)
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
    write_classes(tmp_path / "b" / "train", ("x",), 2)
    told = "\n".join(own(tmp_path / "b").findings.lines(problems=True))
    assert "none called 'test'" in told and "one class only (x)" in told
    write_classes(tmp_path / "b" / "test", ("x", "w"), 2)
    assert "own, test, class w: the training split has no such class" in own(tmp_path / "b").findings.lines(
        problems=True
    )


def test_other_classes_in_a_users_other_domain_are_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "a", ("x", "y"), 2)
    write_classes(tmp_path / "b", ("x", "y", "z"), 2)
    first, second = check_domains([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"], None, Checking())
    assert "it lacks classes that the others have: z; training refuses that" in first.findings.lines(problems=True)[0]
    assert not first.sound and second.sound


def test_without_names_all_that_is_there_is_meant(sets: Path, tmp_path: Path) -> None:
    found = domains_meant((), sets)
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


def test_progress_reaches_the_end(sets: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    how = Checking(on_progress=lambda name, done, total: seen.append((name, done, total)))
    check_domains(["office31:webcam"], sets, how)
    assert seen[-1] == ("office31:webcam", 62, 62)


@pytest.mark.parametrize("word", ["mnist", "usps", "office31", "mnist_m"])
def test_the_published_sets_are_sound(word: str, data_root: Path) -> None:
    how = Checking(subset=word == "mnist_m", threads=2)
    for found in check_domains(domains_meant([word], data_root), data_root, how):
        assert found.findings.lines(problems=True) == []
        if not how.subset:
            assert {split: found.found(split) for split in found.splits} == dict(found.splits)

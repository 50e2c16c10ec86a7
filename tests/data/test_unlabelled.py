"""Targets without labels: what is taken for one, what never is, and what becomes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dynconv.data import DataError, Protocol, load_domain, load_protocol
from dynconv.data.base import UNLABELLED
from dynconv.data.check import Checking
from dynconv.data.check_names import check_domains
from dynconv.data.unlabelled import unlabelled_images

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write `count` images, whose grey level is their number, into each of `folders` of tmp_path/NAME ("." itself)."""

    def write(name: str, folders: str = "cat dog", count: int = 5) -> Path:
        for word in folders.split():
            folder = tmp_path / name / word
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.new("L", (8, 8), index).save(folder / f"photo {index}.png")
        return tmp_path / name

    return write


def load(sources: Path | list[Path], target: Path, **options: Any) -> Protocol:
    paths = sources if isinstance(sources, list) else [sources]
    arguments = [f"s{index}={path}" for index, path in enumerate(paths)]
    return load_protocol(None, source=arguments, target=f"t={target}", image_size=8, **options)


def listed(place: Path, *lines: str) -> Path:
    place.write_text("\n".join(lines) + "\n")
    return place


def test_a_folder_or_a_list_of_images_alone_is_a_target_without_labels(make: Make, tmp_path: Path) -> None:
    source, flat = make("a"), make("flat", ".")
    (flat / "notes.txt").write_text("no image")
    (flat / ".thumbnails").mkdir()
    paths = listed(tmp_path / "list.txt", *(f"flat/photo {index}.png" for index in range(5)), "")
    for place in (flat, paths):
        protocol = load(source, place)
        target = protocol.target
        assert target.test is None and target.classes == protocol.sources[0].classes == ("cat", "dog")
        assert target.train.labels.tolist() == [UNLABELLED] * 5
        assert target.train.images_at(torch.arange(5))[:, 0, 4, 4].tolist() == [0, 1, 2, 3, 4]
        assert protocol.counts()["t"] == {"train": 5, "test": 0} and protocol.partial is None


def test_the_classes_are_those_that_all_sources_have(make: Make) -> None:
    sources, flat = [make("a", "cat dog eel"), make("b", "dog eel fox")], make("flat", ".")
    with pytest.raises(DataError) as caught:
        load(sources, flat)
    assert "lacks fox" in str(caught.value) and "--classes common takes the 2" in str(caught.value)
    assert "t (" not in str(caught.value), "nobody knows what the target lacks"
    protocol = load(sources, flat, class_choice="common")
    assert protocol.classes == ("dog", "eel") and len(protocol.target.train) == 5
    assert all(int(domain.train.labels.max()) == 1 for domain in protocol.sources)
    assert load(sources[0], flat, class_choice="partial").partial is None


def test_what_tells_a_class_is_never_taken_for_unlabelled(make: Make, tmp_path: Path) -> None:
    source = make("a")
    assert unlabelled_images("t", source) is None
    # A misspelt class stays an error, whatever lies beside the folders.
    for folders in ("cat dgo", ". cat dgo", "2024-05-01"):
        with pytest.raises(DataError, match="the classes of the domains differ"):
            load(source, make(f"wrong-{folders.replace(' ', '')}", folders))
    both = load(source, make("beside", ". cat dog")).target
    assert both.test is not None and sorted(both.train.labels.unique().tolist()) == [0, 1]
    with pytest.raises(DataError, match="class folder .*empty holds no image"):
        (make("hollow", ".") / "empty").mkdir()
        load(source, tmp_path / "hollow")
    labelled = listed(tmp_path / "labels.txt", "a/cat/photo 0.png cat", "a/dog/photo 1.png dog")
    assert load(source, labelled).target.train.labels.tolist() == [0, 1]
    mixed = listed(tmp_path / "mixed.txt", "a/cat/photo 0.png cat", "flat.png")
    with pytest.raises(DataError, match=r'mixed.txt, line 2: expected "path label", got'):
        load(source, mixed)


def test_translated_images_keep_the_labels_of_their_names(tmp_path: Path, make: Make) -> None:
    (tmp_path / "fake").mkdir()
    for label in ("cat", "dog"):
        Image.new("L", (8, 8)).save(tmp_path / "fake" / f"{label}_0_fake_B.png")
    assert load(make("a"), tmp_path / "fake").target.train.labels.tolist() == [0, 1]


def test_missing_images_of_a_list_are_counted(make: Make, tmp_path: Path) -> None:
    paths = listed(tmp_path / "list.txt", "a/cat/photo 0.png", "gone 1.png", "gone2.png")
    said = r"t: 2 of 3 images that .*list.txt lists, without labels, are not there: .*gone 1"
    with pytest.raises(DataError, match=said):
        load(make("a"), paths)


def test_a_word_that_ends_like_a_file_is_a_label_where_the_path_before_it_is_there(make: Make, tmp_path: Path) -> None:
    make("flat", ".")
    os.rename(tmp_path / "flat" / "photo 0.png", tmp_path / "one.png")
    assert unlabelled_images("t", listed(tmp_path / "list.txt", "one.png odd.png")) is None


def test_where_labels_are_needed_it_is_refused(make: Make) -> None:
    source, flat = make("a"), make("flat", ".")
    with pytest.raises(DataError, match=r"flat holds no folder: .*Its 5 images have no labels, as a target's may"):
        load(flat, source)
    with pytest.raises(DataError, match="Its 5 images have no labels"):
        load_domain(f"t={flat}", classes=("cat", "dog"), image_size=8)
    with pytest.raises(DataError, match="t: the images of .*flat have no labels, and are to be trained on with them"):
        load(source, flat, divide_target=True)
    # Training and test images of a target are told apart by their labels alone.
    halves = make("halves", "train test")
    with pytest.raises(DataError, match=rf"--target t={halves / 'train'}"):
        load(source, halves)


def test_a_check_opens_every_image_and_says_that_there_are_no_labels(make: Make, tmp_path: Path) -> None:
    flat = make("flat", ".")
    (check,) = check_domains([f"t={flat}"], None, Checking())
    assert check.sound and check.found("all") == 5 and check.to_dict()["images"] == {"all": 5}
    # Each is of one colour.
    assert set(check.findings.counts) == {"no labels", "one colour"}
    (flat / "photo 3.png").write_bytes(b"no image")
    (check,) = check_domains([f"t={flat}"], None, Checking())
    assert not check.sound and check.findings.counts["unreadable image"] == 1
    (check,) = check_domains([f"t={listed(tmp_path / 'list.txt', 'gone.png')}"], None, Checking())
    assert check.findings.counts == {"list that lacks files": 1}
    # Beside a labelled source it lacks no class.
    checks = check_domains([f"s={make('a')}", f"t={make('other', '.')}"], None, Checking())
    assert all(each.sound for each in checks)


def test_a_limit_and_unreadable_images_are_as_of_any_target(make: Make) -> None:
    source, flat = make("a"), make("flat", ".", count=20)
    drawn = load(source, flat, target_limit=7).target.train
    assert len(drawn) == 7 and drawn.labels.tolist() == [UNLABELLED] * 7
    (flat / "photo 3.png").write_bytes(b"no image")
    protocol = load(source, flat, skip_bad=True)
    assert len(protocol.target.train) == 19 and [each.path for each in protocol.skipped] == ["photo 3.png"]
    for file in flat.iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="t: --skip-bad would leave no image: none below .*flat can be read"):
        load(source, flat, skip_bad=True)


def test_files_of_a_flat_folder_that_are_not_read_are_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = make("flat", ".")
    (folder / "photo.heic").write_bytes(b"")
    found = unlabelled_images("t", folder)
    assert found is not None and len(found) == 5
    assert f"t: passed over what is no image by its name in {folder}: 1 .heic; read are .bmp" in caplog.text

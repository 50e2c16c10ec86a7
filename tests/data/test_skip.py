from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data import DataError, Protocol, Skipped, load_domain, load_protocol

PER_CLASS = 6


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Folders s and t with the classes cat and dog; image i of a class is filled with 20 i."""
    for name in ("s", "t"):
        for label in ("cat", "dog"):
            folder = tmp_path / "sets" / name / label
            folder.mkdir(parents=True)
            for index in range(PER_CLASS):
                pixels = np.full((8, 8, 3), 20 * index, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "sets"


def loaded(sets: Path, **options: object) -> Protocol:
    arguments = {"source": [f"s={sets / 's'}"], "target": f"t={sets / 't'}", "image_size": 8}
    return load_protocol(None, cache_dir=sets / "cache", **{**arguments, "skip_bad": True, **options})


def damage(sets: Path) -> None:
    (sets / "s" / "cat" / "3.png").write_bytes(b"")
    whole = (sets / "t" / "dog" / "1.png").read_bytes()
    (sets / "t" / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(sets / "t" / "cat" / "0.png")


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_bad_images_are_left_out_named_and_counted(sets: Path, cache: str, caplog: pytest.LogCaptureFixture) -> None:
    damage(sets)
    with caplog.at_level(logging.WARNING):
        protocol = loaded(sets, cache=cache)
    assert [(each.domain, each.path) for each in protocol.skipped] == [
        ("s", "cat/3.png"),
        ("t", "cat/0.png"),
        ("t", "dog/1.png"),
    ]
    assert all(str(sets / each.domain / each.path) in each.why for each in protocol.skipped)
    source, target = protocol.sources[0], protocol.target
    assert source.test is not None
    assert len(source.train) + len(source.test) == 2 * PER_CLASS - 1
    assert len(target.train) == 2 * PER_CLASS - 2
    shown = target.train.images_at(torch.arange(len(target.train)))[:, 0, 0, 0].tolist()
    assert shown == [20, 40, 60, 80, 100, 0, 40, 60, 80, 100], "the others are all there, in their order"
    assert target.train.labels.tolist() == [0] * 5 + [1] * 5
    assert "s: left out 1 of 12 images:" in caplog.text and "the file is empty" in caplog.text
    assert "t: left out 2 of 12 images:" in caplog.text and "I;16 pixels" in caplog.text


def test_the_same_images_are_drawn_as_from_a_folder_without_the_bad_ones(sets: Path) -> None:
    damage(sets)
    skipping = loaded(sets, source_limit=5, target_limit=5)
    for bad in skipping.skipped:
        (sets / bad.domain / bad.path).unlink()
    plain = loaded(sets, source_limit=5, target_limit=5, skip_bad=False)
    assert plain.skipped == ()
    for one, other in zip((*skipping.sources, skipping.target), (*plain.sources, plain.target), strict=True):
        assert torch.equal(one.train.labels, other.train.labels)
        every = torch.arange(len(one.train))
        assert torch.equal(one.train.images_at(every), other.train.images_at(every))


def test_where_nothing_is_bad_nothing_is_said(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert loaded(sets).skipped == ()
    assert caplog.text == ""


@pytest.mark.parametrize("cache", ["auto", "memory", "disk"])
def test_without_it_the_first_bad_image_stops_the_loading(sets: Path, cache: str) -> None:
    damage(sets)
    with pytest.raises(DataError, match=r"cat/3\.png cannot be read: the file is empty"):
        loaded(sets, cache=cache, skip_bad=False)


def test_a_class_that_would_be_lost_is_an_error(sets: Path) -> None:
    for file in (sets / "s" / "dog").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"s: --skip-bad would leave no image of dog: none of them .*dog/0\.png"):
        loaded(sets)


def test_many_bad_images_are_counted_and_the_first_of_them_named(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(30):
        (sets / "t" / "dog" / f"bad{index:02}.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert len(loaded(sets).skipped) == 30
    assert "left out 30 of 42 images" in caplog.text and "and 10 more" in caplog.text
    assert "bad19.png" in caplog.text and "bad20.png" not in caplog.text


def test_the_domain_of_an_evaluation_is_read_likewise(sets: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(sets)
    options = {"classes": ("cat", "dog"), "image_size": 8, "cache_dir": sets / "cache"}
    with pytest.raises(DataError, match="cannot be read"):
        load_domain(f"s={sets / 's'}", **options)
    domain = load_domain(f"s={sets / 's'}", skip_bad=True, **options)
    assert domain.test is not None and len(domain.test) == 2 * PER_CLASS - 1
    assert "left out 1 of 12" in caplog.text


def test_a_bad_image_has_its_place_below_the_folder_of_its_list(sets: Path) -> None:
    damage(sets)
    names = [f"{label}/{index}.png {label}" for label in ("cat", "dog") for index in range(PER_CLASS)]
    (sets / "s" / "list.txt").write_text("\n".join(names))
    protocol = loaded(sets, source=[f"s={sets / 's' / 'list.txt'}"])
    assert [each.path for each in protocol.skipped if each.domain == "s"] == ["cat/3.png"]
    assert isinstance(protocol.skipped[0], Skipped)

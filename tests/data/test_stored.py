from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import in_processes

from dynconv.data import DataError, stored
from dynconv.data.stored import StoredImages

SHAPE = (5, 5, 3)
COUNT = 10


class Maker:
    """Images made from their places, and how often each was asked for."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def one(self, place: int) -> np.ndarray:
        self.made.append(place)
        return np.full(SHAPE, 10 * place + 1, dtype=np.uint8)

    def many(self, places: Sequence[int]) -> np.ndarray:
        return np.stack([self.one(place) for place in places])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "CHUNK", 3)


def opened(root: Path, maker: Maker, recipe: object = 0, **options: Any) -> StoredImages:
    images = StoredImages(root, "x", {"recipe": recipe}, COUNT, SHAPE, maker.one)
    images.open(maker.many, **options)
    return images


def contents(images: StoredImages) -> list[int]:
    """The value of each image, which is of one colour."""
    out = np.empty(SHAPE, dtype=np.uint8)
    values = []
    for index in range(COUNT):
        images.read(index, out)
        assert (out == out[0, 0, 0]).all()
        values.append(int(out[0, 0, 0]))
    return values


WANTED = [10 * place + 1 for place in range(COUNT)]


def test_images_are_made_once_and_read_by_every_later_run(tmp_path: Path) -> None:
    maker, later = Maker(), Maker()
    assert contents(opened(tmp_path, maker)) == WANTED
    assert maker.made == list(range(COUNT))
    assert contents(opened(tmp_path, later)) == WANTED
    assert later.made == []
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".bin", ".lock"], "nothing half-written is left"


def test_another_recipe_is_another_file(tmp_path: Path) -> None:
    first, second = opened(tmp_path, Maker()), opened(tmp_path, maker := Maker(), recipe=1)
    assert first.path != second.path
    assert maker.made == list(range(COUNT))


def test_progress_tells_how_many_are_written(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    opened(tmp_path, Maker(), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]


@pytest.mark.parametrize("torn", [0, 1, 40])
def test_an_interrupted_making_goes_on_with_the_images_that_are_whole(torn: int, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, Maker(), on_progress=interrupt)
    assert not list(tmp_path.glob("*.bin")), "what is not whole does not pass for whole"
    (partial,) = tmp_path.glob("*.partial")
    if torn:
        partial.write_bytes(partial.read_bytes()[:-torn])
    maker = Maker()
    assert contents(opened(tmp_path, maker)) == WANTED
    assert maker.made == list(range(5 if torn else 6, COUNT))


def test_what_a_partial_file_holds_is_believed_by_its_checksums_alone(tmp_path: Path) -> None:
    path = opened(tmp_path, Maker()).path
    content = bytearray(path.read_bytes())
    size = len(content) // COUNT
    content[4 * size + 10] ^= 1
    path.unlink()
    path.with_name(path.name + ".partial").write_bytes(content)
    maker = Maker()
    assert contents(opened(tmp_path, maker)) == WANTED
    assert maker.made == list(range(4, COUNT))


@pytest.mark.parametrize("damage", ["truncated", "empty", "too long"])
def test_a_file_of_another_size_is_reported_and_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = opened(tmp_path, Maker()).path
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-1], "empty": b"", "too long": content + b"x"}[damage])
    with caplog.at_level(logging.WARNING):
        assert contents(opened(tmp_path, Maker())) == WANTED
    assert caplog.text.count(f"{path} is damaged") == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["pixel", "checksum", "zeros"])
def test_an_image_that_was_damaged_is_made_again_alone_and_mended(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = opened(tmp_path, Maker()).path
    whole = path.read_bytes()
    content = bytearray(whole)
    size = len(content) // COUNT
    if damage == "zeros":
        content[7 * size : 8 * size] = bytes(size)
    else:
        content[7 * size + (0 if damage == "checksum" else 20)] ^= 1
    path.write_bytes(content)
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        images = opened(tmp_path, maker)
        assert contents(images) == WANTED
        assert contents(images) == WANTED
    assert maker.made == [7]
    assert caplog.text.count("image 7 is damaged there") == 1
    assert path.read_bytes() == whole


def test_the_records_of_other_images_do_not_pass_for_these(tmp_path: Path) -> None:
    other = opened(tmp_path, Maker(), recipe=1)
    path = opened(tmp_path, Maker()).path
    shutil.copy(other.path, path)
    maker = Maker()
    assert contents(opened(tmp_path, maker)) == WANTED
    assert maker.made == list(range(COUNT))


def test_a_record_at_another_place_does_not_pass_for_the_one_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = opened(tmp_path, Maker()).path
    whole = path.read_bytes()
    records = [whole[start : start + len(whole) // COUNT] for start in range(0, len(whole), len(whole) // COUNT)]
    records[2], records[6] = records[6], records[2]
    path.write_bytes(b"".join(records))
    with caplog.at_level(logging.WARNING):
        assert contents(opened(tmp_path, Maker())) == WANTED
    assert caplog.text.count("is damaged there") == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 KB"), (9230, "9.23 KB"), (10**6, "1 MB"), (123 * 10**7, "1.23 GB")]
)
def test_sizes_are_told_in_units_that_can_be_read(count: int, words: str) -> None:
    assert stored._bytes(count) == words


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"--cache disk: .* cannot be written and read: .*DYNCONV_CACHE"):
        opened(tmp_path / "file" / "cache", Maker())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(
        DataError, match=r"has 0.001 KB of space, and the decoded images need 0.79 KB; set DYNCONV_CACHE"
    ):
        opened(tmp_path, Maker())


def test_an_unreadable_image_leaves_no_cache_that_looks_whole(tmp_path: Path) -> None:
    class Broken(Maker):
        def one(self, place: int) -> np.ndarray:
            if place == 8:
                raise DataError("x: the image 8 cannot be read")
            return super().one(place)

    with pytest.raises(DataError, match="image 8"):
        opened(tmp_path, Broken())
    assert not list(tmp_path.glob("*.bin"))


def _share(rank: int, root: Path) -> None:
    class Slow(Maker):
        def many(self, places: Sequence[int]) -> np.ndarray:
            time.sleep(0.05)
            return super().many(places)

    maker = Slow()
    assert contents(opened(root / "cache", maker)) == WANTED
    (root / f"made-{rank}").write_text(str(len(maker.made)))


def test_of_several_processes_one_makes_the_file_and_the_others_wait(tmp_path: Path) -> None:
    in_processes(3, _share, tmp_path)
    assert sorted(int(file.read_text()) for file in tmp_path.glob("made-*")) == [0, 0, COUNT]

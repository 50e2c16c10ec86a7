"""Pixels by class: counted, kept, written and read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from publishers_scenes import write_camvid, write_gta5, write_synthia

from dynconv.data.errors import DataError
from dynconv.data.scenes import frequencies
from dynconv.data.scenes.frequencies import ClassFrequencies, count_frequencies, read_frequencies
from dynconv.data.scenes.listing import list_own, list_scenes


def naive(place: Path) -> list[int]:
    """Pixels of each of CamVid's 11 numbers, and of 11."""
    counts = [0] * 12
    for file in place.iterdir():
        for row in np.array(Image.open(file)).tolist():
            for number in row:
                counts[number] += 1
    return counts


@pytest.mark.parametrize("threads", [1, 3])
def test_the_pixels_of_a_split_are_counted(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequencies, "_CHUNK", 2)
    place = write_camvid(tmp_path / "own", 5)
    listing, told = list_own("own", place), []
    for split in ("train", "test"):
        found = count_frequencies(
            listing, split, threads=threads, cache_dir=tmp_path / "cache", on_progress=lambda *done: told.append(done)
        )
        assert [*found.pixels, found.ignored] == naive(place / f"{split}annot")
        assert (found.name, found.classes, found.images) == ("own", listing.classes, 5)
    assert told == [("own", 2, 5), ("own", 4, 5), ("own", 5, 5)] * 2


def test_without_a_test_split_all_are_counted_and_no_image_is_opened(tmp_path: Path) -> None:
    for image in (write_synthia(tmp_path / "synthia", 3) / "RGB").iterdir():
        image.write_bytes(b"")
    listing = list_scenes("synthia", tmp_path)
    both = [count_frequencies(listing, split, cache_dir=tmp_path / "cache") for split in ("train", "test")]
    assert both[0] == both[1] and both[0].images == 3
    assert sum(both[0].pixels) + both[0].ignored == 3 * 30 * 50


def test_an_interrupted_counting_goes_on_and_changed_files_are_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frequencies, "_CHUNK", 2)
    listing, cache, read = list_scenes("gta5", write_gta5(tmp_path / "gta5", 5).parent), tmp_path / "cache", []
    original = frequencies.read_labels

    def noted(scene: object, *rest: object) -> object:
        read.append(scene)
        return original(scene, *rest)

    monkeypatch.setattr(frequencies, "read_labels", noted)
    content = listing.train[4].labels.read_bytes()
    listing.train[4].labels.unlink()
    with pytest.raises(DataError, match=r"labels/00005\.png of the image .* is missing"):
        count_frequencies(listing, "train", cache_dir=cache)
    listing.train[4].labels.write_bytes(content)
    read.clear()
    whole = count_frequencies(listing, "train", cache_dir=cache)
    assert read == [listing.train[4]]
    assert count_frequencies(listing, "train", cache_dir=cache) == whole and len(read) == 1
    # Another setting ignores other pixels.
    other = list_scenes("gta5", tmp_path, classes="13")
    assert count_frequencies(other, "train", cache_dir=cache) == whole.of(other.classes)
    read.clear()
    Image.fromarray(np.full((38, 70), 23, dtype=np.uint8)).save(listing.train[0].labels)
    changed = count_frequencies(listing, "train", cache_dir=cache)
    assert read == list(listing.train[:2]) and changed != whole


COUNTED = ClassFrequencies("a", ("sky", "road", "car"), (5, 7, 2), 4, 3)


def test_fewer_classes_leave_the_others_to_the_ignored() -> None:
    assert COUNTED.of(("car", "sky")) == ClassFrequencies("a", ("car", "sky"), (2, 5), 11, 3)
    with pytest.raises(DataError, match="a: no pixels are counted of moon, only of sky, road, car"):
        COUNTED.of(("moon", "sky"))


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    COUNTED.write(tmp_path / "new" / "a.json")
    assert read_frequencies(tmp_path / "new" / "a.json") == COUNTED
    keys = {"name": "a", "classes": ["sky", "road", "car"], "pixels": [5, 7, 2], "ignored": 4, "images": 3}
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == keys
    with pytest.raises(DataError, match="cannot be written"):
        COUNTED.write(tmp_path / "new" / "a.json" / "b.json")


GOOD = {"name": "a", "classes": ["x", "y"], "pixels": [1, 2], "ignored": 0, "images": 1}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("no JSON", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("9" * 5000, "cannot be read"),
        ([], "expected a JSON object of name, classes, pixels, ignored, images"),
        ({**GOOD, "more": 1}, "expected a JSON object of name"),
        ({**GOOD, "name": 3}, "expected a name, classes"),
        ({**GOOD, "pixels": [1, 2.5]}, "pixels"),
        ({**GOOD, "pixels": [1]}, "got 2 classes and 1 numbers"),
        ({**GOOD, "pixels": [1, -1]}, "0 or more each"),
        ({**GOOD, "classes": ["x", "x"]}, "different classes"),
        ({**GOOD, "ignored": None}, "one number"),
    ],
)
def test_another_file_is_no_manifest(found: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text(found if isinstance(found, str) else json.dumps(found))
    with pytest.raises(DataError, match=rf"the manifest {file}.*{message}"):
        read_frequencies(file)

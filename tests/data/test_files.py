from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynconv.data import (
    DataError,
    DomainBatches,
    ImageFiles,
    Split,
    evaluation_batches,
    load_protocol,
    normalise,
    source_validation_split,
)
from dynconv.data import files as files_module
from dynconv.data.files import CacheMode, Decoding, kept, remembered_unreadable, unreadable


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Twelve pictures of noise, half of them JPEG, of different sizes."""
    random = np.random.default_rng(0)
    files = []
    for index in range(12):
        file = tmp_path / f"{index}.{'jpg' if index % 2 else 'png'}"
        Image.fromarray(random.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)).save(file)
        files.append(file)
    return files


def test_files_give_the_images_of_the_tensor_they_stand_for(paths: list[Path]) -> None:
    decoding = Decoding(16, threads=1)
    held = kept(ImageFiles("x", paths, decoding))
    files = kept(ImageFiles("x", paths, Decoding(16, memory_limit=100)))
    assert isinstance(held, torch.Tensor) and isinstance(files, ImageFiles)
    assert files.shape == held.shape == (12, 3, 16, 16)
    order = torch.tensor([7, 0, 7, 11])
    assert torch.equal(files.images_at(order), held[order])
    assert torch.equal(files.subset(order).images_at(torch.tensor([3, 0])), held[[11, 7]])
    assert held.is_contiguous(memory_format=torch.channels_last), "crops are four times as fast so"
    assert files.images_at(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 16, 16)


def test_the_memory_limit_is_the_size_of_the_decoded_images(paths: list[Path]) -> None:
    size = 12 * 3 * 16 * 16
    assert isinstance(kept(ImageFiles("x", paths, Decoding(16, memory_limit=size))), torch.Tensor)
    assert isinstance(kept(ImageFiles("x", paths, Decoding(16, memory_limit=size - 1))), ImageFiles)


def test_threads_change_no_pixel_and_pass_errors_on(paths: list[Path]) -> None:
    every = torch.arange(12)
    one, four = (ImageFiles("x", paths, Decoding(16, threads=threads)) for threads in (1, 4))
    assert torch.equal(one.images_at(every), four.images_at(every))
    paths[5].write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x: the image .*5\.jpg cannot be read.*`dynconv data check`.*--skip-bad"):
        four.images_at(every)


def test_every_cache_gives_the_same_images(paths: list[Path], tmp_path: Path) -> None:
    def read(cache: CacheMode, threads: int = 1) -> torch.Tensor | ImageFiles:
        decoding = Decoding(16, threads=threads, memory_limit=0, cache=cache, cache_dir=tmp_path)
        return kept(ImageFiles("x", paths, decoding))

    held, stored, lazy = read("memory"), read("disk", threads=3), read("none")
    assert isinstance(held, torch.Tensor) and isinstance(read("auto"), ImageFiles)
    order = torch.tensor([7, 0, 7, 11])
    for files in (stored, lazy, read("disk")):
        assert isinstance(files, ImageFiles) and files.shape == held.shape
        assert torch.equal(files.images_at(order), held[order])
        assert torch.equal(files.subset(order).images_at(torch.tensor([3, 0])), held[[11, 7]])
        assert files.images_at(order).is_contiguous(memory_format=torch.channels_last)
        assert files.images_at(order[:0]).shape == (0, 3, 16, 16)
    assert isinstance(kept(ImageFiles("x", [], Decoding(16, cache="disk", cache_dir=tmp_path))), ImageFiles)


def test_what_the_cache_folder_holds_is_not_decoded_again_until_a_file_changes(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    plain = files_module.decode

    def counting(path: Path, *rest: object) -> np.ndarray:
        decoded.append(path)
        return plain(path, *rest)

    monkeypatch.setattr(files_module, "decode", counting)
    every = torch.arange(12)

    def images(chosen: list[Path], size: int = 16, channels: int = 3) -> torch.Tensor:
        decoded.clear()
        found = kept(ImageFiles("x", chosen, Decoding(size, channels, cache="disk", cache_dir=tmp_path)))
        assert isinstance(found, ImageFiles)
        return found.images_at(every[: len(chosen)])

    before = images(paths)
    assert decoded == paths
    assert torch.equal(images(paths), before) and decoded == []
    for different in (paths[::-1], paths[:5]):
        images(different)
        assert decoded == different
    images(paths, size=8)
    assert decoded == paths
    images(paths, channels=1)
    assert decoded == paths
    assert torch.equal(images(paths), before) and decoded == [], "each size has its own file"
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(paths[3])
    after = images(paths)
    assert decoded == paths and after[3].max() == 0
    assert torch.equal(after[4:], before[4:])


def test_passes_over_the_files_tell_how_far_they_are(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_CHUNK", 5)
    seen: list[tuple[str, int, int]] = []
    decoding = Decoding(16, cache="memory", on_progress=lambda *words: seen.append(words), cache_dir=tmp_path)
    kept(ImageFiles("x", paths, decoding))
    assert seen == [("x: decoding", 5, 12), ("x: decoding", 10, 12), ("x: decoding", 12, 12)]
    seen.clear()
    remembered_unreadable(ImageFiles("x", paths, decoding))
    assert [numbers for _, *numbers in seen] == [[5, 12], [10, 12], [12, 12]]
    seen.clear()
    kept(ImageFiles("x", paths, dataclasses.replace(decoding, cache="disk")))
    assert seen == [("x: decoding to the cache folder", 12, 12)]


@pytest.mark.parametrize("threads", [1, 3])
def test_unreadable_images_are_found_with_their_reasons(paths: list[Path], threads: int) -> None:
    paths[2].write_bytes(b"")
    paths[9].write_bytes(b"nothing")
    paths[11].unlink()
    found = unreadable(ImageFiles("x", paths, Decoding(16, threads=threads)))
    assert [place for place, _ in found] == [2, 9, 11]
    for (place, why), word in zip(found, ("empty", "no image", "No such file"), strict=True):
        assert str(paths[place]) in why and word in why


def test_which_images_are_unreadable_is_remembered_until_a_file_changes(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Path] = []
    plain = files_module.read_picture

    def counting(path: Path, *rest: object) -> torch.Tensor:
        looked_at.append(path)
        return plain(path, *rest)

    monkeypatch.setattr(files_module, "read_picture", counting)

    def bad() -> list[int]:
        looked_at.clear()
        files = ImageFiles("x", paths, Decoding(16, cache_dir=tmp_path / "cache"))
        return [place for place, _ in remembered_unreadable(files)]

    good = paths[4].read_bytes()
    paths[4].write_bytes(b"nothing")
    assert bad() == [4]
    assert bad() == [4] and looked_at == [paths[4]], "only those that were bad are tried again"
    paths[7].write_bytes(b"")
    assert bad() == [4, 7] and len(looked_at) == 12 + 2
    paths[4].write_bytes(good)
    assert bad() == [7]
    monkeypatch.setattr(files_module, "read_picture", plain)
    assert bad() == [7]


def test_a_fault_that_passed_does_not_leave_an_image_out(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = files_module.read_picture

    def failing(path: Path, *rest: object) -> torch.Tensor:
        if path == paths[4]:
            raise DataError("the disk was away")
        return plain(path, *rest)

    decoding = Decoding(16, cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files_module, "read_picture", failing)
        assert remembered_unreadable(ImageFiles("x", paths, decoding)) == [(4, "the disk was away")]
    assert remembered_unreadable(ImageFiles("x", paths, decoding)) == []


def test_wrong_options_are_refused() -> None:
    with pytest.raises(DataError, match="cache: expected one of auto, memory, disk, none, got 'ram'"):
        Decoding(16, cache="ram")
    with pytest.raises(DataError, match="threads: expected 1 or more, got 0"):
        Decoding(16, threads=0)
    with pytest.raises(DataError, match="memory_limit: .*got -1"):
        Decoding(16, memory_limit=-1)


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, object]:
    """A source and a target of 2 x 10 images, 40 x 30, of noise."""
    random = np.random.default_rng(1)
    for name in ("s", "t"):
        for label in ("cat", "dog"):
            folder = tmp_path / "sets" / name / label
            folder.mkdir(parents=True)
            for index in range(10):
                Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return {"source": [f"s={tmp_path / 'sets' / 's'}"], "target": f"t={tmp_path / 'sets' / 't'}"}


@pytest.mark.parametrize("size", [16, 224])
@pytest.mark.parametrize("cache", ["disk", "none"])
def test_a_run_sees_the_same_images_from_every_cache(
    arguments: dict[str, object], size: int, cache: CacheMode, tmp_path: Path
) -> None:
    batches, evaluated = [], []
    for mode in ("memory", cache):
        protocol = load_protocol(
            None, image_size=size, cache=mode, cache_dir=tmp_path / "cache", target_limit=15, **arguments
        )
        protocol, held_out = source_validation_split(protocol, seed=0)
        assert isinstance(protocol.target.train.images, torch.Tensor if mode == "memory" else ImageFiles)
        stream = DomainBatches(protocol, batch_size=5, seed=0, augmentation="crop-flip", class_balanced=True)
        batches.append([next(stream) for _ in range(4)])
        evaluated.append(list(evaluation_batches(held_out[0], batch_size=3)))
    for held, read in zip(*batches, strict=True):
        assert held.source.images.shape == (5, 3, size, size)
        assert torch.equal(held.source.images, read.source.images)
        assert torch.equal(held.source.labels, read.source.labels)
        assert torch.equal(held.target.images, read.target.images)
    for (held_images, held_labels), (images, labels) in zip(*evaluated, strict=True):
        assert images.shape[1:] == (3, size, size)
        assert torch.equal(held_images, images) and torch.equal(held_labels, labels)


def test_reading_ahead_goes_back_when_the_state_does(arguments: dict[str, object]) -> None:
    protocol = load_protocol(None, image_size=16, memory_limit=0, **arguments)
    stream = DomainBatches(protocol, batch_size=5, seed=0, augmentation="crop-flip")
    next(stream)
    state = stream.state_dict()
    expected = [next(stream) for _ in range(3)]
    stream.load_state_dict(state)
    for batch in expected:
        again = next(stream)
        assert torch.equal(again.source.images, batch.source.images)
        assert torch.equal(again.target.indices, batch.target.indices)


def test_a_file_that_cannot_be_read_stops_the_stream(arguments: dict[str, object], tmp_path: Path) -> None:
    protocol = load_protocol(None, image_size=16, memory_limit=0, **arguments)
    for file in (tmp_path / "sets" / "t" / "dog").iterdir():
        file.write_bytes(b"nothing")
    stream = DomainBatches(protocol, batch_size=20, seed=0)
    with pytest.raises(DataError, match=r"t: the image .*dog/\d\.png cannot be read"):
        next(stream)


@pytest.mark.parametrize("ten_crop", [False, True])
def test_an_evaluation_reads_the_next_images_while_these_are_computed(
    arguments: dict[str, object], ten_crop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = load_protocol(None, image_size=224, cache="none", **arguments).target.train
    begun = [threading.Event() for _ in range(4)]
    images_at = ImageFiles.images_at

    def telling(self: ImageFiles, indices: torch.Tensor) -> torch.Tensor:
        begun[int(indices[0]) // 5].set()
        return images_at(self, indices)

    monkeypatch.setattr(ImageFiles, "images_at", telling)
    for place, (_, labels) in enumerate(evaluation_batches(split, batch_size=5, ten_crop=ten_crop)):
        assert torch.equal(labels, split.labels[5 * place : 5 * place + 5])
        assert all(event.wait(30) for event in begun[: place + 2])
        assert not any(event.is_set() for event in begun[place + 2 :]), "one ahead, and no more"
    assert place == 3


def test_a_file_that_cannot_be_read_stops_an_evaluation_at_its_place(
    arguments: dict[str, object], tmp_path: Path
) -> None:
    split = load_protocol(None, image_size=16, cache="none", **arguments).target.train
    (tmp_path / "sets" / "t" / "dog" / "3.png").write_bytes(b"")
    seen = 0
    with pytest.raises(DataError, match=r"dog/3\.png cannot be read"):
        for _, labels in evaluation_batches(split, batch_size=4):
            seen += len(labels)
    assert seen == 12


def test_a_margin_is_cropped_from_the_centre_and_into_ten(arguments: dict[str, object]) -> None:
    split = load_protocol(None, image_size=224, **arguments).target.train
    index = torch.tensor([3, 8])
    stored = split.stored_at(index)
    assert stored.shape == (2, 3, 256, 256)
    assert torch.equal(split.images_at(index), stored[:, :, 16:240, 16:240])
    (crops, labels), *_ = evaluation_batches(split.subset(index), batch_size=4, ten_crop=True)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    for place, (top, left) in enumerate(corners):
        plain = normalise(stored[:, :, top : top + 224, left : left + 224])
        assert torch.equal(crops[:, place], plain)
    mirrored = {tuple(crop.flip(3).flatten().tolist()[:50]) for crop in crops[:, 5:].unbind(1)}
    assert mirrored == {tuple(crop.flatten().tolist()[:50]) for crop in crops[:, :5].unbind(1)}
    assert torch.equal(labels, split.labels[index])
    assert crops.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_ten_crops_need_a_margin_and_a_side_fits_its_images() -> None:
    whole = Split(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="ten_crop: the images of 8 x 8 are seen whole"):
        next(evaluation_batches(whole, batch_size=1, ten_crop=True))
    with pytest.raises(ValueError, match="side: expected 1 to the images' 8, got 9"):
        Split(whole.images, whole.labels, 9)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        next(evaluation_batches(whole, batch_size=0))

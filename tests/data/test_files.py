from __future__ import annotations

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
from dynconv.data.files import Decoding, read_images


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
    held = read_images("x", paths, decoding)
    files = read_images("x", paths, Decoding(16, memory_limit=100))
    assert isinstance(held, torch.Tensor) and isinstance(files, ImageFiles)
    assert files.shape == held.shape == (12, 3, 16, 16)
    order = torch.tensor([7, 0, 7, 11])
    assert torch.equal(files.images_at(order), held[order])
    assert torch.equal(files.subset(order).images_at(torch.tensor([3, 0])), held[[11, 7]])
    assert held.is_contiguous(memory_format=torch.channels_last), "crops are four times as fast so"
    assert files.images_at(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 16, 16)


def test_a_picture_is_squeezed_to_the_square_as_pillow_does_it(paths: list[Path]) -> None:
    (image,) = ImageFiles("x", paths, Decoding(16)).images_at(torch.tensor([4]))
    expected = Image.open(paths[4]).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_the_memory_limit_is_the_size_of_the_decoded_images(paths: list[Path]) -> None:
    size = 12 * 3 * 16 * 16
    assert isinstance(read_images("x", paths, Decoding(16, memory_limit=size)), torch.Tensor)
    assert isinstance(read_images("x", paths, Decoding(16, memory_limit=size - 1)), ImageFiles)


def test_threads_change_no_pixel_and_pass_errors_on(paths: list[Path]) -> None:
    every = torch.arange(12)
    one, four = (ImageFiles("x", paths, Decoding(16, threads=threads)) for threads in (1, 4))
    assert torch.equal(one.images_at(every), four.images_at(every))
    paths[5].write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x: the image .*5\.jpg cannot be read"):
        four.images_at(every)


def test_wrong_options_are_refused() -> None:
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
def test_a_run_sees_the_same_images_from_files_and_from_memory(arguments: dict[str, object], size: int) -> None:
    batches, evaluated = [], []
    for limit in (2**30, 0):
        protocol = load_protocol(None, image_size=size, memory_limit=limit, **arguments)
        protocol, held_out = source_validation_split(protocol, seed=0)
        assert isinstance(protocol.target.train.images, ImageFiles if limit == 0 else torch.Tensor)
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

"""A few labelled images of the target: which they are, and what is held out beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scenes import write_day_and_dusk

from dynconv.data import DataError, Domain, Protocol, Split
from dynconv.data.arrangements import supervised_by_target
from dynconv.data.few_labels import few_labelled
from dynconv.data.files import Decoding
from dynconv.data.scenes.protocol import SceneOptions, load_scene_protocol

# Of the classes a, b and c.
COUNTS = (30, 20, 10)


def protocol(origins: torch.Tensor | None = None) -> Protocol:
    """60 training images of a target, each of another grey."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    images = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()
    train = Split(images, labels)
    if origins is not None:
        train = Split(images[origins], labels[origins], origins=origins)
    domain = Domain("t", ("a", "b", "c"), train, Split(images[:3], labels[:3]))
    return supervised_by_target(Protocol("s-t", (domain,), domain))


def greys(split: Split) -> list[int]:
    found: list[int] = split.images_at(torch.arange(len(split)))[:, 0, 0, 0].tolist()
    return found


@pytest.mark.parametrize("count", [3, 7, 30, 48, 55])
def test_exactly_so_many_are_trained_on_and_others_are_held_out(count: int) -> None:
    whole = protocol()
    found, (held,) = few_labelled(whole, count, 0)
    (source,) = found.sources
    trained, judged = greys(source.train), greys(held)
    assert len(set(trained)) == len(trained) == count and not set(trained) & set(judged)
    # A fifth of the 60, or what is left.
    assert 1 <= len(set(judged)) == len(judged) <= 12
    assert len(judged) == 12 or count > 45
    assert torch.equal(source.train.labels, whole.sources[0].train.labels[trained])
    shares = torch.bincount(source.train.labels, minlength=3) - torch.tensor(COUNTS) * count / 60
    assert shares.abs().max() <= 1 and set(source.train.labels.tolist()) == {0, 1, 2}
    # The target has all its images, unlabelled or for the test.
    assert found.target is whole.target and source.test is None


def test_no_seed_draws_them_and_fewer_are_among_more() -> None:
    drawn = {count: set(greys(few_labelled(protocol(), count, 0)[0].sources[0].train)) for count in (3, 5, 10, 20, 40)}
    sizes = list(drawn)
    assert all(drawn[few] < drawn[more] for few, more in zip(sizes, sizes[1:], strict=False))
    other, (held,) = few_labelled(protocol(), 10, 7)
    assert set(greys(other.sources[0].train)) == drawn[10]
    assert greys(held) != greys(few_labelled(protocol(), 10, 0)[1][0])


def test_of_an_image_that_is_there_more_than_once_one_counts() -> None:
    repeated = protocol(torch.arange(60).repeat(4))
    found, (held,) = few_labelled(repeated, 20, 0)
    trained = greys(found.sources[0].train)
    assert len(set(trained)) == 20 == len(trained)
    assert len(set(greys(held))) == len(held) == 12 and not set(greys(held)) & set(trained)
    with pytest.raises(DataError, match="t has 60 labelled training images"):
        few_labelled(repeated, 100, 0)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (2, "labelled_images 2: t has 60 labelled training images of 3 classes, .* give at least 3"),
        (60, "labelled_images 60: t has 60 .*, and the 0 others are too few .*: give fewer, or 0 for all but"),
        (59, "the 1 others are too few to hold some out"),
        (1000, "labelled_images 1000: t has 60 .* give fewer"),
    ],
)
def test_too_few_and_too_many_are_refused(count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        few_labelled(protocol(), count, 0)


def test_scenes_are_drawn_from_all_alike(tmp_path: Path) -> None:
    root = write_day_and_dusk(tmp_path, images=8)
    options = SceneOptions(Decoding(0, threads=1))
    whole = load_scene_protocol("camvid_day-camvid_dusk", options, data_root=root, divide_target=True)
    total = len(whole.target.train)
    found, (held,) = few_labelled(supervised_by_target(whole), 2, 0)
    train = found.sources[0].train
    assert (len(train), len(held)) == (2, round(total / 5)) and len(train.label_maps_at(torch.arange(2)).unique()) > 1
    names = [{scene.image for scene in split.files.scenes} for split in (train, held)]
    assert not names[0] & names[1] and len(names[0]) == 2
    with pytest.raises(DataError, match="camvid_dusk has .*: give fewer"):
        few_labelled(supervised_by_target(whole), total - 1, 0)

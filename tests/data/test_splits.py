from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import Compose, Normalize, ToDtype

from dynconv.data import DataError, Domain, Protocol, Split, evaluation_batches, normalise, source_validation_split
from dynconv.data.draws import stratified_draw, stratified_hold_out, uniform_draw
from dynconv.data.normalise import IMAGENET_DEVIATION, IMAGENET_MEAN

LABELS = torch.tensor([0] * 50 + [1] * 20 + [2] * 5 + [3] * 2 + [4])


def make_split(labels: torch.Tensor) -> Split:
    """Image n is filled with the value n, so that it can be recognised."""
    values = torch.arange(labels.numel(), dtype=torch.uint8)
    return Split(values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), labels)


def test_a_hold_out_takes_a_fifth_of_each_class_and_keeps_single_images() -> None:
    kept, held = stratified_hold_out(LABELS, seed=0)
    assert torch.bincount(LABELS[held], minlength=5).tolist() == [10, 4, 1, 1, 0]
    assert torch.cat([kept, held]).sort().values.tolist() == list(range(LABELS.numel()))


def test_a_hold_out_follows_its_seed() -> None:
    assert torch.equal(stratified_hold_out(LABELS, 3)[1], stratified_hold_out(LABELS, 3)[1])
    assert not torch.equal(stratified_hold_out(LABELS, 3)[1], stratified_hold_out(LABELS, 4)[1])


@pytest.mark.parametrize("count", [5, 17, 40, 78])
def test_a_stratified_draw_keeps_every_class_and_its_share(count: int) -> None:
    drawn = stratified_draw(LABELS, count, seed=1)
    counts = torch.bincount(LABELS[drawn], minlength=5)
    assert drawn.unique().numel() == count
    assert int(counts.min()) >= 1
    if count >= 17:
        share = torch.bincount(LABELS) * count / LABELS.numel()
        assert float((counts - share).abs().max()) <= 2


def test_a_stratified_draw_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(DataError, match="5 classes"):
        stratified_draw(LABELS, 4, seed=0)


def test_a_uniform_draw_has_no_repeats_and_follows_its_seed() -> None:
    drawn = uniform_draw(100, 30, seed=0)
    assert drawn.unique().numel() == 30
    assert int(drawn.max()) > 60, "drawn from the whole, not from its head"
    assert not torch.equal(drawn, uniform_draw(100, 30, seed=1))


def test_source_validation_is_taken_from_the_training_split_alone() -> None:
    source = Domain("a", tuple("01234"), make_split(LABELS), make_split(LABELS[:7]))
    protocol = Protocol("a-b", (source,), Domain("b", tuple("01234"), make_split(LABELS), None))
    smaller, held = source_validation_split(protocol, seed=0)

    def identities(split: Split) -> set[int]:
        return set(split.images[:, 0, 0, 0].tolist())

    training = smaller.sources[0].train
    assert identities(training) | identities(held[0]) == set(range(78))
    assert not identities(training) & identities(held[0])
    assert torch.equal(held[0].labels, LABELS[held[0].images[:, 0, 0, 0].long()])
    assert smaller.sources[0].test is source.test
    assert smaller.target is protocol.target
    assert smaller.counts() == {"a": {"train": 62, "test": 7}, "b": {"train": 78, "test": 0}}


def test_source_validation_refuses_a_source_with_one_image_per_class() -> None:
    source = Domain("lonely", tuple("01"), make_split(torch.tensor([0, 1])), None)
    with pytest.raises(DataError, match="lonely"):
        source_validation_split(Protocol("p", (source,), source), seed=0)


def test_a_subset_of_replicated_grey_images_stays_a_view() -> None:
    grey = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    split = Split(grey.expand(-1, 3, -1, -1), torch.arange(6)).subset(torch.tensor([4, 1]))
    assert split.images.shape == (2, 3, 4, 4)
    assert split.images.untyped_storage().nbytes() == 2 * 16
    assert split.images[:, 2, 0, 0].tolist() == [4, 1]
    assert split.labels.tolist() == [4, 1]


def test_normalise_maps_bytes_to_minus_one_to_one_in_channels_last() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1).expand(-1, 3, 2, 2)
    values = normalise(images)
    assert values.dtype == torch.float32
    assert values.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(values[:, 1, 1, 1], torch.tensor([-1.0, 1.0, -0.6]))


def test_imagenet_normalisation_is_torchvisions() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.int64).remainder(256).to(torch.uint8).view(2, 3, 8, 8)
    transform = Compose([ToDtype(torch.float32, scale=True), Normalize(IMAGENET_MEAN, IMAGENET_DEVIATION)])
    values = normalise(images, normalisation="imagenet")
    torch.testing.assert_close(values, transform(images))
    assert values.is_contiguous(memory_format=torch.channels_last)
    (batch, _), *_ = evaluation_batches(
        Split(images, torch.zeros(2, dtype=torch.int64)), batch_size=2, normalisation="imagenet"
    )
    assert torch.equal(batch, values)


def test_unit_normalisation_is_that_of_torchvisions_tensors() -> None:
    images = torch.arange(2 * 3 * 16 * 8, dtype=torch.int64).remainder(256).to(torch.uint8).view(2, 3, 16, 8)
    values = normalise(images, normalisation="unit")
    torch.testing.assert_close(values, ToDtype(torch.float32, scale=True)(images), rtol=1e-6, atol=0)
    assert values.is_contiguous(memory_format=torch.channels_last)


def test_an_unknown_normalisation_and_grey_images_for_imagenet_are_refused() -> None:
    images = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="normalisation: expected one of half, imagenet, unit, got 'none'"):
        normalise(images, normalisation="none")
    with pytest.raises(ValueError, match="'imagenet' is for three channels"):
        normalise(images, normalisation="imagenet")


def test_evaluation_batches_give_every_image_once_and_in_order() -> None:
    split = make_split(LABELS)
    batches = list(evaluation_batches(split, batch_size=32))
    assert [labels.numel() for _, labels in batches] == [32, 32, 14]
    assert torch.equal(torch.cat([labels for _, labels in batches]), LABELS)
    assert torch.equal(torch.cat([images for images, _ in batches]), normalise(split.images))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "images"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels"),
    ],
)
def test_a_split_refuses_other_types_and_shapes(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(images, labels)

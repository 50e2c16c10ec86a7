from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import CenterCrop
from torchvision.transforms.v2.functional import resized_crop

from dynconv.data.augment import CROP_RATIO, Augmentation, augment, centre_crop, random_boxes


def pictures(count: int, side: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def made(images: torch.Tensor, side: int, augmentation: Augmentation, seed: int = 0) -> torch.Tensor:
    return augment(images, (side, side), augmentation, np.random.default_rng(seed), scale=(0.08, 1.0))


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop-flip"])
@pytest.mark.parametrize(("stored", "side"), [(20, 20), (20, 15)])
def test_the_result_has_the_size_asked_for_and_leaves_the_images_alone(
    augmentation: Augmentation, stored: int, side: int
) -> None:
    images = pictures(8, stored)
    before = images.clone()
    result = made(images, side, augmentation)
    assert result.shape == (8, 3, side, side)
    assert result.dtype == torch.uint8
    assert torch.equal(images, before)


def test_only_the_generator_decides() -> None:
    images = pictures(8, 20)
    state = torch.get_rng_state()
    assert torch.equal(made(images, 20, "crop-flip", 3), made(images, 20, "crop-flip", 3))
    assert not torch.equal(made(images, 20, "crop-flip", 3), made(images, 20, "crop-flip", 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop-flip"])
def test_each_image_is_as_it_would_be_among_all_of_them(augmentation: Augmentation) -> None:
    images = pictures(8, 20)
    whole = made(images, 15, augmentation)
    for first, last in ((0, 3), (3, 8), (5, 5)):
        generator = np.random.default_rng(0)
        part = augment(images[first:last], (15, 15), augmentation, generator, scale=(0.08, 1.0), places=(first, 8))
        assert torch.equal(part, whole[first:last])


def test_none_is_the_centre_as_torchvision_takes_it() -> None:
    images = pictures(2, 21)
    for side in (21, 20, 14, 1):
        assert torch.equal(made(images, side, "none"), CenterCrop(side)(images))
        assert torch.equal(centre_crop(images, (side, 5)), CenterCrop((side, 5))(images))


def test_flip_mirrors_about_half_of_the_images_and_changes_nothing_else() -> None:
    images = pictures(400, 6)
    result = made(images, 4, "flip")
    centre = images[:, :, 1:5, 1:5]
    same = (result == centre).flatten(1).all(dim=1)
    mirrored = (result == centre.flip(3)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 160 < int(mirrored.sum()) < 240


def test_a_random_part_is_torchvisions_resized_crop_of_its_box() -> None:
    images = pictures(16, 40)
    boxes = random_boxes(16, 40, 40, np.random.default_rng(5), (0.08, 1.0))
    result = made(images, 32, "crop-flip", 5)
    for image, box, found in zip(images, boxes.tolist(), result, strict=True):
        expected = resized_crop(image, *box, [32, 32], antialias=True)
        # The rounding of the kernels for the two memory layouts differs in places by one level.
        distances = [int((found.int() - one.int()).abs().max()) for one in (expected, expected.flip(2))]
        assert min(distances) <= 1


def test_boxes_lie_inside_with_areas_and_ratios_in_their_ranges() -> None:
    top, left, tall, wide = random_boxes(20000, 60, 80, np.random.default_rng(0), (0.2, 0.6)).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= 60).all() and (left + wide <= 80).all()
    # Sides are whole pixels, so areas and ratios overstep by as much as half a pixel gives.
    share = tall * wide / (60 * 80)
    assert 0.18 < share.min() < 0.22 and 0.57 < share.max() < 0.62
    ratio = wide / tall
    assert 0.71 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.4
    assert abs(share.mean() - 0.4) < 0.01
    assert abs(np.log(ratio).mean()) < 0.02
    assert set(np.unique(top[tall == 30])) == set(range(31)), "every place that fits is drawn"


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10)])
def test_where_nothing_fits_the_largest_centred_box_is_taken(height: int, width: int) -> None:
    (box,) = random_boxes(1, height, width, np.random.default_rng(0), (1.0, 1.0)).tolist()
    top, left, tall, wide = box
    assert min(tall, wide) == 10
    assert max(tall, wide) == pytest.approx(10 * CROP_RATIO[1], abs=0.51)
    assert top == (height - tall) // 2 and left == (width - wide) // 2

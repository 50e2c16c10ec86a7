"""Predictions window by window and band by band are those of the whole image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dynconv.engine import windows
from dynconv.engine.windows import windowed_scores
from dynconv.metrics.segmentation import IGNORE


def pointwise(classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, classes, 1)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def whole(predict: nn.Module, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    with torch.no_grad():
        scores = predict(images)
        if size is not None:
            scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        return scores.max(dim=1).indices.to(torch.uint8)


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operator gives."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        for each in given if isinstance(given, tuple | list) else (given,):
            if isinstance(each, Tensor):
                # A view stands for what it keeps alive.
                self.largest = max(self.largest, each.untyped_storage().nbytes() // each.element_size())
        return given


@pytest.mark.parametrize("window", [None, (16, 16), (8, 32), (64, 64), (24, 16)])
@pytest.mark.parametrize("sides", [(32, 48), (37, 45), (8, 50), (16, 16)])
@pytest.mark.parametrize("size", [None, (80, 91), (20, 23)])
def test_a_pointwise_network_says_what_it_says_of_the_whole_image(
    window: tuple[int, int] | None, sides: tuple[int, int], size: tuple[int, int] | None
) -> None:
    predict, images = pointwise(), drawn(3, 3, *sides)
    found = windowed_scores(predict, images, window=window, multiple=8, size=size)
    assert found.dtype == torch.uint8 and not found.requires_grad
    assert torch.equal(found, whole(predict, images, size))


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("size", [(300, 20), (31, 90), (33, 47), (64, 96), (5, 7)])
def test_bands_of_any_height_are_the_whole_interpolation(
    rows: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, images = pointwise(), drawn(2, 3, 33, 47)
    monkeypatch.setattr(windows, "BAND", rows * 2 * 7 * max(size[1], 47))
    for window in (None, (8, 16)):
        found = windowed_scores(predict, images, window=window, multiple=1, size=size)
        assert torch.equal(found, whole(predict, images, size))


def test_a_pixel_has_the_mean_of_all_windows_it_is_in() -> None:
    # Each window votes for class 1 with a weight of its own place: the mean alone decides.
    images = torch.zeros(1, 3, 8, 20)
    images[:, 0] = torch.arange(20.0)
    seen: list[int] = []

    def predict(part: Tensor) -> Tensor:
        assert part.shape[-2:] == (8, 8)
        seen.append(int(part[0, 0, 0, 0]))
        votes = {0: 1.0, 4: -2.0, 8: 5.0, 12: -4.0}[seen[-1]]
        return torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), votes)], dim=1)

    (found,) = windowed_scores(predict, images, window=(8, 8), multiple=4)
    assert seen == [0, 4, 8, 12]
    # 1; 1 and -2; -2 and 5; 5 and -4; -4, four columns each.
    assert found[0].tolist() == [1] * 4 + [0] * 4 + [1] * 4 + [1] * 4 + [0] * 4
    assert (found == found[0]).all()


def test_rows_of_windows_are_averaged_as_columns_are() -> None:
    torch.manual_seed(0)
    # What it says of a pixel depends on the window: windows of a border pad with zeros.
    predict, images = nn.Conv2d(3, 5, 5, padding=2), drawn(2, 3, 26, 21)
    sums, counts = torch.zeros(2, 5, 26, 21), torch.zeros(26, 21)
    with torch.no_grad():
        for top in (0, 4, 8, 12, 16, 18):
            for left in (0, 3, 6, 9, 12, 15):
                part = (..., slice(top, top + 8), slice(left, left + 6))
                sums[part] += predict(images[part])
                counts[part] += 1
    found = windowed_scores(predict, images, window=(8, 6), multiple=1, size=(40, 33))
    scores = F.interpolate(sums / counts, size=(40, 33), mode="bilinear", align_corners=False)
    assert torch.equal(found, scores.argmax(dim=1).to(torch.uint8))


def test_the_network_sees_multiples_and_borders_that_go_on() -> None:
    images, seen = drawn(2, 3, 13, 18), []

    def predict(part: Tensor) -> Tensor:
        seen.append(part)
        return part

    assert windowed_scores(predict, images, window=None, multiple=8).shape == (2, 13, 18)
    (part,) = seen
    assert part.shape == (2, 3, 16, 24)
    assert torch.equal(part[..., :13, :18], images)
    assert torch.equal(part[..., 13:, :18], images[..., -1:, :].expand(-1, -1, 3, -1))
    assert torch.equal(part[..., :13, 18:], images[..., -1:].expand(-1, -1, -1, 6))


def test_a_whole_label_maps_scores_are_never_held() -> None:
    predict, images, size = pointwise(19), drawn(1, 3, 32, 64), (256, 512)
    for window, bound in ((None, 19 * 32 * 64), ((16, 16), 19 * 17 * 64)):
        band = 16 * 19 * size[1]
        with pytest.MonkeyPatch.context() as patch, LargestTensor() as memory:
            patch.setattr(windows, "BAND", band)
            found = windowed_scores(predict, images, window=window, multiple=8, size=size)
        assert memory.largest <= max(bound, band, size[0] * size[1])
        assert torch.equal(found, whole(predict, images, size))


def test_windows_of_a_large_image_hold_one_row_of_them() -> None:
    predict, images = pointwise(19), drawn(1, 3, 512, 64)
    with LargestTensor() as memory:
        windowed_scores(predict, images, window=(32, 32), multiple=8)
    assert memory.largest <= 512 * 64 * 3
    assert 4 * memory.largest < 19 * 512 * 64


def test_half_precision_is_summed_in_float32() -> None:
    # 2048 + 1 is 2048 in float16.
    scores = iter([torch.tensor([2048.0, 2048.0]), torch.tensor([0.0, 1.0])])

    def predict(part: Tensor) -> Tensor:
        return next(scores).half()[None, :, None, None].expand(1, 2, 4, 4)

    (found,) = windowed_scores(predict, torch.zeros(1, 3, 4, 6), window=(4, 4), multiple=1)
    assert found[0].tolist() == [0, 0, 1, 1, 1, 1]


def test_scores_that_are_not_finite_are_no_class() -> None:
    images = torch.zeros(1, 3, 8, 8)
    broken = {(2, 3): "nan", (5, 6): "inf", (7, 0): "-inf"}
    for (row, column), value in broken.items():
        images[0, 1, row, column] = float(value)
    (found,) = windowed_scores(lambda part: part, images, window=None, multiple=8)
    assert [tuple(place) for place in (found == IGNORE).nonzero().tolist()] == sorted(broken)


@pytest.mark.parametrize(
    ("options", "classes", "message"),
    [
        ({"window": (8, 12)}, 2, "window: expected multiples of 8 .*8 x 12"),
        ({"window": (0, 8)}, 2, "window: expected a height and a width of at least 1, got 0 x 8"),
        ({"window": None, "size": (8, 0)}, 2, "size: expected a height and a width of at least 1, got 8 x 0"),
        ({"window": None}, 256, "predict: expected at most 255 classes, got 256"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        windowed_scores(pointwise(classes), torch.zeros(1, 3, 16, 16), multiple=8, **options)


def test_scores_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected scores \(2, C, 16, 24\) of images \(2, 3, 16, 24\), got \(2, 3, 8"):
        windowed_scores(lambda part: part[..., ::2, ::2], torch.zeros(2, 3, 16, 24), window=None, multiple=8)

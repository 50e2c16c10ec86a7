"""Class predictions of whole images in bounded memory: window by window, and enlarged band by band.

A label map of Cityscapes has 1024 x 2048 pixels: scores of 19 classes for one such image are 159 MB, and interpolating
to them needs as much again. Here the scores of one row of windows at most, or those of the whole image at the size that
the network saw it in, are held, and of the enlarged scores one band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv.metrics.segmentation import IGNORE

# Enlarged scores that are held at a time: 64 MiB of float32, 400 rows of 2048 pixels and 19 classes. Smaller bands cost
# nothing to speak of, larger ones gain nothing.
BAND = 2**24


@torch.no_grad()
def windowed_scores(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    window: tuple[int, int] | None,
    multiple: int,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The class with the highest score of every pixel.

    Images whose sides are no multiples of `multiple` are padded on the right and below by their border pixels, whose
    scores are thrown away. Windows overlap by half, the last ones end at the border, and a pixel has the mean of the
    scores of all windows it is in. `size` takes the scores to another size bilinearly, as
    `interpolate(align_corners=False)` does, before the class is chosen.

    Args:
        predict: Images (B, 3, h, w), h and w multiples of `multiple`, to scores (B, C, h, w), C at most 255.
        images: (B, 3, H, W), as `predict` takes them.
        window: Height and width that `predict` is given, multiples of `multiple`; a side beyond the image's is as
            that. None for the whole image.
        multiple: What the sides of the network's images are multiples of.
        size: Height and width of the predictions; None for the images'.

    Returns:
        uint8 (B, H', W'), on the device of the scores; 255 where a score is not finite.

    Raises:
        ValueError: A side of `window` is no multiple of `multiple`, a side of `window` or `size` is below 1, or
            `predict` gives scores of another shape.
    """
    height, width = images.shape[-2:]
    _check_sides("size", size)
    _check_sides("window", window)
    if window is not None and any(side % multiple for side in window):
        raise ValueError(f"window: expected multiples of {multiple} (the network's), got {window[0]} x {window[1]}")
    padded = _padded(images, multiple)
    whole = (padded.shape[-2], padded.shape[-1])
    sides = whole if window is None else (min(window[0], whole[0]), min(window[1], whole[1]))
    strips = (strip[..., :width] for strip in _strips(predict, padded, sides))
    return torch.cat(list(_bands(strips, height, size or (height, width))), dim=1)


def _check_sides(name: str, sides: tuple[int, int] | None) -> None:
    if sides is not None and min(sides) < 1:
        raise ValueError(f"{name}: expected a height and a width of at least 1, got {sides[0]} x {sides[1]}")


def _padded(images: Tensor, multiple: int) -> Tensor:
    height, width = images.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def _starts(side: int, window: int) -> list[int]:
    """Where windows begin: every half window, and the last at the end."""
    step = max(window // 2, 1)
    return [*range(0, side - window, step), side - window]


def _coverage(side: int, window: int, device: torch.device) -> Tensor:
    """float32 (side,): in how many windows a place is."""
    counts = torch.zeros(side, device=device)
    for start in _starts(side, window):
        counts[start : start + window] += 1
    return counts


def _strips(predict: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int]) -> Iterator[Tensor]:
    """The images' mean scores float32 (B, C, rows, W) from the top downwards, each row as soon as no window below has
    it."""
    height, width = images.shape[-2:]
    if window == (height, width):
        # As it is: the mean of one is itself, and a second copy of a scene's scores would be 159 MB.
        yield _checked_scores(predict, images).float()
        return
    tops = _starts(height, window[0])
    unfinished: Tensor | None = None
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        sums = _across(predict, images[..., top : top + window[0], :], window)
        if unfinished is not None:
            sums[..., : unfinished.shape[-2], :] += unfinished
        done = following - top
        unfinished = sums[..., done:, :]
        rows = _coverage(height, window[0], sums.device)[top:following, None]
        columns = _coverage(width, window[1], sums.device)
        # One division: the mean of equal scores is that score to the last bit, so that ties stay ties.
        yield sums[..., :done, :] / (rows * columns)


def _across(predict: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int]) -> Tensor:
    """The sums float32 (B, C, h, W) of the scores of a row of windows, whose height is that of `images`."""
    width = images.shape[-1]
    first, *others = _starts(width, window[1])
    scores = _checked_scores(predict, images[..., first : first + window[1]])
    if window[1] == width:
        return scores.float()
    sums = scores.new_zeros((*scores.shape[:3], width), dtype=torch.float32)
    sums[..., first : first + window[1]] = scores
    for left in others:
        sums[..., left : left + window[1]] += _checked_scores(predict, images[..., left : left + window[1]])
    return sums


def _checked_scores(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    scores = predict(images)
    if scores.dim() != 4 or len(scores) != len(images) or scores.shape[-2:] != images.shape[-2:]:
        raise ValueError(
            f"predict: expected scores ({len(images)}, C, {images.shape[-2]}, {images.shape[-1]}) of images "
            f"{tuple(images.shape)}, got {tuple(scores.shape)}"
        )
    if scores.shape[1] > IGNORE:
        raise ValueError(f"predict: expected at most {IGNORE} classes, got {scores.shape[1]}")
    return scores


def _bands(strips: Iterator[Tensor], height: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """Predictions uint8 (B, rows, W') from the top downwards; of the strips' rows the first `height` count."""
    held: Tensor | None = None
    first = done = 0
    for strip in strips:
        held = strip if held is None else torch.cat([held, strip], dim=2)
        above, below, weight = _neighbours(height, size[0], held.device)
        end = first + held.shape[2]
        ready = int((below < end).sum())
        most = max(BAND // (held.shape[0] * held.shape[1] * max(size[1], held.shape[3])), 1)
        for start in range(done, ready, most):
            rows = slice(start, min(start + most, ready))
            if size[0] == height:
                scores = held[:, :, rows.start - first : rows.stop - first]
            else:
                upper, lower = held[:, :, above[rows] - first], held[:, :, below[rows] - first]
                scores = torch.lerp(upper, lower, weight[rows, None])
            if size[1] != scores.shape[3]:
                scores = F.interpolate(scores, size=(scores.shape[2], size[1]), mode="bilinear", align_corners=False)
            # On a CPU five times as fast as argmax, and these two as isfinite, of scores whose classes lie apart.
            best, classes = scores.max(dim=1)
            finite = best.isfinite() & scores.amin(dim=1).isfinite()
            yield classes.to(torch.uint8).masked_fill_(~finite, IGNORE)
        done = ready
        if done < size[0]:
            # Of a smaller map the next row may lie in a strip that is still to come.
            over = min(int(above[done]) - first, held.shape[2])
            held, first = held[:, :, over:], first + over


def _neighbours(height: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of `size` rows made from `height`: the rows above and below each, and the weight of the one below, as
    `interpolate(align_corners=False)` has them."""
    places = ((torch.arange(size, device=device, dtype=torch.float64) + 0.5) * height / size - 0.5).clamp(min=0)
    above = places.floor().long().clamp(max=height - 1)
    return above, (above + 1).clamp(max=height - 1), (places - above).float()

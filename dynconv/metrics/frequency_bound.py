"""The best that label maps can score if their classes come as often as the source's: GAM's oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class FrequencyBound(NamedTuple):
    """Upper bounds of the measures in `dynconv.metrics.segmentation`; all figures are shares of 1."""

    iou_of: tuple[float | None, ...]
    """Of each class; None where it has no pixel in either domain."""
    mean_iou: float
    """Mean of `iou_of` over the classes that have one."""
    frequency_weighted_iou: float
    """Sum of `iou_of`, each times its class's share of the target's pixels."""
    pixel_accuracy: float
    """Share of the target's pixels."""
    class_accuracy: float
    """Mean over the classes that the target has."""


def frequency_bound(source: Sequence[int], target: Sequence[int]) -> FrequencyBound:
    """Bounds for a classifier that gives each class as many pixels as the source has of it.

    GAM (Huang et al., ECCV 2018, section 5.3): with s_l and t_l the shares of class l among the labelled pixels of
    source and target, at most min(s_l, t_l) of the pixels can be in class l and be given it, and its union is what s_l
    and t_l have beside that:

        IoU_l <= min(s_l, t_l) / (s_l + t_l - min(s_l, t_l)) = min(s_l, t_l) / max(s_l, t_l)
        pixel accuracy <= sum_l min(s_l, t_l)          class accuracy <= mean_l min(s_l, t_l) / t_l

    The paper prints max for min in the intersection, which would make every IoU 1 or more. It has no formula for the
    frequency-weighted IoU; ours is sum_l t_l IoU_l. A class that one domain lacks has the bound 0. The bounds
    hold for this classifier alone: one that learns the target's frequencies may exceed them.

    Args:
        source: Pixels of each class in the source domain, C numbers.
        target: The same in the target domain.

    Raises:
        ValueError: Two numbers of classes, a negative number, or a domain without a pixel.
    """
    if len(source) != len(target):
        raise ValueError(f"source, target: expected the same classes, got {len(source)} and {len(target)} of them")
    for name, pixels in (("source", source), ("target", target)):
        if any(count < 0 for count in pixels) or not sum(pixels):
            raise ValueError(f"{name}: expected numbers of pixels, 0 or more and not all 0, got {list(pixels)}")
    have, want = ([count / sum(pixels) for count in pixels] for pixels in (source, target))
    shared = [min(pair) for pair in zip(have, want, strict=True)]
    unions = [max(pair) for pair in zip(have, want, strict=True)]
    iou_of = tuple(part / whole if whole else None for part, whole in zip(shared, unions, strict=True))
    known = [iou for iou in iou_of if iou is not None]
    recalls = [part / share for part, share in zip(shared, want, strict=True) if share]
    return FrequencyBound(
        iou_of,
        sum(known) / len(known),
        sum(share * iou for share, iou in zip(want, iou_of, strict=True) if iou is not None),
        sum(shared),
        sum(recalls) / len(recalls),
    )

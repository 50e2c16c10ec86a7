"""Measures of label maps against the truth, all of them from one confusion matrix of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynconv.distributed import all_sum
from dynconv.metrics.errors import NonFiniteError, UnlabelledError

# Of a label: the pixel has no class. Of a prediction: its scores are not finite (`dynconv.engine.windows`).
IGNORE = 255


class Segmentation(NamedTuple):
    """How often the pixels of label maps are right. All figures are shares of 1.

    With h the confusion matrix, IoU_c = h_cc / (sum_j h_cj + sum_j h_jc - h_cc). A class without a pixel in truth and
    prediction has no IoU, and is left out of the mean.
    """

    confusion: Tensor
    """int64 (C, C): pixels by class (row) and prediction (column), those without a class left out."""
    names: tuple[str, ...]
    """Of the C classes."""
    members: tuple[int, ...]
    """The classes that the figures are of, as rows of `confusion`: all of them, or a subset's."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the figures are of."""
        return tuple(self.names[place] for place in self.members)

    @property
    def iou_of(self) -> tuple[float | None, ...]:
        """Intersection over union of each of `classes`; None where it occurs in neither truth nor prediction."""
        right, truth, predicted = self._counts()
        return _ratios(right, truth + predicted - right)

    @property
    def accuracy_of(self) -> tuple[float | None, ...]:
        """Share of the pixels of each of `classes` that are right; None for a class without a pixel."""
        right, truth, _ = self._counts()
        return _ratios(right, truth)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou_of` over the classes that have one."""
        return _mean(self.iou_of)

    @property
    def frequency_weighted_iou(self) -> float:
        """Sum over the classes of their IoU times their share of the labelled pixels."""
        _, truth, _ = self._counts()
        shares = (truth.double() / truth.sum()).tolist()
        return sum(share * iou for share, iou in zip(shares, self.iou_of, strict=True) if iou is not None)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        right, truth, _ = self._counts()
        return int(right.sum()) / int(truth.sum())

    @property
    def class_accuracy(self) -> float:
        """Mean of `accuracy_of` over the classes that have pixels."""
        return _mean(self.accuracy_of)

    def subset(self, names: Sequence[str]) -> Segmentation:
        """The figures of some of the classes, by name: SYNTHIA's 16 and 13 of Cityscapes' 19.

        The IoUs are those among all C classes, as is usual: a pixel of a class outside of the subset that is taken for
        one within it counts against that. A mean over all C with the classes outside as zeros is another figure, and
        lower.

        Raises:
            ValueError: A name that is no class, or one that comes twice.
            UnlabelledError: No labelled pixel is of any of them.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"names: expected classes of {', '.join(self.names)}; got {', '.join(unknown)}")
        if len(set(names)) != len(names):
            raise ValueError(f"names: expected each class once, got {', '.join(names)}")
        found = self._replace(members=tuple(self.names.index(name) for name in names))
        if int(found._counts()[1].sum()) == 0:
            raise UnlabelledError(f"names: no labelled pixel is of {', '.join(names) or 'an empty subset'}")
        return found

    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels int64 (M,) that are right, of the truth and of the predictions, for each of `members`."""
        members = torch.tensor(self.members, dtype=torch.int64)
        counts = (self.confusion.diagonal(), self.confusion.sum(dim=1), self.confusion.sum(dim=0))
        right, truth, predicted = (count[members] for count in counts)
        return right, truth, predicted


def segmentation(
    batches: Iterable[tuple[Tensor, Tensor]], classes: Sequence[str], *, device: torch.device | str = "cpu"
) -> Segmentation:
    """Count the pixels of label maps; the figures are of all classes.

    Args:
        batches: Pairs of scores (B, C, H, W), float, or predictions (B, H, W), integers with `IGNORE` where a score is
            not finite, and labels (B, H, W), integers with `IGNORE` for no class, on one device. Of several processes,
            each gives those of its own share (there may be none), and all get the figures of all.
        classes: Names of the C classes.
        device: That of the batches.

    Raises:
        UnlabelledError: There is no labelled pixel.
        ValueError: A label or a prediction that is no class; predictions and labels of two shapes.
        NonFiniteError: A score is not finite (the highest of such scores means nothing).
    """
    number = len(classes)
    # Not torchmetrics' matrix: in deterministic mode it writes the C * C cells out beside each pixel, 6 GB for one map
    # of Cityscapes.
    confusion = torch.zeros(number * number, dtype=torch.int64, device=device)
    broken, seen, strange = 0, 0, 0
    for outputs, labels in batches:
        if outputs.is_floating_point():
            finite, predictions = outputs.isfinite(), outputs.argmax(dim=1)
        else:
            finite, predictions = outputs != IGNORE, outputs
        broken, seen = broken + int((~finite).sum()), seen + finite.numel()
        if predictions.shape != labels.shape:
            given = f"{tuple(labels.shape)} and predictions {tuple(predictions.shape)}"
            raise ValueError(f"batches: expected labels and predictions of one shape, got labels {given}")
        labelled = labels != IGNORE
        truth, guess = labels[labelled].long(), predictions[labelled].long()
        known = (truth >= 0) & (truth < number) & (guess >= 0) & (guess < number)
        strange += int((~known).sum())
        # A cell outside of the matrix would be counted as another class.
        confusion += torch.bincount((truth * number + guess)[known], minlength=number * number)
    # Together, for a process that stopped by itself would be waited for in vain.
    counts = all_sum(torch.tensor([broken, seen, strange], device=device)).tolist()
    if counts[0]:
        raise NonFiniteError(f"scores: {counts[0]} of {counts[1]} are not finite")
    if counts[2]:
        allowed = f"labels of 0 to {number - 1} or {IGNORE}, and predictions of 0 to {number - 1}"
        raise ValueError(f"batches: expected {allowed}; {counts[2]} pixels have others")
    total = all_sum(confusion).view(number, number).cpu()
    if int(total.sum()) == 0:
        raise UnlabelledError("batches: there is no labelled pixel, expected at least one")
    return Segmentation(total, tuple(classes), tuple(range(number)))


def _ratios(parts: Tensor, wholes: Tensor) -> tuple[float | None, ...]:
    pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
    return tuple(part / whole if whole else None for part, whole in pairs)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)

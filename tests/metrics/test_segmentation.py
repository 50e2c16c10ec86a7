from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import forked
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from dynconv.metrics import NonFiniteError, segmentation
from dynconv.metrics.segmentation import IGNORE

CLASSES = ("road", "car", "sky", "tree", "pole")


def some_maps(images: int, seed: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Scores (B, C, 6, 7) that are right for about half of the pixels, and labels of which a fifth is ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images, 6, 7), generator=generator, dtype=torch.uint8)
    hints = torch.nn.functional.one_hot(labels.long(), classes).movedim(-1, 1)
    scores = torch.randn(images, classes, 6, 7, generator=generator) + hints
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return scores, labels


def test_every_figure_is_that_of_a_count_pixel_by_pixel() -> None:
    scores, labels = some_maps(3, seed=0)
    found = segmentation([(scores[:2], labels[:2]), (scores[2:], labels[2:])], CLASSES)

    counts = [[0] * 5 for _ in range(5)]
    for truth, guess in zip(labels.flatten().tolist(), scores.argmax(dim=1).flatten().tolist(), strict=True):
        if truth != IGNORE:
            counts[truth][guess] += 1
    assert found.confusion.tolist() == counts
    assert found.confusion.dtype == torch.int64
    pixels = sum(map(sum, counts))
    sizes = [sum(row) for row in counts]
    unions = [sizes[c] + sum(row[c] for row in counts) - counts[c][c] for c in range(5)]
    ious = [counts[c][c] / unions[c] for c in range(5)]
    assert found.iou_of == tuple(ious)
    assert found.mean_iou == pytest.approx(sum(ious) / 5, abs=1e-15)
    assert found.frequency_weighted_iou == pytest.approx(sum(sizes[c] * ious[c] for c in range(5)) / pixels, abs=1e-15)
    assert found.pixel_accuracy == sum(counts[c][c] for c in range(5)) / pixels
    assert found.class_accuracy == pytest.approx(sum(counts[c][c] / sizes[c] for c in range(5)) / 5, abs=1e-15)


def test_the_figures_are_torchmetrics() -> None:
    scores, labels = some_maps(4, seed=1)
    found = segmentation([(scores, labels)], CLASSES)
    options = {"num_classes": 5, "ignore_index": IGNORE}
    truth = labels.long()
    assert torch.equal(found.confusion, MulticlassConfusionMatrix(**options)(scores, truth))
    figures = {
        found.mean_iou: MulticlassJaccardIndex(**options, average="macro"),
        found.frequency_weighted_iou: MulticlassJaccardIndex(**options, average="weighted"),
        found.pixel_accuracy: MulticlassAccuracy(**options, average="micro"),
        found.class_accuracy: MulticlassAccuracy(**options, average="macro"),
    }
    for mine, theirs in figures.items():
        assert mine == pytest.approx(theirs(scores, truth).item(), abs=1e-6)


def test_a_class_that_occurs_nowhere_is_left_out_and_one_that_is_only_predicted_is_not() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    predictions = torch.tensor([[[0, 2, 1, 1]]], dtype=torch.uint8)
    found = segmentation([(predictions, labels)], CLASSES[:4])
    assert found.iou_of == (0.5, 1.0, 0.0, None)
    assert found.mean_iou == 0.5
    assert found.accuracy_of == (0.5, 1.0, None, None)
    assert found.class_accuracy == 0.75


def test_what_is_predicted_where_no_class_is_counts_against_nothing() -> None:
    labels = torch.tensor([[[0, 1, IGNORE, IGNORE]]], dtype=torch.uint8)
    predictions = torch.tensor([[[0, 1, 0, 7]]])
    found = segmentation([(predictions, labels)], CLASSES[:2])
    assert found.iou_of == (1.0, 1.0)
    assert int(found.confusion.sum()) == 2


def test_a_subset_takes_the_ious_among_all_classes() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 2, 2, 2, 2]]], dtype=torch.uint8)
    predictions = torch.tensor([[[0, 0, 1, 2, 0, 0, 2, 2]]])
    found = segmentation([(predictions, labels)], CLASSES[:3]).subset(("sky", "road"))
    assert found.classes == ("sky", "road")
    # "sky" has a pixel of "car" too many and lost two to "road".
    assert found.iou_of == (2 / 5, 2 / 4)
    assert found.mean_iou == pytest.approx(0.45)
    assert found.pixel_accuracy == 4 / 6
    assert found.frequency_weighted_iou == pytest.approx(4 / 6 * 2 / 5 + 2 / 6 * 2 / 4)
    assert found.class_accuracy == 0.75


def test_a_subset_of_other_names_or_of_none_is_refused() -> None:
    found = segmentation([some_maps(1, seed=2)], CLASSES)
    with pytest.raises(ValueError, match=r"names: expected classes of road, car, .*; got lamp"):
        found.subset(("road", "lamp"))
    with pytest.raises(ValueError, match="names: expected each class once, got car, car"):
        found.subset(("car", "car"))
    absent = segmentation([(torch.zeros(1, 1, 2, dtype=torch.uint8),) * 2], CLASSES)
    with pytest.raises(ValueError, match="names: no labelled pixel is of car, sky"):
        absent.subset(("car", "sky"))


def test_broken_scores_unknown_classes_and_empty_maps_are_errors() -> None:
    scores, labels = some_maps(1, seed=3)
    with pytest.raises(ValueError, match="there is no labelled pixel"):
        segmentation([], CLASSES)
    with pytest.raises(ValueError, match="there is no labelled pixel"):
        segmentation([(scores, torch.full_like(labels, IGNORE))], CLASSES)
    with pytest.raises(ValueError, match=r"labels of 0 to 3 or 255, and predictions of 0 to 3; \d+ pixels"):
        segmentation([(scores[:, :4], labels)], CLASSES[:4])
    with pytest.raises(ValueError, match="one shape"):
        segmentation([(scores[:, :, :3], labels)], CLASSES)
    broken = scores.clone()
    broken[0, 0, 0, 0] = torch.nan
    # The whole batch before it does not make it good.
    with pytest.raises(NonFiniteError, match="scores: 1 of 420 are not finite"):
        segmentation([(scores, labels), (broken, labels)], CLASSES)
    # As windows tell it, even of a pixel that does not count.
    undefined = torch.tensor([[[0, 1, IGNORE]]], dtype=torch.uint8)
    with pytest.raises(NonFiniteError, match="scores: 1 of 3 are not finite"):
        segmentation([(undefined, undefined)], CLASSES)


def test_two_processes_count_what_one_does(tmp_path: Path) -> None:
    forked(_count_in_shares, tmp_path)


def _count_in_shares(rank: int, folder: Path) -> None:
    scores, labels = some_maps(5, seed=4)
    mine = slice(0, 2) if rank == 0 else slice(2, 5)
    found = segmentation([(scores[mine], labels[mine])], CLASSES)
    expected = torch.bincount((labels.long() * 5 + scores.argmax(dim=1))[labels != IGNORE], minlength=25).view(5, 5)
    assert torch.equal(found.confusion, expected)
    # One without a share, and one whose share alone is broken.
    assert torch.equal(segmentation([(scores, labels)] if rank else [], CLASSES).confusion, expected)
    with pytest.raises(NonFiniteError, match="scores: 1050 of 1050 are not finite"):
        segmentation([(scores * torch.inf, labels)] if rank else [], CLASSES)

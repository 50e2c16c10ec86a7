"""The bound by class frequencies, against GAM's formula counted out and against all predictions that there are."""

from __future__ import annotations

import itertools

import pytest
import torch

from dynconv.metrics.frequency_bound import frequency_bound
from dynconv.metrics.segmentation import segmentation

CLASSES = ("a", "b", "c")


def test_the_figures_are_those_of_the_formula() -> None:
    # Shares: a 1/2 and 1/4, b 1/4 and 1/4, c 1/4 and 0, d 0 and 1/2, and e in neither.
    found = frequency_bound((20, 10, 10, 0, 0), (1, 1, 0, 2, 0))
    assert found.iou_of == (0.5, 1.0, 0.0, 0.0, None)
    assert found.mean_iou == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert found.pixel_accuracy == pytest.approx(0.25 + 0.25)
    # Over the three classes that the target has.
    assert found.class_accuracy == pytest.approx((1 + 1 + 0) / 3)
    assert found.frequency_weighted_iou == pytest.approx(0.25 * 0.5 + 0.25 * 1)


def test_the_same_frequencies_bound_nothing_and_others_none_in_common_everything() -> None:
    assert frequency_bound((30, 10), (3, 1)) == ((1.0, 1.0), 1.0, 1.0, 1.0, 1.0)
    assert frequency_bound((1, 0), (0, 5))[1:] == (0.0, 0.0, 0.0, 0.0)


def test_no_prediction_of_the_sources_frequencies_does_better_and_one_does_as_well() -> None:
    source, truth = (1, 2, 3), torch.tensor([0, 0, 0, 1, 2, 2])
    guesses = set(itertools.permutations([0, 1, 1, 2, 2, 2]))
    every = [segmentation([(torch.tensor(guess).view(1, 1, 6), truth.view(1, 1, 6))], CLASSES) for guess in guesses]
    bound = frequency_bound(source, truth.bincount().tolist())
    assert max(each.pixel_accuracy for each in every) == pytest.approx(bound.pixel_accuracy)
    assert max(each.class_accuracy for each in every) == pytest.approx(bound.class_accuracy)
    assert max(each.mean_iou for each in every) == pytest.approx(bound.mean_iou)
    assert max(each.frequency_weighted_iou for each in every) == pytest.approx(bound.frequency_weighted_iou)
    for place in range(3):
        assert max(each.iou_of[place] or 0.0 for each in every) == pytest.approx(bound.iou_of[place])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [((1, 2), (1,), "got 2 and 1"), ((0, 0), (1, 2), "source: expected"), ((1, 2), (1, -2), "target: expected")],
)
def test_numbers_that_are_no_frequencies_are_refused(
    source: tuple[int, ...], target: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        frequency_bound(source, target)

from __future__ import annotations

import pytest
import torch

from dynconv.metrics import NonFiniteError, classification


def test_accuracy_counts_samples_not_batches_or_classes() -> None:
    scores = torch.eye(4)[torch.tensor([0, 0, 0, 1, 2])]
    labels = torch.tensor([0, 0, 0, 2, 1])
    # Per batch the mean would be 0.5, per class 0.333.
    found = classification([(scores[:3], labels[:3]), (scores[3:], labels[3:])], 4)
    assert found.accuracy == 3 / 5
    assert found.of_classes == (1.0, 0.0, 0.0, None)
    assert found.class_mean == 1 / 3


def test_the_highest_score_decides_wherever_the_others_stand() -> None:
    scores = torch.tensor([[-3.0, -1.0, -2.0], [5.0, 4.0, 6.0], [0.5, 0.25, 0.0]])
    assert classification([(scores, torch.tensor([1, 2, 0]))], 3).of_classes == (1.0, 1.0, 1.0)
    assert classification([(scores, torch.tensor([0, 1, 2]))], 3).accuracy == 0.0


def test_accuracy_of_nothing_or_of_broken_scores_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample"):
        classification([], 3)
    with pytest.raises(ValueError, match="no sample"):
        classification([(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))], 3)
    broken = torch.tensor([[0.0, float("nan")]])
    with pytest.raises(ValueError, match="not finite"):
        classification([(broken, torch.tensor([0]))], 2)
    # The batches before it do not make it good.
    whole = (torch.eye(2), torch.tensor([0, 1]))
    with pytest.raises(NonFiniteError, match="scores: 1 of 6 are not finite"):
        classification([whole, (broken, torch.tensor([0]))], 2)

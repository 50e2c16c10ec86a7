from __future__ import annotations

import math

import pytest
import torch

from dynconv.metrics import classification, prediction_statistics


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
    with pytest.raises(ValueError, match="not finite"):
        prediction_statistics([broken])
    with pytest.raises(ValueError, match="at least one"):
        prediction_statistics([])


def test_prediction_statistics_agree_with_their_definition_whatever_the_batches() -> None:
    scores = torch.randn(11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    p = scores.softmax(dim=1)
    entropy = torch.distributions.Categorical(p).entropy().mean().item()
    of_mean = torch.distributions.Categorical(p.mean(dim=0)).entropy().item()
    for batches in ([scores], scores.split(3)):
        found = prediction_statistics(batches)
        assert found.entropy == pytest.approx(entropy, rel=1e-12)
        assert found.information_maximisation == pytest.approx(of_mean - entropy, rel=1e-12)


def test_a_collapsed_classifier_has_the_best_entropy_and_the_worst_information() -> None:
    collapsed = prediction_statistics([torch.tensor([[1e4, 0.0, 0.0]] * 6)])
    varied = prediction_statistics([torch.eye(3).repeat(2, 1) * 8])
    assert collapsed.entropy == 0.0 and collapsed.information_maximisation == 0.0
    assert varied.entropy > 0 and varied.information_maximisation > 0.9 * math.log(3)

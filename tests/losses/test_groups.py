"""The Calibrator's game of groups against eq. 5 to 7, written out, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dynconv.losses.groups import group_accuracy, group_loss


def kinds() -> list[Tensor]:
    """Logits of three kinds of images, of unequally many."""
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(count, 4, dtype=torch.float64, generator=generator) for count in (5, 2, 3)]


@pytest.mark.parametrize("groups", [(0, 1, 3), (0, 0, 0)])
def test_the_loss_is_the_sum_of_the_kinds_mean_cross_entropies(groups: tuple[int, ...]) -> None:
    wanted = 0.0
    for logits, group in zip(kinds(), groups, strict=True):
        rows = [math.log(sum(map(math.exp, row))) - row[group] for row in logits.tolist()]
        wanted += sum(rows) / len(rows)
    assert group_loss(kinds(), groups).item() == pytest.approx(wanted, rel=1e-12)


def test_gradients_and_half_precision() -> None:
    logits = [each.requires_grad_() for each in kinds()]
    assert torch.autograd.gradcheck(lambda *given: group_loss(given, (0, 1, 3)), logits)
    half = [each.detach().bfloat16() for each in logits]
    loss = group_loss(half, (0, 1, 3))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(group_loss([each.double() for each in half], (0, 1, 3)).item(), rel=1e-5)


def test_in_the_accuracy_each_kind_counts_alike() -> None:
    # Told to be of the groups 2 and 2, 0, 1 and 1 and 1.
    told = [torch.eye(4)[rows] for rows in ([2, 2], [0], [1, 1, 1])]
    assert group_accuracy(told, (2, 0, 3)).item() == pytest.approx(2 / 3)
    assert group_accuracy(told, (2, 1, 1)).item() == pytest.approx(2 / 3)
    mixed = [torch.eye(4)[[0, 0, 0, 1]], torch.eye(4)[[3]]]
    assert group_accuracy(mixed, (0, 3)).item() == pytest.approx((3 / 4 + 1) / 2)

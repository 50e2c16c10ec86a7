from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv.data.samplers import Balanced, Shuffled

LABELS = torch.tensor([4] * 7 + [0] * 40 + [2] * 1 + [9] * 12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(0, 90), st.integers(0, 5))
def test_any_part_is_that_part_of_the_whole(start: int, count: int, seed: int) -> None:
    for make in (lambda: Balanced(LABELS, seed, 1), lambda: Shuffled(13, seed, 1)):
        whole = make().take(0, start + count)
        assert torch.equal(make().take(start, count), whole[start:])


def test_every_round_holds_every_class_once_in_a_new_order() -> None:
    classes = LABELS[Balanced(LABELS, 0, 0).take(0, 400)].view(100, 4)
    assert torch.equal(classes.sort(dim=1).values, torch.tensor([0, 2, 4, 9]).expand(100, 4))
    assert classes.unique(dim=0).shape[0] > 15, "of 24 orders"


def test_the_images_of_a_class_come_in_passes_that_differ() -> None:
    drawn = Balanced(LABELS, 0, 0).take(0, 4 * 42)
    of_four = drawn[LABELS[drawn] == 4].view(6, 7)
    assert torch.equal(of_four.sort(dim=1).values, torch.arange(7).expand(6, 7))
    assert of_four.unique(dim=0).shape[0] == 6
    assert (drawn[LABELS[drawn] == 2] == 47).all()


def test_classes_of_the_same_size_have_orders_of_their_own() -> None:
    labels = torch.arange(2).repeat_interleave(10)
    drawn = Balanced(labels, 0, 0).take(0, 20)
    assert not torch.equal(drawn[drawn < 10], drawn[drawn >= 10] - 10)


def test_the_key_fixes_the_order() -> None:
    first = Balanced(LABELS, 0, 0).take(0, 60)
    assert torch.equal(first, Balanced(LABELS, 0, 0).take(0, 60))
    for key in ((1, 0), (0, 1), (0, 0, 5)):
        assert not torch.equal(first, Balanced(LABELS, *key).take(0, 60))

"""Threads that read beside a training leave its cores to it."""

from __future__ import annotations

import threading

import pytest
import torch

from dynconv.data.threads import read_ahead, reading_pool


def test_a_reading_thread_computes_on_one_core_and_leaves_the_others_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        if torch.get_num_threads() != 3:
            pytest.skip("torch was built without OpenMP")

        def threads() -> int:
            torch.zeros(2**20).add_(1)  # what makes torch set up a thread
            return torch.get_num_threads()

        with reading_pool(2, "test") as pool:
            assert [pool.submit(threads).result() for _ in range(4)] == [1, 1, 1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_next_item_is_read_while_this_one_is_worked_on() -> None:
    begun = [threading.Event() for _ in range(3)]
    go_on = threading.Event()

    def read(item: int) -> int:
        begun[item].set()
        if item == 1:
            assert go_on.wait(10)
        return 10 * item

    results = read_ahead(read, range(3), "test")
    assert next(results) == 0
    assert begun[1].wait(10) and not begun[2].is_set(), "one ahead, no more"
    go_on.set()
    assert list(results) == [10, 20]


def test_what_reading_raises_comes_in_its_turn() -> None:
    def read(item: int) -> float:
        return 1 / item

    results = read_ahead(read, [1, 2, 0, 4], "test")
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_single_item_needs_no_thread() -> None:
    assert list(read_ahead(lambda item: threading.current_thread(), [0], "test")) == [threading.main_thread()]
    assert list(read_ahead(lambda item: item, [], "test")) == []

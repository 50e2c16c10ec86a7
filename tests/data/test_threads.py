"""Threads that read beside a training leave its cores to it."""

from __future__ import annotations

import pytest
import torch

from dynconv.data.threads import reading_pool


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

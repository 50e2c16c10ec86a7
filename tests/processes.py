"""Two connected processes for tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch


def forked(target: Callable[[int, Path], None], folder: Path) -> None:
    """`target(rank, folder)` in two processes connected by gloo, forked: each need not import torch again."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_connected, args=(target, rank, folder)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=600)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert codes == [0, 0]


def _connected(target: Callable[[int, Path], None], rank: int, folder: Path) -> None:
    # OpenMP's threads do not survive the fork.
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    target(rank, folder)
    torch.distributed.destroy_process_group()

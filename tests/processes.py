"""Forked processes for tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch


def in_processes(count: int, target: Callable[..., None], *arguments: object) -> None:
    """`target(rank, *arguments)` in `count` forked processes, each of which must end well: none imports torch again."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=target, args=(rank, *arguments)) for rank in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=600)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert codes == [0] * count


def forked(target: Callable[[int, Path], None], folder: Path) -> None:
    """`target(rank, folder)` in two forked processes connected by gloo."""
    in_processes(2, _connected, target, folder)


def _connected(rank: int, target: Callable[[int, Path], None], folder: Path) -> None:
    # OpenMP's threads do not survive the fork.
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    target(rank, folder)
    torch.distributed.destroy_process_group()

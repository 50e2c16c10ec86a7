"""Batches for the methods' tests, and the part of the engine that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.methods import Method, Update


def make_batch(source: Tensor, labels: Tensor, target: Tensor) -> Batch:
    domains = torch.zeros_like(labels)
    return Batch(SourceBatch(source, labels, domains), TargetBatch(target, torch.arange(len(target))))


@pytest.fixture
def batch() -> Batch:
    """Four source and six target images, in float64: random, for tests of the mechanics."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10, 3, 32, 32, dtype=torch.float64, generator=generator)
    return make_batch(images[:4], torch.tensor([0, 1, 2, 1]), images[4:] + 0.5)


@pytest.fixture
def train() -> Callable[[Method, Iterable[Batch], int], list[Update]]:
    """As the engine does it: before the next update is asked for, the gradients are cleared and the groups stepped."""

    def run(method: Method, batches: Iterable[Batch], max_steps: int) -> list[Update]:
        optimisers = method.optimisers()
        method.train()
        updates = []
        for step, batch in zip(range(max_steps), batches, strict=False):
            method.begin_step(step, max_steps)
            for update in method.updates(batch):
                for optimiser in optimisers.values():
                    optimiser.zero_grad()
                update.loss.backward()
                for name in update.of:
                    optimisers[name].step()
                updates.append(update)
        return updates

    return run

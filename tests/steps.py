"""A method's training steps as the engine takes them, and what they left alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynconv.data import Batch
from dynconv.methods import Method


def take(made: Method, batch: Batch, optimisers: dict[str, torch.optim.Optimizer]) -> list[tuple[str, ...]]:
    """A step; the groups that were stepped."""
    groups = []
    for update in made.updates(batch):
        for name in update.of:
            optimisers[name].zero_grad()
        parameters = [p for name in update.of for group in optimisers[name].param_groups for p in group["params"]]
        update.loss.backward(inputs=parameters)
        for name in update.of:
            optimisers[name].step()
        groups.append(update.of)
    return groups


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())

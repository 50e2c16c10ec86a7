"""Endless sequences of a split's indices, any part of which is a function of (seed, stream, position).

A resumed run needs no generator's state, and no part depends on what was drawn before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Order = np.ndarray[Any, Any]

# Keys of different lengths could be padded to the same one, so each kind of draw ends in a number of its own.
_TURNS, _MEMBERS = 1, 2


class Shuffled:
    """Epoch after epoch of the numbers below `size`, each in an order that (key, epoch) fixes."""

    def __init__(self, size: int, *key: int, suffix: tuple[int, ...] = ()) -> None:
        self.size = size
        self._key, self._suffix = key, suffix
        self._orders: dict[int, Order] = {}

    def at(self, place: int) -> int:
        """Member `place` of the sequence."""
        epoch, offset = divmod(place, self.size)
        return int(self._order(epoch)[offset])

    def take(self, start: int, count: int) -> Tensor:
        """Members `start` to `start + count` of the sequence, int64 (count,)."""
        places = np.arange(start, start + count)
        epochs, offsets = np.divmod(places, self.size)
        indices = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            indices[here] = self._order(epoch)[offsets[here]]
        return torch.from_numpy(indices)

    def _order(self, epoch: int) -> Order:
        if epoch not in self._orders:
            # A batch may go on from one into the next; what lies further back is not asked for again.
            self._orders = {place: order for place, order in self._orders.items() if place == epoch - 1}
            generator = np.random.default_rng([*self._key, epoch, *self._suffix])
            self._orders[epoch] = generator.permutation(self.size)
        return self._orders[epoch]


class Balanced:
    """Every class of `labels` (N,) equally often: round after round, each with one image of every class present.

    The classes of a round come in a random order, and the images of a class in passes, each of them a new shuffle, so
    the images of a small class come again more often (GSDA section 3.1: small categories are sampled again).
    """

    def __init__(self, labels: Tensor, *key: int) -> None:
        numbers = labels.numpy()
        present = np.unique(numbers).tolist()
        self._members = [np.flatnonzero(numbers == label).tolist() for label in present]
        self._turns = Shuffled(len(present), *key, suffix=(_TURNS,))
        self._passes = [
            Shuffled(len(members), *key, suffix=(label, _MEMBERS))
            for label, members in zip(present, self._members, strict=True)
        ]

    def take(self, start: int, count: int) -> Tensor:
        """Members `start` to `start + count` of the sequence, int64 (count,): places in `labels`."""
        indices = [
            # A class has one turn in each round, so the round says how many of its images came before.
            self._members[turn][self._passes[turn].at(place // self._turns.size)]
            for place, turn in enumerate(self._turns.take(start, count).tolist(), start)
        ]
        return torch.tensor(indices, dtype=torch.int64)

"""The endless stream of training batches, whose whole state is one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynconv.data.base import Protocol, Split, normalise


@dataclass
class SourceBatch:
    """Labelled images of the sources.

    Attributes:
        images: float32 (B, C, H, W) in [-1, 1], channels_last.
        labels: int64 (B,).
        domains: int64 (B,), index into `Protocol.sources`.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor


@dataclass
class TargetBatch:
    """Target images: there is no field for a label.

    Attributes:
        images: float32 (B, C, H, W) in [-1, 1], channels_last.
        indices: int64 (B,), places in `Protocol.target.train`.
    """

    images: Tensor
    indices: Tensor


@dataclass
class Batch:
    source: SourceBatch
    target: TargetBatch


class _Shuffled:
    """The endless sequence of a split's indices: epoch after epoch, each in an order that (seed, stream, epoch) fixes.

    Any part of it can be had without what came before, so a resumed run needs no generator's state.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self.size = size
        self._key = (seed, stream)
        self._orders: dict[int, np.ndarray[Any, Any]] = {}

    def take(self, start: int, count: int) -> Tensor:
        """Members `start` to `start + count` of the sequence, int64 (count,)."""
        places = np.arange(start, start + count)
        epochs, offsets = np.divmod(places, self.size)
        needed = {int(epoch) for epoch in np.unique(epochs)}
        self._orders = {epoch: order for epoch, order in self._orders.items() if epoch in needed}
        indices = np.empty(count, dtype=np.int64)
        for epoch in needed:
            if epoch not in self._orders:
                self._orders[epoch] = np.random.default_rng([*self._key, epoch]).permutation(self.size)
            here = epochs == epoch
            indices[here] = self._orders[epoch][offsets[here]]
        return torch.from_numpy(indices)


class DomainBatches:
    """Endless iterator over `Batch`: `batch_size` images of the union of the sources and `batch_size` of the target.

    The sources take turns image by image, so each is seen equally often whatever its size; every domain is reshuffled
    at the start of each of its own passes, and a batch that reaches the end of one goes on into the next: no image is
    dropped, and a batch may be larger than a domain.

    Args:
        protocol: Domains to draw from; only their training splits are read.
        batch_size: Source images per batch, and target images per batch.
        seed: Fixes every order.
        device: Where the batches are put.

    Raises:
        ValueError: `batch_size` below 1, a negative `seed`, or a domain without training images.
    """

    def __init__(self, protocol: Protocol, *, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {seed}")
        domains = (*protocol.sources, protocol.target)
        if empty := [domain.name for domain in domains if len(domain.train) == 0]:
            raise ValueError(f"protocol {protocol.name}: no training images in {', '.join(empty)}")
        self._splits = [domain.train for domain in domains]
        self._shuffled = [_Shuffled(len(domain.train), seed, stream) for stream, domain in enumerate(domains)]
        self._identity = {
            "protocol": protocol.name,
            "batch_size": batch_size,
            "seed": seed,
            "sizes": [len(split) for split in self._splits],
        }
        self._num_sources = len(protocol.sources)
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._step = 0

    @property
    def steps_per_epoch(self) -> int:
        """The smallest number of batches from the start after which every source image was seen."""
        last = max(
            (len(split) - 1) * self._num_sources + source
            for source, split in enumerate(self._splits[: self._num_sources])
        )
        return last // self._batch_size + 1

    def __iter__(self) -> DomainBatches:
        return self

    def __next__(self) -> Batch:
        start = self._step * self._batch_size
        source = self._next_source(start)
        indices = self._shuffled[-1].take(start, self._batch_size)
        target = TargetBatch(self._images(self._splits[-1], indices), indices.to(self._device))
        self._step += 1
        return Batch(source, target)

    def _next_source(self, start: int) -> SourceBatch:
        domains = torch.arange(start, start + self._batch_size) % self._num_sources
        first = self._splits[0]
        images = torch.empty((self._batch_size, *first.images.shape[1:]), dtype=torch.uint8)
        labels = torch.empty(self._batch_size, dtype=torch.int64)
        for source in range(self._num_sources):
            slots = torch.nonzero(domains == source).flatten()
            drawn_before = (start - source + self._num_sources - 1) // self._num_sources
            indices = self._shuffled[source].take(drawn_before, slots.numel())
            images[slots] = self._splits[source].images[indices]
            labels[slots] = self._splits[source].labels[indices]
        return SourceBatch(normalise(images, self._device), labels.to(self._device), domains.to(self._device))

    def _images(self, split: Split, indices: Tensor) -> Tensor:
        return normalise(split.images[indices], self._device)

    def state_dict(self) -> dict[str, Any]:
        """Batches given so far, and what they were drawn from (plain numbers and strings)."""
        return {"step": self._step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            ValueError: `state` belongs to another protocol, batch size, seed or data of another size.
        """
        differing = [
            f"{name}: {state.get(name)!r} in the state, {value!r} here"
            for name, value in self._identity.items()
            if state.get(name) != value
        ]
        if differing:
            raise ValueError("the sampler's state belongs to other data: " + "; ".join(differing))
        self._step = int(state["step"])

"""What a data set is here: `Split`, `Domain` and `Protocol`, and the seeded draws that make subsets and hold-outs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HOLD_OUT = 0.2


class DataError(ValueError):
    """Data that is missing, unreadable or contradictory. The message says where it was looked for and what to do."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split, in memory.

    Attributes:
        images: uint8 (N, C, H, W). Grey images replicated to three channels may be an expanded view.
        labels: int64 (N,), indices into the domain's classes.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images: expected uint8 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: expected int64 ({self.images.shape[0]},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return self.labels.shape[0]

    def subset(self, indices: Tensor) -> Split:
        """The images and labels at `indices` (int64), in that order."""
        if self.images.shape[1] > 1 and self.images.stride(1) == 0:
            # A replicated grey image stays a view: MNIST at 32 x 32 is 61 MB so, and 184 MB written out.
            grey = self.images[:, :1][indices]
            return Split(grey.expand(-1, self.images.shape[1], -1, -1), self.labels[indices])
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Domain:
    """A named data set with its classes. `test` is None where nothing is left to test on."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None


@dataclass(frozen=True, eq=False)
class Protocol:
    """Which labelled sources and which unlabelled target an experiment uses, and how their images were chosen.

    `target.train` is what training sees (without its labels); `target.test` is for evaluation alone. Where the target
    has no published test split, both hold all its images (the custom of Office-31).
    """

    name: str
    sources: tuple[Domain, ...]
    target: Domain
    variant: str = "full"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, which all domains share."""
        return self.target.classes

    @property
    def num_classes(self) -> int:
        return len(self.target.classes)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per domain and split, `{"mnist": {"train": 60000, "test": 10000}, ...}`: the target comes last."""
        return {
            domain.name: {"train": len(domain.train), "test": 0 if domain.test is None else len(domain.test)}
            for domain in (*self.sources, self.target)
        }


def normalise(images: Tensor, device: torch.device | str | None = None) -> Tensor:
    """uint8 (B, C, H, W) in [0, 255] to float32 in [-1, 1], channels_last, on `device` (default: where they are)."""
    images = images.to(device=device, non_blocking=True)
    return images.to(dtype=torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1.0)


def evaluation_batches(
    split: Split, *, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of `split` once, in order: normalised images (B, C, H, W), labels (B,). The last batch is shorter."""
    for start in range(0, len(split), batch_size):
        stop = start + batch_size
        yield normalise(split.images[start:stop], device), split.labels[start:stop].to(device)


def _ranked_within_class(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """For each image, its place in a seeded shuffle of its class, and the size of that class (both float64 (N,))."""
    generator = torch.Generator().manual_seed(seed)
    shuffle = torch.randperm(labels.shape[0], generator=generator)
    by_class = shuffle[torch.argsort(labels[shuffle], stable=True)]
    counts = torch.bincount(labels)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.empty(labels.shape[0], dtype=torch.float64)
    rank[by_class] = (torch.arange(labels.shape[0]) - starts).to(torch.float64)
    return rank, counts[labels].to(torch.float64)


def stratified_hold_out(labels: Tensor, seed: int, fraction: float = HOLD_OUT) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of indices that together cover `labels` (N,): kept, and held out (`fraction` of each class).

    A class of two or more images has at least one on each side; a single image is kept.
    """
    rank, size = _ranked_within_class(labels, seed)
    held = torch.where(size > 1, torch.minimum((size * fraction).round().clamp(min=1), size - 1), 0.0)
    mask = rank < held
    return torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()


def stratified_draw(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices, ascending, of `count` images in which every class keeps its share and none is lost.

    Raises:
        DataError: `count` is below the number of classes present.
    """
    present = int(torch.unique(labels).numel())
    if count < present:
        raise DataError(f"a limit of {count} images cannot hold the {present} classes present: give at least {present}")
    rank, size = _ranked_within_class(labels, seed)
    # The first of each class goes in whatever its share; then the classes advance at the same relative pace.
    key = torch.where(rank == 0, 0.0, (rank + 0.5) / size)
    return torch.argsort(key, stable=True)[:count].sort().values


def uniform_draw(total: int, count: int, seed: int) -> Tensor:
    """Indices, ascending, of `count` of `total` images, drawn without a look at any label."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def source_validation_split(
    protocol: Protocol, seed: int, fraction: float = HOLD_OUT
) -> tuple[Protocol, tuple[Split, ...]]:
    """Take a stratified `fraction` of each source's training split away from training, for `source-val`.

    Returns:
        The protocol with smaller source training splits, and one held-out `Split` per source, in their order.
    """
    kept_sources: list[Domain] = []
    held_splits: list[Split] = []
    for source in protocol.sources:
        kept, held = stratified_hold_out(source.train.labels, seed, fraction)
        if held.numel() == 0:
            raise DataError(
                f"source {source.name}: {len(source.train)} training images, no class with two: nothing can be held "
                "out for source validation"
            )
        kept_sources.append(replace(source, train=source.train.subset(kept)))
        held_splits.append(source.train.subset(held))
    return replace(protocol, sources=tuple(kept_sources)), tuple(held_splits)

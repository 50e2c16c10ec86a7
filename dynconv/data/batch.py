"""What a training step gets: `Batch`, and the `TargetSelection` that a method draws its target images from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv.distributed import share_of


@dataclass
class SourceBatch:
    """Labelled images of the sources.

    Attributes:
        images: float32 (B, C, H, W), normalised, channels_last.
        labels: int64 (B,); of label maps (B, H, W), where 255 is no class.
        domains: int64 (B,), index into `Protocol.sources`.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor


@dataclass
class TargetBatch:
    """Target images: there is no field for a label, but for those that a method gave them itself.

    Attributes:
        images: float32 (B, C, H, W), normalised, channels_last.
        indices: int64 (B,), places in `Protocol.target.train`.
        pseudo_labels: int64 (B,), as the `TargetSelection` has them that the images are drawn from; None where all
            images are drawn.
        pseudo_probabilities: float32 (B, num_classes), likewise; None where the selection has none.
    """

    images: Tensor
    indices: Tensor
    pseudo_labels: Tensor | None = None
    pseudo_probabilities: Tensor | None = None

    def part(self, rows: slice) -> TargetBatch:
        """The images at `rows` with all that belongs to them; views."""
        pseudo = (None if each is None else each[rows] for each in (self.pseudo_labels, self.pseudo_probabilities))
        return TargetBatch(self.images[rows], self.indices[rows], *pseudo)


@dataclass
class Batch:
    """What one step of a method sees."""

    source: SourceBatch
    """Labelled images of all sources."""
    target: TargetBatch
    """Images of the target, without labels."""

    def split(self, count: int) -> list[Batch]:
        """`count` consecutive parts, as equal as the batch allows; views."""
        parts = []
        for index in range(count):
            source = share_of(len(self.source.images), index, count)
            target = share_of(len(self.target.images), index, count)
            parts.append(
                Batch(
                    SourceBatch(self.source.images[source], self.source.labels[source], self.source.domains[source]),
                    self.target.part(target),
                )
            )
        return parts


@dataclass(frozen=True, eq=False)
class TargetSelection:
    """Target images to train on, with the classes a network gave them.

    Attributes:
        indices: int64 (n,), places in `Protocol.target.train`, none twice.
        labels: int64 (n,), their pseudo labels.
        probabilities: float32 (n, num_classes), how sure of each class the network was; None where nobody asks.

    Raises:
        ValueError: another type or shape, or an index twice.
    """

    indices: Tensor
    labels: Tensor
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in (("indices", self.indices), ("labels", self.labels)):
            if value.dtype != torch.int64 or value.shape != (self.indices.numel(),):
                expected = f"int64 ({self.indices.numel()},)"
                raise ValueError(f"{name}: expected {expected}, got {value.dtype} {tuple(value.shape)}")
        if self.indices.unique().numel() != self.indices.numel():
            raise ValueError("indices: expected every image once at most, got some of them twice")
        soft = self.probabilities
        if soft is not None and (soft.dtype != torch.float32 or soft.ndim != 2 or len(soft) != self.indices.numel()):
            expected = f"float32 ({self.indices.numel()}, num_classes)"
            raise ValueError(f"probabilities: expected {expected}, got {soft.dtype} {tuple(soft.shape)}")

    def state(self) -> dict[str, Tensor]:
        """What `TargetSelection(**state)` makes anew."""
        own = {"indices": self.indices, "labels": self.labels}
        return own if self.probabilities is None else {**own, "probabilities": self.probabilities}

    def copy(self) -> TargetSelection:
        """The same in memory of its own, on the CPU."""
        return TargetSelection(**{name: value.clone().cpu() for name, value in self.state().items()})

"""What a method tells the code above it: the updates that it asks for, what it found, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from dynconv.data import TargetSelection


@dataclass
class Update:
    """One optimiser step a method asks for.

    The engine clears the gradients, calls `loss.backward()` and steps the groups in `of`, all before it asks the
    method for the next update; gradients that reached other groups are dropped.
    """

    loss: Tensor
    """A scalar."""
    of: tuple[str, ...]
    """The optimisers, by their names in `Method.optimisers()`, that step."""
    logs: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Detached scalars by name."""


@dataclass
class Refresh:
    """What a method found when it looked at its scores of all unlabelled target images."""

    changed: bool = False
    """Whether `selection` replaces the one before."""
    selection: TargetSelection | None = None
    """The target images to train on from now on, with their pseudo labels; None for all of them."""
    logs: Mapping[str, float] = field(default_factory=dict)
    """Scalars by name."""
    message: str | None = None
    """A line for whoever watches the run."""


@dataclass
class Matched:
    """What a method found when it looked at images of both domains."""

    logs: Mapping[str, float] = field(default_factory=dict)
    """Scalars by name."""
    message: str | None = None
    """A line for whoever watches the run."""


@dataclass(frozen=True)
class About:
    """Where a method comes from and what it is made for; docs/methods.md is made of these."""

    paper: str
    """Authors, venue and year."""
    variants: tuple[str, ...] = ()
    """Published names of what the method also is, by its default or by some choice of its fields."""
    multi_source: Literal["by domain", "union"] = "union"
    """Whether several sources are told apart, or their union is one source."""
    partial: bool = False
    """Whether it is made for targets that lack some of the source's classes."""
    segmentation: bool = False
    """Whether it also trains networks that label every pixel."""

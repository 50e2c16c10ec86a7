"""The baseline without adaptation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynconv.methods.base import Method
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Update
from dynconv.models import NormalisationPolicy

if TYPE_CHECKING:
    from dynconv.data import Batch

# What can be told apart where training looks at no target image.
SOURCE_POLICIES: tuple[NormalisationPolicy, ...] = ("source-only", "frozen", "adabn")


@dataclass(frozen=True)
class SourceOnlyConfig(MethodConfig):
    """Source only: cross entropy on the union of the sources."""

    normalisation_policy: NormalisationPolicy = "source-only"
    """How batch normalisation treats the two domains: "source-only" (with target images in its statistics the baseline
    is another), "frozen" or "adabn", as in `MethodConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_policy(self.normalisation_policy, SOURCE_POLICIES, "source-only")


class SourceOnly(Method):
    """Cross entropy on the source; the target is never looked at, not even by batch normalisation."""

    config_class = SourceOnlyConfig
    about = About("none: cross entropy on the source", segmentation=True)

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield self.source_update(batch)


def check_source_policy(policy: NormalisationPolicy, allowed: tuple[NormalisationPolicy, ...], what: str) -> None:
    """Raise a ValueError for a policy that wants target images in training where `what` looks at none."""
    if policy not in allowed:
        raise ValueError(
            f"normalisation_policy: {policy!r} normalises target images in training, and {what} looks at none; choose "
            f"one of {', '.join(map(repr, allowed))}"
        )

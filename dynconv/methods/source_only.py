"""The baseline without adaptation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynconv.methods.base import Method, MethodConfig, Update

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class SourceOnlyConfig(MethodConfig):
    """Source only: cross entropy on the union of the sources."""


class SourceOnly(Method):
    """Cross entropy on the source; the target is never looked at, not even by batch normalisation."""

    config_class = SourceOnlyConfig

    def __init__(self, config: SourceOnlyConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield self.source_update(batch)

"""What the classifier of Source-or-Not makes of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dynconv.metrics.source_or_not import Share, share_right

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PlayedLayer:
    """What the classifier makes of U units of one layer."""

    name: str
    kind: str
    """The type of its module, such as MaxPool2d."""
    channels: int
    """Units that the layer has."""
    units: Tensor
    """int64 (U,): places among them, drawn at random, ascending."""
    places: int
    """The fewest of any image; 1 where a unit has a single value on each."""
    constant: Tensor
    """bool (U,): those with one and the same value on all judged images, which tell nothing."""
    called: Tensor
    """bool (U, M): of which of the M images in pairs the domain was rightly called from each unit."""
    right: Tensor
    """bool (U, P): of which of the P pairs the answer was right of who calls the domain of either image."""
    compared: Tensor
    """bool (U, P): the same of who compares both images and knows nothing of the domains."""
    limits: Tensor
    """float32 (U, 2): the smallest and the largest value on any judged image."""

    @property
    def title(self) -> str:
        """Its name and what it is."""
        return f"{self.name} ({self.kind})"

    @property
    def live(self) -> Tensor:
        """int64: places in `units` of those that are not constant."""
        return torch.nonzero(~self.constant).flatten()

    @property
    def which(self) -> Share | None:
        """How often an image's domain is rightly called from a live unit; 0.5 is chance. None without any: what is
        right by chance alone would say that a layer keeps the domains together."""
        return self._share(self.called)

    @property
    def game(self) -> Share | None:
        """How often both images are rightly said to be of one domain or of two, by who has learnt to know the domains,
        as the paper's observer "after some calibration"; of live units, as `which`."""
        return self._share(self.right)

    @property
    def comparing(self) -> Share | None:
        """The same by who compares."""
        return self._share(self.compared)

    @property
    def of_units(self) -> Tensor:
        """float64 (live units,): `game` from each live unit alone."""
        return self.right[self.live].double().mean(dim=1)

    @property
    def constants(self) -> str:
        """How many of the drawn units are constant, in words."""
        return f"{int(self.constant.sum())} of {len(self.units)} constant"

    def _share(self, right: Tensor) -> Share | None:
        return share_right(right[self.live]) if len(self.live) else None

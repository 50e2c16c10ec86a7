"""Means of what a training logs, and what a mean that is not finite says: the training diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynconv.distributed import all_mean, world_size

CURES = "A lower --lr or, where the method has one, a lower weight or a ramp of its second loss are the usual cures."


class Meter:
    """Means of logged scalars since the last `clear`, summed where they are so that a GPU is not waited for.

    Args:
        device: Where several processes sum theirs.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, logs: Mapping[str, float | Tensor]) -> None:
        for name, value in logs.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Mean of each scalar over the steps and the processes, all of which must ask at the same step."""
        if world_size() > 1 and self._sums:
            sums = torch.stack(
                [torch.as_tensor(v, dtype=torch.float64, device=self._device) for v in self._sums.values()]
            )
            # From here on every process has the mean, so that a checkpoint of one is a checkpoint of all.
            self._sums = dict(zip(self._sums, all_mean(sums).tolist(), strict=True))
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on summing with."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


def not_finite(means: Mapping[str, float]) -> list[str]:
    """ "NAME = VALUE" of every mean that is infinite or NaN."""
    return [f"{name} = {value}" for name, value in means.items() if not math.isfinite(value)]


class Diverged(RuntimeError):  # noqa: N818 - reads as what happened
    """A loss, a parameter or a score became infinite or NaN."""

"""Whether the run that another one starts from (`source_checkpoint`) has seen the labels of that one's target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dynconv.data import parse_spec
from dynconv.engine.config import TrainConfig


def check_source_run(config: TrainConfig) -> None:
    """Check that no source of the run whose checkpoint `config` starts from is the target of `config`.

    Known domains are the same by name, own ones by folder, with symbolic links followed. Whether an own folder holds a
    known domain, or two known names the same images, is not told from these, and passes; so does a checkpoint that
    keeps no domains.

    Args:
        config: Of a run whose `source_checkpoint`, if it has one, is a checkpoint of a run.

    Raises:
        ValueError: A source of that run is this one's target.
    """
    checkpoint = getattr(config.options, "source_checkpoint", "")
    if not checkpoint:
        return
    # Mapped, so that the weights, which the method has read, are not read again.
    found = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["config"]
    (_, target), (sources, _) = domains_of(config.identity()), domains_of(found)
    if target in sources:
        raise ValueError(
            f"source_checkpoint {checkpoint} is of a run of {found['method']} with the sources {', '.join(sources)}, "
            f"and {target} is this run's target: that run has seen its labels; give one of a run on this run's sources"
        )


def domains_of(identity: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """The sources and the target of a run (`TrainConfig.identity`): names of known domains, folders of own ones."""
    if identity.get("protocol") is not None:
        sources, target, _ = parse_spec(identity["protocol"])
        return sources, target
    own, goal = identity.get("source") or (), identity.get("target")
    return tuple(_place(each) for each in own), None if goal is None else _place(goal)


def _place(entry: str) -> str:
    name, equals, place = entry.partition("=")
    return str(Path(place).expanduser().resolve()) if equals else name

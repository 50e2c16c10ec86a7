"""The run whose encoder and classifier another run started from (`source_checkpoint`), wherever that lies now."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.run_folder import RunFolder


def started_from(folder: Path, config: TrainConfig) -> Path | None:
    """The folder of the run that the run in `folder`, of the configuration `config`, started from; None where it
    started from none.

    Where that is gone it may have been moved together with `folder`: then it lies beside it as it did before, in a
    recipe's OUT/TASK/ROW/seedN.
    """
    checkpoint = getattr(config.options, "source_checkpoint", "")
    if not checkpoint:
        return None
    # RUN/checkpoints/last.pt.
    stored = Path(checkpoint).parent.parent
    places = folder.absolute().parents
    if stored.exists() or len(places) < 3:
        return stored
    moved = places[2].joinpath(*stored.parts[-3:])
    return moved if moved.exists() else stored


def configuration_started_from(folder: Path, config: TrainConfig) -> TrainConfig | None:
    """The configuration of that run; None where there is no such run or its configuration cannot be read."""
    start = started_from(folder, config)
    if start is None:
        return None
    try:
        return load_config(RunFolder(start).config)
    except (ValueError, TypeError):
        # The path alone is known then, and whoever asks says so.
        return None


def kind_started_from(folder: Path, config: TrainConfig) -> str | None:
    """What that run learnt, and not of which task and seed; None as `configuration_started_from`.

    The path of the run that it started from itself tells a seed too, so that what that one learnt stands for it, and
    so on.
    """
    start, own = started_from(folder, config), configuration_started_from(folder, config)
    if start is None or own is None:
        return None
    if (before := kind_started_from(start, own)) is not None:
        own = dataclasses.replace(own, options=dataclasses.replace(own.options, source_checkpoint=before))
    return own.described().rpartition(" ")[0]

"""Go on where a run was stopped: the checkpoint that is used, and what is said of one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dynconv.distributed import all_min, barrier, is_main
from dynconv.engine.checkpoint import STATE, UnusableCheckpoint, load_checkpoint
from dynconv.engine.environment import environment

if TYPE_CHECKING:
    from dynconv.engine.run import Run


def take_up(run: Run) -> None:
    """Lock the run's folder, bring `run` to where its last whole checkpoint is, and make the folder ready to go on.

    Rows younger than that checkpoint are dropped; without one the run starts with none. Every process calls this.

    Raises:
        ValueError: Another process trains in the folder, it cannot be used or holds another run by now, none of its
            checkpoints can be used, or the processes of this run do not see the same.
    """
    folder = run.folder
    folder.take(run.config)
    try:
        used = _load_newest(run)
        check_same_step(run.step, folder.path, run.fabric.device)
        # Every process has read what it needs of the folder.
        barrier()
        if is_main():
            told = {} if run.notice is None else {"notice": run.notice}
            folder.open(run.config, {"max_steps": run.max_steps, **environment(), **told}, run.step, used)
    except BaseException:
        folder.lock.release()
        raise


def check_same_step(step: int, folder: Path, device: torch.device) -> None:
    """Raise where this run's processes go on from different steps: they would average gradients of different weights.

    Args:
        step: What this process goes on from; 0 where it found no checkpoint.
        folder: The run folder.
        device: Where the processes compare their steps.

    Raises:
        ValueError: On every process, where one has another step.
    """
    own = torch.tensor(step, device=device)
    first, last = int(all_min(own)), -int(all_min(-own))
    if first != last:
        raise ValueError(
            f"the processes go on from different checkpoints of {folder}: from step {first} and from step {last} (0: "
            "there is none). Every machine must see the same run folder: put it on a file system that they share, or "
            "copy its checkpoints to each of them"
        )


def _load_newest(run: Run) -> Path | None:
    """Load the newest checkpoint that can be used, with a line for one that cannot; None where there is none."""
    folder = run.folder
    refused: list[UnusableCheckpoint] = []
    for path in (folder.last, folder.previous):
        if not path.exists():
            continue
        try:
            run.load_state(load_checkpoint(path, required=STATE), path)
        except UnusableCheckpoint as error:
            refused.append(error)
            continue
        run.notes += [
            f"{bad.reason}. It is kept as {folder.unusable.name}; going on from {path.name}" for bad in refused
        ]
        return path
    if refused:
        reasons = "\n".join(bad.reason for bad in refused)
        raise ValueError(
            f"{reasons}\nNo checkpoint of {folder.path} can be used: put the run's own back, or delete the folder "
            f"{folder.checkpoints} to start the run over"
        )
    return None

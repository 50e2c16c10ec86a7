"""Go on where a run was stopped: the checkpoint that is used, and what is said of one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynconv.distributed import barrier, is_main
from dynconv.engine.checkpoint import STATE, UnusableCheckpoint, load_checkpoint
from dynconv.engine.environment import environment

if TYPE_CHECKING:
    from dynconv.engine.run import Run


def take_up(run: Run) -> None:
    """Lock the run's folder, bring `run` to where its last whole checkpoint is, and make the folder ready to go on.

    Rows younger than that checkpoint are dropped; without one the run starts with none. Every process calls this.

    Raises:
        ValueError: Another process trains in the folder, it cannot be used or holds another run by now, or none of its
            checkpoints can be used.
    """
    folder = run.folder
    folder.take(run.config)
    try:
        used = _load_newest(run)
        # Every process has read what it needs of the folder.
        barrier()
        if is_main():
            told = {} if run.method.notice is None else {"notice": run.method.notice}
            folder.open(run.config, {"max_steps": run.max_steps, **environment(), **told}, run.step, used)
    except BaseException:
        folder.lock.release()
        raise


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

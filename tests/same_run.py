"""Whether two run folders hold the same run, bit for bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console

from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.interrupt import Interrupted
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import make_fabric, open_folder, prepare, train

# Those that a resume may leave otherwise than a run never stopped: the one before the last, and what could not be used.
OTHER = ("previous.pt", "unusable.pt")


def without_seconds(value: Any) -> Any:
    """`value` without the one key that tells the wall clock, at every depth."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a checkpoint by their place."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in flat(part, f"{name}/{i}").items()}
    return {name: value}


def assert_same_run(one: RunFolder, other: RunFolder, *, logs: bool = True) -> None:
    """Every tensor and number of the checkpoints, every row and the selection, bit for bit; `seconds` aside."""
    assert without_seconds(one.rows()) == without_seconds(other.rows())
    if logs:
        assert without_seconds(one.training_rows()) == without_seconds(other.training_rows())
    assert without_seconds(one.read_done()) == without_seconds(other.read_done())
    names, same = ({p.name for p in folder.checkpoints.iterdir()} - set(OTHER) for folder in (one, other))
    assert names == same and {"last.pt", "source-val.pt"} <= names
    for name in names:
        left, right = (flat(load_checkpoint(folder.checkpoints / name)) for folder in (one, other))
        assert left.keys() == right.keys()
        for key in left.keys() - {"/seconds"}:
            equal = (
                torch.equal(left[key], right[key]) if isinstance(left[key], torch.Tensor) else left[key] == right[key]
            )
            assert equal, f"{name}: {key} differs"


def call_at_step(run: Run, step: int, action: Callable[[], None]) -> None:
    """Have `action` called at the start of the step after `step` finished ones."""
    begin = run.method.begin_step

    def begin_step(current: int, max_steps: int) -> None:
        if current == step:
            action()
        begin(current, max_steps)

    run.method.begin_step = begin_step


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def whole_and_stopped(config: Callable[[str], TrainConfig], step: int, console: Console) -> tuple[RunFolder, Run]:
    """A run never stopped, and one as it was when stopped in the step after `step`, which then ended the same."""
    whole = train(config("whole"), console=console)
    own = config("broken")
    run = prepare(own, open_folder(own), make_fabric(own.run))
    call_at_step(run, step, interrupt)
    with pytest.raises(Interrupted):
        run.fit(console)
    assert_same_run(whole, train(config("broken"), console=console))
    return whole, run

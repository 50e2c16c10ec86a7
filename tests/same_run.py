"""Whether two run folders hold the same run, bit for bit."""

from __future__ import annotations

from typing import Any

import torch

from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.run_folder import RunFolder

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

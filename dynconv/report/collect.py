"""Find runs and read all that their folders say; what cannot be read becomes a reason, never a gap."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.runs import state_of
from dynconv.engine.selection import Row, before
from dynconv.methods import METHODS
from dynconv.metrics.names import judged_by

T = TypeVar("T")

# A folder with one of these was a run, even where its config.yaml is gone.
TRACES = ("results.jsonl", "training.jsonl", "done", "env.json", "checkpoints")


@dataclass(frozen=True)
class FoundRun:
    """What one run folder says."""

    name: str
    """Its path below what all runs of the report have in common."""
    folder: RunFolder
    config: TrainConfig
    rows: tuple[Row, ...]
    training_rows: tuple[Row, ...]
    done: dict[str, Any] | None
    """Contents of `done`; None where the run is not finished or `done` is not this configuration's."""
    starts: tuple[dict[str, Any], ...]
    """The environment of its start and of each resume."""
    missing: tuple[str, ...]
    """What is not there or damaged, a sentence each."""
    step: int
    """Steps trained: the youngest row's, or the checkpoint's where that is younger."""

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def is_bound(self) -> bool:
        """Whether it learnt from the target's labels: its only source is the target, and it has no source's side."""
        kind = METHODS.get(self.config.method)
        return kind is not None and kind.supervised_by_target

    @property
    def metric(self) -> str:
        """What it is judged by: "accuracy", or "mean-iou" where every pixel has a class."""
        return judged_by(self.config.network_input.labels)

    @property
    def seconds(self) -> float | None:
        """Time of training up to the youngest row; None where no row tells."""
        rows = [*self.rows[-1:], *self.training_rows[-1:]]
        return max((row["seconds"] for row in rows if "seconds" in row), default=None)

    @property
    def step_zero(self) -> Row | None:
        """The evaluation before the first step, or None where the run has none."""
        return before(self.rows)

    def chosen(self, rule: str) -> Row | None:
        """The row that a selection rule chose; None where the run is not finished or has no such rule."""
        if self.done is None:
            return None
        row: Row | None = self.done["selected"].get(rule)
        return row

    @property
    def validators(self) -> dict[str, Row]:
        """The row that each validator would have chosen."""
        return {} if self.done is None else dict(self.done.get("validators", {}))


@dataclass(frozen=True)
class Unreadable:
    """A folder that holds a run of which nothing can be said."""

    name: str
    reason: str


def find_runs(paths: Sequence[Path]) -> tuple[list[FoundRun], list[Unreadable]]:
    """Every run in or below `paths`, by path; each once.

    Raises:
        ValueError: A path that is not there, or holds no run.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"RUN {path}: there is no such folder")
        below = _run_folders(path)
        if not below:
            raise ValueError(f"RUN {path}: it is no run folder and holds none (a run has a config.yaml)")
        folders |= dict.fromkeys(below)
    chosen = sorted(folders)
    runs: list[FoundRun] = []
    unreadable: list[Unreadable] = []
    for folder, name in zip(chosen, _names(chosen), strict=True):
        found = _read(folder, name)
        if isinstance(found, FoundRun):
            runs.append(found)
        else:
            unreadable.append(found)
    return runs, unreadable


def readable_runs(paths: Sequence[Path], what: str) -> list[FoundRun]:
    """Every run in or below `paths`, which the command calls `what`.

    Raises:
        ValueError: As `find_runs`, and for a run that cannot be read.
    """
    runs, unreadable = find_runs(paths)
    for other in unreadable:
        raise ValueError(f"{what} {other.name} cannot be read: {other.reason}")
    return runs


def _run_folders(path: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(path.resolve()):
        if "config.yaml" in files or any(trace in files or trace in folders for trace in TRACES):
            found.append(Path(place))
            folders.clear()
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    if len(folders) == 1:
        return [folders[0].name]
    common = Path(os.path.commonpath(folders))
    return [str(folder.relative_to(common)) for folder in folders]


def _read(path: Path, name: str) -> FoundRun | Unreadable:
    folder = RunFolder(path)
    try:
        config = load_config(folder.config)
        config.run.require_data()
    except ValueError as error:
        return Unreadable(name, str(error))
    missing: list[str] = []
    nothing: list[Row] = []
    rows = _or_reason(folder.rows, missing, nothing)
    training_rows = _or_reason(folder.training_rows, missing, nothing)
    done = _or_reason(folder.read_done, missing, None)
    starts = _or_reason(lambda: _starts(folder), missing, nothing)
    state = state_of(path)
    running = state.state == "running"
    if state.note and not running and state.note not in missing:
        missing.append(state.note)
    if done is None and not folder.done.exists() and state.state != "diverged":
        where = f"step {state.step}" if state.max_steps is None else f"step {state.step} of {state.max_steps}"
        rest = (
            f"{state.note} trains it"
            if running
            else "the same command goes on with it (dynconv train, or dynconv reproduce)"
        )
        missing.append(f"it is {state.state} at {where}; {rest}")
    elif done is not None and done["config_hash"] != config.hash:
        missing.append(
            f"done is of the configuration {done['config_hash']}, config.yaml is {config.hash}: one of the two was "
            "edited, or the run is of an older dynconv; it counts as not finished"
        )
        done = None
    # Where a file is damaged the state was not told to its end.
    step = max([state.step, *(row["step"] for row in (*rows[-1:], *training_rows[-1:]))])
    return FoundRun(name, folder, config, tuple(rows), tuple(training_rows), done, tuple(starts), tuple(missing), step)


def _or_reason(read: Callable[[], T], missing: list[str], default: T) -> T:
    """What `read` gives, or `default` with the reason added to `missing`."""
    try:
        return read()
    except (ValueError, OSError) as error:
        missing.append(str(error))
        return default


def _starts(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        starts = json.loads(folder.environment.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError("there is no env.json: where and by which versions the run was made is not known") from error
    except ValueError as error:
        raise ValueError(f"{folder.environment} is damaged: {error}") from error
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise ValueError(f"{folder.environment} is damaged: expected a list of starts")
    return starts

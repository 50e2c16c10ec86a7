"""What ran below a folder: every run's state, told from its files alone. A folder that is damaged is told as such."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dynconv.engine.checkpoint import is_sealed, step_of
from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.lock import holder
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.selection import Row, mean_of, select
from dynconv.metrics.names import judged_by

State = Literal["done", "running", "unfinished", "diverged", "damaged"]
# The rules of selection that look at no label of the target.
HONEST = ("last", "source-val", "label-free")


@dataclass
class RunState:
    """A run as its files show it. Its figures are shares of 1; None is what is not known."""

    run: str
    """The run folder."""
    state: State = "unfinished"
    """"running" while a process trains there; "diverged" where it stopped because a loss, a parameter or a score was
    not finite; "damaged" where `dynconv` would refuse it."""
    note: str = ""
    """Why it diverged or is damaged, who trains it, or what its checkpoints lack."""
    method: str | None = None
    task: str | None = None
    seed: int | None = None
    step: int = 0
    """The youngest row's, or the checkpoint's where that is younger."""
    max_steps: int | None = None
    metric: str = "accuracy"
    """What the figures are: "accuracy", or "mean-iou" where every pixel has a class."""
    source_val: float | None = None
    """Of the held-out source images at the last evaluation, the mean over the sources."""
    target_test: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(HONEST))
    """Of the target's test images at the evaluation that each rule chooses."""
    changed: str = ""
    """When a file of the run was last written, ISO 8601 in UTC."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def survey(root: Path) -> list[RunState]:
    """The runs in and below the folder `root`, the last written first.

    Raises:
        ValueError: There is no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; give one that holds runs (default: runs)")
    return sorted(_find(root), key=lambda found: found.changed, reverse=True)


def _find(root: Path) -> Iterator[RunState]:
    closed: list[OSError] = []
    for path, folders, files in os.walk(root, onerror=closed.append):
        # One without its configuration is no run to `dynconv train`, and yet something that was one.
        if "config.yaml" in files or ("results.jsonl" in files and "env.json" in files):
            folders.clear()
            yield state_of(Path(path))
        folders.sort()
    for error in closed:
        yield RunState(str(error.filename), "damaged", f"cannot be read: {error.strerror}")


def state_of(path: Path) -> RunState:
    """The state of the run in the folder `path`."""
    folder, found = RunFolder(path), RunState(str(path))
    try:
        found.changed = _changed(folder)
        config = load_config(folder.config)
        found.method, found.task, found.seed = config.method, config.run.task, config.run.seed
        found.metric = judged_by(config.network_input.labels)
        found.max_steps = config.run.max_steps or _max_steps(folder)
        rows = folder.rows()
        youngest = [*rows[-1:], *folder.training_rows()[-1:]]
        found.step = max((row["step"] for row in youngest), default=0)
        _judge(found, folder, config, rows)
    except (ValueError, OSError) as error:
        found.state, found.note = "damaged", str(error)
    return found


def _judge(found: RunState, folder: RunFolder, config: TrainConfig, rows: list[Row]) -> None:
    """State, note and figures."""
    done = folder.read_done()
    selected: dict[str, Row] = {}
    if done is not None:
        selected = done["selected"]
    elif any(row["step"] > 0 for row in rows):
        selected = select(rows, config.run.validator)
    for rule in HONEST:
        found.target_test[rule] = mean_of(selected[rule], "target-test") if rule in selected else None
    if "last" in selected:
        found.source_val = mean_of(selected["last"], "source-val")
    written = [path for path in (folder.last, folder.previous) if path.exists()]
    whole = [path for path in written if is_sealed(path)]
    if done is None and whole:
        found.step = max(found.step, step_of(whole[0]))
    who = holder(folder.lock.path)
    if who is not None:
        found.state, found.note = "running", who
        return
    found.state = "unfinished" if done is None else "done"
    notes = []
    if done is None and folder.diverged.exists():
        found.state = "diverged"
        notes.append(folder.diverged.read_text(encoding="utf-8").strip().removesuffix("."))
    if written and not whole:
        found.state = "damaged"
        notes.append(f"no whole checkpoint: {written[0]} was cut off")
    elif whole and whole[0] != folder.last:
        what = "was cut off" if folder.last.exists() else "is not there"
        notes.append(f"{folder.last.name} {what}; {whole[0].name} is whole")
    elif not written and not notes:
        notes.append("no checkpoint" if done is not None else "no checkpoint yet")
    found.note = "; ".join(notes)


def _max_steps(folder: RunFolder) -> int | None:
    """What the run's last start found: with --epochs it depends on the data."""
    if not folder.environment.exists():
        return None
    starts = json.loads(folder.environment.read_text(encoding="utf-8"))
    last = starts[-1] if isinstance(starts, list) and starts else None
    return last.get("max_steps") if isinstance(last, dict) else None


def _changed(folder: RunFolder) -> str:
    files = (folder.config, folder.environment, folder.results, folder.training, folder.last)
    ends = (folder.done, folder.diverged)
    newest = max((path.stat().st_mtime for path in files + ends if path.exists()), default=folder.path.stat().st_mtime)
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="milliseconds")

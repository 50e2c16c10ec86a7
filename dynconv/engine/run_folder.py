"""The files of one run: config.yaml, env.json, results.jsonl, training.jsonl, checkpoints/, tensorboard/, lock, and
at its end done or diverged."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynconv.distributed import is_main
from dynconv.engine.config import TrainConfig, differences, load_config
from dynconv.engine.durable import put_in_place, temporary_of
from dynconv.engine.lock import RunLock, holder, in_use
from dynconv.engine.selection import VALIDATOR, Row, select, select_by_validators
from dynconv.metrics import ValidatorName


class RunFolder:
    """Names, reads and writes the files of a run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "env.json"
        self.results = path / "results.jsonl"
        self.training = path / "training.jsonl"
        self.training_figure = path / "training.png"
        self.tensorboard = path / "tensorboard"
        self.done = path / "done"
        # Why it ended, in words.
        self.diverged = path / "diverged"
        # With --skip-bad alone.
        self.skipped = path / "skipped.json"
        # With --pseudo-labels-from alone.
        self.pseudo_labels = path / "pseudo_labels.json"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        # The one before it, and a last.pt that could not be used.
        self.previous = self.checkpoints / "previous.pt"
        self.unusable = self.checkpoints / "unusable.pt"
        self.lock = RunLock(path / "lock")

    def checkpoint(self, name: str) -> Path:
        """The file of the checkpoint `name`: "last", "source-val" or "label-free"."""
        return self.checkpoints / f"{name}.pt"

    def claim(self, config: TrainConfig) -> None:
        """Check that the folder can hold this run; nothing is written.

        Raises:
            ValueError: The folder holds another configuration (the differing fields are named), or any run with
                `--resume never`, or files that are no run, or cannot be read, or another process trains in it.
        """
        with self._accessible():
            if not self.lock.held and is_main() and (who := holder(self.lock.path)) is not None:
                raise ValueError(in_use(self.path, who))
            self._claim(config)

    def take(self, config: TrainConfig) -> None:
        """Lock the folder, which is made where it is not there, and check again that it can hold this run.

        Raises:
            ValueError: As `claim`; of two processes that claimed the folder, one comes second.
        """
        with self._accessible():
            self.lock.acquire()
            try:
                self._claim(config)
            except BaseException:
                self.lock.release()
                raise

    def _claim(self, config: TrainConfig) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"--out {self.path} is a file; give a folder")
        if not self.config.exists():
            # A run that was killed before its configuration was written has left no more than these.
            began = {self.lock.path.name, temporary_of(self.config).name}
            if any(path.name not in began for path in self.path.iterdir()):
                raise ValueError(f"--out {self.path} holds files but no run (no config.yaml); give a new folder")
            return
        if config.run.resume == "never":
            raise ValueError(f"--out {self.path} holds a run already and --resume is never; give a new folder")
        found = load_config(self.config)
        if found.hash != config.hash:
            lines = "\n  ".join(differences(found.identity(), config.identity()))
            raise ValueError(
                f"--out {self.path} holds a run with another configuration (there -> here):\n  {lines}\n"
                "Give another --out, or the same options to resume that run."
            )

    def open(self, config: TrainConfig, environment: dict[str, Any], step: int, used: Path | None = None) -> None:
        """Make the folder ready for a start or a resume at `step`: config.yaml, no younger rows, env.json.

        `used` is the checkpoint gone on from. Without one the run starts with no rows, and where it is not `last`,
        that file makes way: as the next `previous` it would take the place of a whole one.

        Raises:
            ValueError: The folder cannot be made or written to, or a file in it is damaged.
        """
        with self._accessible():
            self.create(config)
            self._remove_temporaries()
            if used == self.previous and self.last.exists():
                put_in_place(self.last, self.unusable)
            self.diverged.unlink(missing_ok=True)
            self.drop_rows_after(-1 if used is None else step)
            self.record_environment(environment, step)

    def _remove_temporaries(self) -> None:
        """What was being written when the process was killed."""
        files = (self.config, self.environment, self.results, self.training, self.done, self.diverged)
        optional = (self.skipped, self.pseudo_labels)
        for path in (*map(temporary_of, (*files, *optional)), *self.checkpoints.glob("*.pt.tmp")):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _accessible(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"--out {self.path} cannot be used as a run folder: {error}; give a folder that can be read and written"
            ) from error

    def create(self, config: TrainConfig) -> None:
        """Make the folder and write config.yaml, unless it is there."""
        self.path.mkdir(parents=True, exist_ok=True)
        # First of all files: one without it is no run, whatever else is there.
        if not self.config.exists():
            write_atomically(self.config, config.to_yaml())
        self.checkpoints.mkdir(exist_ok=True)

    def record_environment(self, environment: dict[str, Any], step: int) -> None:
        """Add the environment of a start or a resume (at `step`) to env.json. ValueError where that is damaged."""
        starts = _read_json(self.environment, _LOSE_STARTS) if self.environment.exists() else []
        if not isinstance(starts, list):
            raise ValueError(_damaged(self.environment, "expected a list", _LOSE_STARTS))
        starts.append({"step": step, **environment})
        write_atomically(self.environment, json.dumps(starts, indent=2) + "\n")

    def rows(self) -> list[Row]:
        """Every row of results.jsonl, the oldest first.

        A last line without its end was cut off when the process was killed and is left out.

        Raises:
            ValueError: Any other line is no row.
        """
        return _read_rows(self.results)

    def training_rows(self) -> list[Row]:
        """Every row of training.jsonl, as `rows`."""
        return _read_rows(self.training)

    def drop_rows_after(self, step: int) -> None:
        """Keep the rows of both files up to `step`, the checkpoint's; none for -1."""
        for path in (self.results, self.training):
            kept = [row for row in _read_rows(path) if row["step"] <= step]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: Row) -> None:
        """Add one row to results.jsonl and wait until it is on the disk."""
        _append_row(self.results, row)

    def append_training(self, row: Row) -> None:
        """Add one row to training.jsonl and wait until it is on the disk."""
        _append_row(self.training, row)

    def finish(self, config_hash: str, validator: ValidatorName = VALIDATOR) -> dict[str, Any]:
        """Write `done` with the selected rows, by `validator` where no label is looked at, and the rows that each
        validator would choose; returns its contents."""
        rows = self.rows()
        done = {
            "config_hash": config_hash,
            "label_free_validator": validator,
            "selected": select(rows, validator),
            "validators": select_by_validators(rows),
        }
        write_atomically(self.done, json.dumps(done, indent=2) + "\n")
        return done

    def record_divergence(self, reason: str) -> None:
        """Write `diverged`; the next start removes it."""
        write_atomically(self.diverged, reason + "\n")

    def read_done(self) -> dict[str, Any] | None:
        """Contents of `done`, or None where the run is not finished. ValueError where the file is damaged."""
        if not self.done.exists():
            return None
        done = _read_json(self.done, _LOSE_DONE)
        selected = done.get("selected") if isinstance(done, dict) else None
        if not isinstance(selected, dict) or "last" not in selected or not all(map(_is_row, selected.values())):
            raise ValueError(_damaged(self.done, "no selected rows", _LOSE_DONE))
        if "config_hash" not in done:
            raise ValueError(_damaged(self.done, "no config_hash", _LOSE_DONE))
        return dict(done)


_LOSE_STARTS = "delete it: only the record of earlier starts is lost"
_LOSE_DONE = "delete it: the next `dynconv train` writes it again from the last checkpoint"
_DROP_LINE = "delete the line, or the run folder to start over"
_START_OVER = "delete the run folder to start over"


def _damaged(what: Path | str, why: object, remedy: str) -> str:
    return f"{what} is damaged: {why}; {remedy}"


def _read_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(_damaged(path, error, remedy)) from error


def _read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(_damaged(path, error, _START_OVER)) from error
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(_damaged(f"{path}, line {number},", f"not JSON ({error})", _DROP_LINE)) from error
        if not _is_row(row):
            raise ValueError(_damaged(f"{path}, line {number},", "no row with a step", _DROP_LINE))
        rows.append(row)
    return rows


def _append_row(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("step"), int)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` is at every moment either the old file or the whole new one."""
    temporary = temporary_of(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(temporary, path)

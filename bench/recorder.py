"""The rows of a benchmark while it runs: kept, written to the CSV, and told on stderr."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dynconv.bench.rows import COLUMNS, Row


class OutputFailed(Exception):  # noqa: N818 - reads as what happened
    """The CSV cannot be written; the message names it and says why."""


class Recorder:
    """Collects rows, writes each to the CSV as it comes, and shows what is being measured on stderr.

    The file is opened at once, so that one that cannot be written is known before anything is measured; what it held is
    replaced with the first row, so that an interruption before that destroys nothing.

    Raises:
        OutputFailed: The file, or its folder, cannot be written.
    """

    def __init__(self, out: Path | None, total: int) -> None:
        self.rows: list[Row] = []
        self._out = out
        self._machine: Row = {}
        self._file: Any = None
        self._is_new = out is not None and not out.exists()
        if out is not None:
            try:
                out.parent.mkdir(parents=True, exist_ok=True)
                self._file = out.open("a", newline="", encoding="utf-8")
            except OSError as error:
                raise self._failed(error) from error
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._total, self._done, self._began = total, 0, time.monotonic()
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            # A thread that redrew the bar would take its time from what is timed.
            self._bar = Progress(*columns, console=self._console, auto_refresh=False)
            self._task = self._bar.add_task("", total=total)

    def _failed(self, error: OSError) -> OutputFailed:
        return OutputFailed(f"--out {self._out} cannot be written: {error.strerror or error}")

    def begin(self, machine: Row) -> None:
        """The machine is known: its columns are those of every row from now on."""
        self._machine = machine

    def __enter__(self) -> Recorder:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            try:
                self._file.close()
            except OSError as failure:
                raise self._failed(failure) from failure
            if self._is_new and not self.rows and self._out is not None:
                # An empty file would only be in the way of the next run.
                self._out.unlink()

    def group(self, label: str) -> None:
        """A new group of rows begins."""
        if self._bar is not None:
            self._bar.update(self._task, description=label, completed=self._done, refresh=True)
        else:
            self.say(f"[{self._done + 1}/{self._total}, {time.monotonic() - self._began:.0f} s] {label}")
        self._done += 1

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def add(self, row: Row) -> None:
        """Keep a row and write it. KeyError for a column that no reader would look for."""
        unknown = row.keys() - set(COLUMNS)
        if unknown:
            raise KeyError(f"unknown columns {sorted(unknown)}")
        whole = {column: row.get(column, self._machine.get(column, "")) for column in COLUMNS}
        self.rows.append(whole)
        if whole["status"] == "refused":
            self.say(f"refused: {whole['provider']} ({whole['shape']}, {whole['mode']}): {whole['note']}")
        if self._file is not None:
            try:
                self._write(whole)
            except OSError as error:
                raise self._failed(error) from error

    def _write(self, row: Row) -> None:
        writer = csv.DictWriter(self._file, fieldnames=COLUMNS, lineterminator="\n")
        if len(self.rows) == 1:
            # A device or a pipe has nothing to replace.
            if self._file.seekable() and self._out is not None and self._out.is_file():
                self._file.truncate(0)
            writer.writeheader()
        writer.writerow({name: _written(value) for name, value in row.items()})
        self._file.flush()

    def ended(self) -> None:
        """Say where the rows are, and what draws them."""
        if self._out is not None and self._out.is_file():
            draws = f"; python -m dynconv.bench.plot {self._out} draws them"
            self.say(f"{len(self.rows)} rows are in {self._out}{draws * any(r['status'] == 'ok' for r in self.rows)}")

    def interrupted(self) -> int:
        """Say what is kept; the exit code of an interruption."""
        kept = f"; {len(self.rows)} rows are in {self._out}" if self._out and self.rows else "; no row was written"
        self.say(f"dynconv: interrupted{kept}")
        return 130

    def exit_code(self) -> int:
        """1 where a provider was refused, else 0."""
        return 1 if any(row["status"] == "refused" for row in self.rows) else 0


def _written(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value

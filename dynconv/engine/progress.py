"""Losses, rate and remaining time: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from dynconv.engine.selection import Row, main_metric, mean_of
from dynconv.metrics import ValidatorName
from dynconv.metrics.names import in_words

# Characters of the bar: a terminal of 80 keeps half of its line for the losses.
BAR = 10


class ProgressDisplay:
    """Context that shows a run from step `start` to `max_steps` on `console`."""

    def __init__(self, console: Console, *, start: int, max_steps: int) -> None:
        self._console = console
        self._start = start
        self._max_steps = max_steps
        self._began = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            # Where the losses are longer than the line they take further ones, and nothing makes way for them.
            losses = TextColumn("{task.fields[losses]}", table_column=Column(ratio=1))
            columns = (BarColumn(BAR), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"), losses)
            self._bar = Progress(*columns, console=console, expand=True)
            self._task = self._bar.add_task("", total=max_steps, completed=start, losses="", pace="")

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def losses(self, step: int, epoch: float, means: Mapping[str, float]) -> None:
        """Show the mean losses of the last steps (NAME, loss/NAME); measures such as gradient/NAME are for the log."""
        rate = (step - self._start) / max(time.monotonic() - self._began, 1e-9)
        remaining = timedelta(seconds=round((self._max_steps - step) / rate))
        losses = {name.removeprefix("loss/"): value for name, value in means.items()}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in losses.items() if "/" not in name)
        shown = f"epoch {epoch:.2f}  {shown}"
        pace = f"{rate:.1f} steps/s  ETA {remaining}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, losses=shown, pace=pace)
        else:
            self.line(f"step {step}/{self._max_steps}  {shown}  {pace}")

    def evaluation(self, row: Row, validator: ValidatorName) -> None:
        """Show what an evaluation is judged by (`main_metric`), in per cent, the mean over the domains of each split;
        and its label-free `validator`."""
        splits = ((split, mean_of(row, split)) for split in ("source-val", "source-test", "target-test"))
        shown = "  ".join(f"{split} {100 * value:.1f}" for split, value in splits if value is not None)
        value = mean_of(row, "target-train", validator)
        label_free = "" if value is None else f"  {validator} {value:.4g}"
        self.line(f"step {row['step']}/{self._max_steps}  {in_words(main_metric(row))} %: {shown}{label_free}")

    def line(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

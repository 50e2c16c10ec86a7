"""Losses, rate and remaining time: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from dynconv.distributed import all_mean, world_size
from dynconv.engine.selection import Row, main_metric, mean_of
from dynconv.metrics import ValidatorName
from dynconv.metrics.names import in_words


class Meter:
    """Means of logged scalars since the last `clear`, summed where they are so that a GPU is not waited for.

    Args:
        device: Where several processes sum theirs.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, logs: Mapping[str, float | Tensor]) -> None:
        for name, value in logs.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Mean of each scalar over the steps and the processes, all of which must ask at the same step."""
        if world_size() > 1 and self._sums:
            sums = torch.stack(
                [torch.as_tensor(v, dtype=torch.float64, device=self._device) for v in self._sums.values()]
            )
            # From here on every process has the mean, so that a checkpoint of one is a checkpoint of all.
            self._sums = dict(zip(self._sums, all_mean(sums).tolist(), strict=True))
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on summing with."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


class ProgressDisplay:
    """Context that shows a run from step `start` to `max_steps` on `console`."""

    def __init__(self, console: Console, *, start: int, max_steps: int) -> None:
        self._console = console
        self._start = start
        self._max_steps = max_steps
        self._began = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=max_steps, completed=start, status="")

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
        status = f"epoch {epoch:.2f}  {shown}  {rate:.1f} steps/s  ETA {remaining}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
        else:
            self.line(f"step {step}/{self._max_steps}  {status}")

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


CURES = "A lower --lr or, where the method has one, a lower weight or a ramp of its second loss are the usual cures."


def not_finite(means: Mapping[str, float]) -> list[str]:
    """ "NAME = VALUE" of every mean that is infinite or NaN."""
    return [f"{name} = {value}" for name, value in means.items() if not math.isfinite(value)]


class Diverged(RuntimeError):  # noqa: N818 - reads as what happened
    """A loss, a parameter or a score became infinite or NaN."""

"""What a run writes down as it goes, for people and for machines. Of several processes one keeps the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from dynconv.distributed import is_main
from dynconv.engine.checkpoint import save_checkpoint
from dynconv.engine.progress import ProgressDisplay
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.selection import Row
from dynconv.metrics import ValidatorName
from dynconv.metrics.names import is_of_class


class NotWritten(RuntimeError):  # noqa: N818 - reads as what happened
    """A run folder took no more: its disk is full, or it may no longer be written to."""


class Journal:
    """Context that takes rows and checkpoints to the run folder, scalars to TensorBoard and progress to a console.

    In every process but the main one it does nothing.

    Args:
        folder: The run's.
        console: Where progress goes; None for standard error.
        start, max_steps: Steps that are over, and steps in all.

    Whatever writes raises NotWritten where it cannot.
    """

    def __init__(self, folder: RunFolder, console: Console | None, *, start: int, max_steps: int) -> None:
        self._folder = folder if is_main() else None
        self._progress = ProgressDisplay(
            (console or Console(stderr=True)) if is_main() else Console(quiet=True), start=start, max_steps=max_steps
        )
        self._start = start
        self._writer: SummaryWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Journal:
        if self._folder is not None:
            # A run that starts, or starts over, begins with an evaluation at step 0.
            purge = self._start + 1 if self._start else 0
            with _writing(self._folder):
                writer = SummaryWriter(str(self._folder.tensorboard), purge_step=purge)
            self._writer = writer
            self._stack.callback(self._close, writer, self._folder)
        self._stack.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        except NotWritten:
            # TensorBoard's file fails once more after what ended the run.
            if error is None:
                raise

    def line(self, text: str) -> None:
        """One line for whoever watches."""
        self._progress.line(text)

    def losses(self, step: int, epoch: float, means: Mapping[str, float]) -> None:
        """Show the mean losses of the last steps."""
        self._progress.losses(step, epoch, means)

    def training(self, row: Row) -> None:
        """A row of training.jsonl: `step`, `epoch`, `seconds` and the means of what was logged."""
        if self._folder is None:
            return
        with _writing(self._folder):
            self._folder.append_training(row)
            for name, value in row.items():
                if name not in ("step", "epoch", "seconds"):
                    self._scalar(name if "/" in name else f"loss/{name}", value, row["step"])

    def evaluation(self, row: Row, validator: ValidatorName) -> None:
        """A row of results.jsonl; `validator` is the run's."""
        self._progress.evaluation(row, validator)
        if self._folder is None:
            return
        with _writing(self._folder):
            self._folder.append(row)
            for name, value in row.items():
                # A curve for each of Office-Home's 65 classes would bury the others; training.png has them.
                if "/" in name and not is_of_class(name):
                    self._scalar(name, value, row["step"])

    def checkpoint(self, name: str, state: dict[str, Any]) -> None:
        """The checkpoint `name` ("last", "source-val", "label-free") of the run; of "last" the one before is kept."""
        if self._folder is not None:
            keep = self._folder.previous if name == "last" else None
            with _writing(self._folder):
                save_checkpoint(self._folder.checkpoint(name), state, keep=keep)

    def finish(self, config_hash: str, validator: ValidatorName) -> None:
        """Write `done`; `validator` is the run's."""
        if self._folder is not None:
            with _writing(self._folder):
                self._folder.finish(config_hash, validator)

    def diverged(self, reason: str) -> None:
        """Write `diverged`: the run ended here."""
        if self._folder is not None:
            with _writing(self._folder):
                self._folder.record_divergence(reason)

    @staticmethod
    def _close(writer: SummaryWriter, folder: RunFolder) -> None:
        with _writing(folder):
            writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)


@contextmanager
def _writing(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotWritten(
            f"the run folder {folder.path} cannot be written to any more: {error}. Make room there, or give back the "
            "right to write, and give the same command again: it goes on from the last checkpoint"
        ) from error

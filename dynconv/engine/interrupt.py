"""Ctrl-C and SIGTERM as a request that the training loop reads between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):  # noqa: N818 - not an error: the run stopped on request, with a checkpoint
    """A run stopped on request after a checkpoint at `step`; `command` goes on from there."""

    def __init__(self, step: int, max_steps: int, command: str) -> None:
        self.step = step
        self.command = command
        super().__init__(
            f"interrupted after step {step} of {max_steps}; a checkpoint is written. Resume with:\n  {command}"
        )


class InterruptGuard:
    """Within the context, the first SIGINT or SIGTERM sets `requested`; a second one raises KeyboardInterrupt."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> InterruptGuard:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

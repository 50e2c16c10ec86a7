"""Several commands at a time, each in a process of its own: on few cores two runs of one thread are faster than one
after the other with two (small convolutions do not fill a second thread)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGHUP)


def train_command(method: str, *arguments: str) -> list[str]:
    """`dynconv train METHOD ...` as a command of this Python."""
    return [sys.executable, "-m", "dynconv", "train", method, *arguments]


def run_commands(
    commands: Mapping[str, Sequence[str]],
    *,
    parallel: int = 2,
    threads: int = 1,
    line: Callable[[str], None] = print,
) -> dict[str, int]:
    """Run every command, `parallel` at a time, each with `threads` threads.

    What a command writes to its standard error goes to `line`, its name before it; its standard output is dropped.
    An interrupt of this process (Ctrl-C, SIGTERM or SIGHUP) is passed on once to the commands that run, which are
    waited for; the rest does not start.

    Returns:
        Exit code of each command by its name.

    Raises:
        KeyboardInterrupt: After an interrupt, when the commands have ended.
        ValueError: `parallel` or `threads` is below 1.
    """
    if parallel < 1 or threads < 1:
        raise ValueError(f"parallel and threads must be at least 1, got {parallel} and {threads}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    running: dict[str, subprocess.Popen[str]] = {}

    def run(name: str) -> int:
        # A session of its own: a terminal's Ctrl-C would reach it beside the signal passed on below, and two are one
        # too many for a checkpoint.
        with subprocess.Popen(
            list(commands[name]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        ) as process:
            running[name] = process
            for text in process.stderr or ():
                line(f"[{name}] {text.rstrip()}")
            code = process.wait()
            del running[name]
            return code

    with _stopping_interrupts():
        pool = ThreadPoolExecutor(max_workers=parallel)
        futures = {name: pool.submit(run, name) for name in commands}
        try:
            return {name: future.result() for name, future in futures.items()}
        except KeyboardInterrupt:
            for future in futures.values():
                future.cancel()
            for process in list(running.values()):
                process.send_signal(signal.SIGINT)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _stopping_interrupts() -> Iterator[None]:
    """Within the context, the first of `STOPPING` raises KeyboardInterrupt and the later ones are ignored.

    The commands have sessions of their own: where this process just died, they would go on without it.
    """
    # Python has handlers in the main thread alone; what is ignored (nohup) stays so.
    own = threading.current_thread() is threading.main_thread()
    previous = {s: h for s in STOPPING if own and (h := signal.getsignal(s)) is not signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        # A closed terminal's SIGHUP often comes with a SIGTERM, and a second one would break into the passing on.
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        for number in previous:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

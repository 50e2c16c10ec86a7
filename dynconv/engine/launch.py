"""Several commands at a time, each in a process of its own: on few cores two runs of one thread are faster than one
after the other with two (small convolutions do not fill a second thread)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor


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
    An interrupt of this process is passed on once to the commands that run, which are waited for; the rest does not
    start.

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

"""Several commands at a time, each in a process of its own: on few cores two runs of one thread are faster than one
after the other with two (small convolutions do not fill a second thread)."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGHUP)
# How `dynconv` ends after Ctrl-C or SIGTERM.
INTERRUPTED = 130


def train_command(method: str, *arguments: str) -> list[str]:
    """`dynconv train METHOD ...` as a command of this Python."""
    return [sys.executable, "-m", "dynconv", "train", method, *arguments]


def run_commands(
    commands: Mapping[str, Sequence[str]],
    *,
    parallel: int = 2,
    threads: int = 1,
    gpus: Sequence[str] = (),
    line: Callable[[str], None] = print,
    ended: Callable[[str, int], None] = lambda name, code: None,
    may_start: Callable[[], bool] = lambda: True,
) -> dict[str, int]:
    """Run every command, `parallel` at a time, each with `threads` threads.

    What a command writes to its standard error goes to `line`, its name before it; its standard output is dropped.
    An interrupt of this process (Ctrl-C, SIGTERM or SIGHUP) is passed on once to the commands that run, which are
    waited for; the rest does not start. A command that fails or is killed leaves the others alone.

    Args:
        commands: Words of each command by its name.
        parallel: Commands at a time.
        threads: OMP_NUM_THREADS of each.
        gpus: What CUDA_VISIBLE_DEVICES may be. Each command gets one, the one that has been free for the longest time;
            where fewer are given than commands run at a time, they share them evenly. None: all see what this process
            sees.
        line: Takes each line, from several threads.
        ended: Takes the name and the exit code of each command that ended, one at a time.
        may_start: Asked before each command; one that may not start is left out.

    Returns:
        Exit code of each command that started by its name; of one killed by a signal the signal's number, negative.

    Raises:
        KeyboardInterrupt: After an interrupt, when the commands have ended.
        ValueError: `parallel` or `threads` is below 1.
    """
    if parallel < 1 or threads < 1:
        raise ValueError(f"parallel and threads must be at least 1, got {parallel} and {threads}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    free: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for slot in range(parallel):
        free.put(gpus[slot % len(gpus)] if gpus else None)
    running: dict[str, subprocess.Popen[str]] = {}
    # Held while a command starts, so that none starts unseen between an interrupt and its passing on.
    starting, reporting = threading.Lock(), threading.Lock()
    stopped = False

    def start(name: str, gpu: str | None) -> subprocess.Popen[str] | None:
        with starting:
            if stopped or not may_start():
                return None
            # A session of its own: a terminal's Ctrl-C would reach it beside the signal passed on below, and two are
            # one too many for a checkpoint.
            running[name] = subprocess.Popen(
                list(commands[name]),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=environment if gpu is None else {**environment, "CUDA_VISIBLE_DEVICES": gpu},
                start_new_session=True,
            )
            return running[name]

    def run(name: str) -> int | None:
        # As many slots as threads: this one never waits.
        gpu = free.get()
        process = start(name, gpu)
        if process is None:
            free.put(gpu)
            return None
        with process:
            for text in process.stderr or ():
                line(f"[{name}] {text.rstrip()}")
            code = process.wait()
        with starting:
            del running[name]
        free.put(gpu)
        with reporting:
            ended(name, code)
        return code

    with _stopping_interrupts():
        pool = ThreadPoolExecutor(max_workers=parallel)
        futures = {name: pool.submit(run, name) for name in commands}
        try:
            codes = {name: future.result() for name, future in futures.items()}
            return {name: code for name, code in codes.items() if code is not None}
        except KeyboardInterrupt:
            with starting:
                stopped = True
                for process in running.values():
                    process.send_signal(signal.SIGINT)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def exit_words(code: int) -> str:
    """What an exit code says: "exit code 2", or the signal that ended the process."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


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

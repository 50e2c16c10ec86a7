"""A warm process that runs `dynconv` commands in children and kills them: torch and Lightning take six seconds to
import, and twenty kills with a Python of their own would take minutes.

Each line of standard input is a request, {"args": [...], "log": FILE, "kill": {...}}, and each line of standard output
its answer, {"status": exit code or -9, "seconds": ...}. The kill, which is always a SIGKILL, is one of

- {"after": S}: sent from outside, S seconds after the start;
- {"when": FILE, "after": S}: sent from outside, S seconds after the file is there;
- {"before": N}: of the process by itself, right before the N-th time that it brings a file or a folder to the disk,
  renames or links;
- {"within": N}: of the process by itself, when half of its N-th checkpoint is written.

The parent computes nothing, so that no thread of torch's is lost in the fork.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

DURABLE = ("fsync", "replace", "link")


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_before(number: int) -> None:
    """Let the process kill itself before the `number`-th of its durable operations."""
    count = 0

    def counted(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                kill_self()
            return original(*args, **kwargs)

        return call

    for name in DURABLE:
        setattr(os, name, counted(getattr(os, name)))


def kill_within(number: int) -> None:
    """Let the process kill itself when half of its `number`-th checkpoint is written."""
    import torch

    count, save = 0, torch.save

    def call(state: Any, file: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            kill_self()
        save(state, file)

    torch.save = call


def child(request: dict[str, Any]) -> None:
    """Run the command and leave, without the parent's clean-up."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    kill = request["kill"]
    if "before" in kill:
        kill_before(kill["before"])
    if "within" in kill:
        kill_within(kill["within"])
    code = 1
    try:
        from dynconv import cli

        code = cli.main(request["args"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run a request to its end."""
    began, kill, sent = time.monotonic(), request["kill"], False
    file = Path(kill["when"]) if "when" in kill else None
    due = began + kill["after"] if "after" in kill and file is None else float("inf")
    pid = os.fork()
    if pid == 0:
        child(request)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return {"status": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began}
        if file is not None and file.exists():
            due, file = time.monotonic() + kill["after"], None
        if not sent and time.monotonic() >= due:
            os.kill(pid, signal.SIGKILL)
            sent = True
        time.sleep(0.0005)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    # What a training imports on its way.
    import dynconv.engine.options
    import dynconv.engine.train
    import dynconv.report.figures.training
    import dynconv.report.table  # noqa: F401 - imported for the children

    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

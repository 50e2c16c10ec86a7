from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from dynconv.engine.launch import run_commands, train_command


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_exit_codes_and_lines_come_back_under_each_name() -> None:
    lines: list[str] = []
    say = "import os, sys; print('threads', os.environ['OMP_NUM_THREADS'], file=sys.stderr); print('dropped');"
    codes = run_commands({"good": python(say), "bad": python(say + "sys.exit(3)")}, threads=1, line=lines.append)
    assert codes == {"good": 0, "bad": 3}
    assert sorted(lines) == ["[bad] threads 1", "[good] threads 1"]


def test_two_run_at_a_time(tmp_path: Path) -> None:
    # Each waits for the other one's file: one after the other, neither would end.
    code = (
        "import pathlib, sys, time\n"
        "own, other = map(pathlib.Path, sys.argv[1:])\n"
        "own.touch()\n"
        "limit = time.monotonic() + 30\n"
        "while not other.exists() and time.monotonic() < limit: time.sleep(0.01)\n"
        "sys.exit(not other.exists())"
    )
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    commands = {"one": [*python(code), one, two], "two": [*python(code), two, one]}
    assert run_commands(commands, parallel=2) == {"one": 0, "two": 0}


def test_an_interrupt_is_passed_on_once_waited_for_and_starts_nothing_more(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "count = 0\n"
        "def handle(*_):\n"
        "    global count\n"
        "    count += 1\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        "while not count: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(count))"
    )
    first, second = tmp_path / "first", tmp_path / "second"
    commands = {"first": [*python(code), str(first)], "second": [*python(code), str(second)]}
    main = threading.main_thread().ident
    assert main is not None

    def line(text: str) -> None:
        if "ready" in text:
            signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_commands(commands, parallel=1, line=line)
    assert first.read_text() == "1"
    assert not second.exists()


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="parallel"):
        run_commands({}, parallel=0)


def test_a_training_runs_in_this_python() -> None:
    assert train_command("drt", "--seed", "1") == [sys.executable, "-m", "dynconv", "train", "drt", "--seed", "1"]
    assert os.access(sys.executable, os.X_OK)

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from dynconv.engine.launch import exit_words, run_commands, train_command


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_is_passed_on_once_waited_for_and_starts_nothing_more(
    number: signal.Signals, tmp_path: Path
) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "count = 0\n"
        "def handle(*_):\n"
        "    global count\n"
        "    count += 1\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        "limit = time.monotonic() + 30\n"
        "while not count and time.monotonic() < limit: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(count))"
    )
    first, second = tmp_path / "first", tmp_path / "second"
    commands = {"first": [*python(code), str(first)], "second": [*python(code), str(second)]}
    main = threading.main_thread().ident
    assert main is not None

    def line(text: str) -> None:
        if "ready" in text:
            signal.pthread_kill(main, number)

    # A shell starts what runs in its background with SIGINT ignored, and Python leaves that so.
    # The others do nothing here, where `run_commands` does not see to them.
    own = signal.default_int_handler if number == signal.SIGINT else lambda *_: None
    previous = signal.signal(number, own)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_commands(commands, parallel=1, line=line)
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, previous)
    assert first.read_text() == "1"
    assert not second.exists()


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    seen: list[object] = []
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        say = python("import sys; print('ready', file=sys.stderr)")
        run_commands({"a": say}, line=lambda _: seen.append(signal.getsignal(signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert seen == [signal.SIG_IGN]


def test_a_terminals_ctrl_c_does_not_reach_a_command_beside_the_signal_passed_on() -> None:
    assert run_commands({"own": python("import os, sys; sys.exit(os.getsid(0) != os.getpid())")}) == {"own": 0}


def test_a_killed_command_leaves_the_others_alone_and_each_end_is_told() -> None:
    ends: list[tuple[str, int]] = []
    commands = {
        "killed": python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        "bad": python("import sys; sys.exit(3)"),
        "good": python("pass"),
    }
    codes = run_commands(commands, parallel=1, ended=lambda name, code: ends.append((name, code)))
    assert codes == {"killed": -signal.SIGKILL, "bad": 3, "good": 0}
    assert ends == list(codes.items())
    assert [exit_words(code) for code in codes.values()] == ["killed by SIGKILL", "exit code 3", "exit code 0"]


def test_each_command_gets_the_gpu_that_is_free(tmp_path: Path) -> None:
    # The first keeps its GPU until the fourth has ended: the others share the second one's.
    code = (
        "import os, pathlib, sys, time\n"
        "print(os.environ.get('CUDA_VISIBLE_DEVICES'), file=sys.stderr, flush=True)\n"
        "own, other = map(pathlib.Path, sys.argv[1:])\n"
        "own.touch()\n"
        "limit = time.monotonic() + 30\n"
        "while not other.exists() and time.monotonic() < limit: time.sleep(0.01)"
    )
    files = {name: str(tmp_path / name) for name in "abcd"}
    commands = {name: [*python(code), file, files["d"] if name == "a" else file] for name, file in files.items()}
    lines: list[str] = []
    run_commands(commands, parallel=2, gpus=("4", "MIG-7"), line=lines.append)
    assert sorted(lines) == ["[a] 4", "[b] MIG-7", "[c] MIG-7", "[d] MIG-7"]


def test_more_commands_at_a_time_than_gpus_share_them_and_without_gpus_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all of them")
    say = python("import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr)")
    lines: list[str] = []
    run_commands({"a": say, "b": say, "c": say}, parallel=3, gpus=("0", "1"), line=lines.append)
    assert sorted(line[4:] for line in lines) == ["0", "0", "1"] and "[b] 1" in lines
    run_commands({"a": say}, line=lines.append)
    assert lines[-1] == "[a] all of them"


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="parallel"):
        run_commands({}, parallel=0)


def test_a_training_runs_in_this_python() -> None:
    assert train_command("drt", "--seed", "1") == [sys.executable, "-m", "dynconv", "train", "drt", "--seed", "1"]
    assert os.access(sys.executable, os.X_OK)

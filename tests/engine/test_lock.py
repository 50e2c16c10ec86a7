from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dynconv.engine import lock as module
from dynconv.engine.lock import RunLock, holder

pytestmark = pytest.mark.skipif(module.fcntl is None, reason="there is no fcntl on this platform")

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("process 1 on elsewhere")
file.flush()
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock `path`, and is killed at the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], text=True, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_one_process_holds_it_and_the_kernel_takes_it_back_from_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    lock = RunLock(path)
    assert holder(path) is None
    lock.acquire()
    assert lock.held and f"process {os.getpid()}" in str(holder(path))
    lock.release()
    assert not lock.held and holder(path) is None
    with held_elsewhere(path) as process:
        assert holder(path) == "process 1 on elsewhere"
        with pytest.raises(ValueError, match="run is in use: process 1 on elsewhere is training there"):
            lock.acquire()
        assert not lock.held
        process.kill()
        process.wait()
        assert holder(path) is None
        lock.acquire()
        assert str(os.getpid()) in path.read_text() and "elsewhere" not in path.read_text()
        lock.release()


def test_it_can_be_taken_twice_and_ends_with_the_context_or_the_object(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "lock")
    lock.acquire()
    with lock:
        lock.acquire()
    assert not lock.held and holder(lock.path) is None
    lock.acquire()
    del lock
    gc.collect()
    assert holder(tmp_path / "lock") is None


def test_a_forked_worker_that_outlives_its_parent_does_not_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = RunLock(path)
    lock.acquire()
    (end, go), (begun, begin) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.write(begin, b"1")
        os.read(end, 1)
        os._exit(0)
    os.read(begun, 1)
    try:
        assert holder(path) is not None
        # What the kernel does where the parent dies: its file is closed, and the lock is not given back.
        lock.forget()
        assert holder(path) is None
    finally:
        os.close(go)
        os.waitpid(child, 0)
        for descriptor in (end, begun, begin):
            os.close(descriptor)


def test_another_rank_leaves_it_to_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_main", lambda: False)
    lock = RunLock(tmp_path / "lock")
    lock.acquire()
    assert not lock.held and not lock.path.exists()
    lock.release()


def test_where_there_are_no_locks_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError("no locks available")

    numbers = {name: getattr(module.fcntl, name) for name in ("LOCK_EX", "LOCK_SH", "LOCK_NB", "LOCK_UN")}
    for fcntl, word in ((None, "no fcntl"), (types.SimpleNamespace(flock=refuse, **numbers), "no locks available")):
        monkeypatch.setattr(module, "fcntl", fcntl)
        with caplog.at_level(logging.WARNING), RunLock(tmp_path / "lock") as lock:
            assert lock.held and holder(lock.path) is None
        assert not lock.held
        assert word in caplog.text and "one process at a time" in caplog.text
        caplog.clear()

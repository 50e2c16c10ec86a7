"""Peak memory: scratch is counted, results are not, and a process that dies is named."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO

import pytest
import torch

from dynconv.bench import memory
from dynconv.bench.memory import MemoryMeter, MemoryUnknown, tensor_bytes

MODULE = """
import ctypes, os, time
import torch

def prepare(scratch, result):
    def call():
        block = torch.ones(scratch * 250_000)
        block = block + 1
        del block
        return torch.ones(result * 250_000)
    return call

def chatty():
    print('{"extra_mb": 1, "results_mb": 1}', flush=True)
    os.system("echo from below")
    return prepare(8, 4)

def sleeps(started):
    open(started, "w").write(str(os.getpid()))
    time.sleep(600)

def native(scratch):
    def call():
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        block = libc.malloc(ctypes.c_size_t(scratch * 1_000_000))
        ctypes.memset(block, 1, scratch * 1_000_000)
        libc.free(ctypes.c_void_p(block))
    return call

def fails():
    raise ValueError("no such problem")

def dies():
    return lambda: os._exit(9)
"""


@pytest.mark.skipif(memory.cpu_missing() is not None, reason=str(memory.cpu_missing()))
def test_the_meter_counts_scratch_of_any_origin_and_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with MemoryMeter(torch.device("cpu"), threads=1) as meter:
        # Two blocks of scratch at once, both gone when the result of 4 MB is made; then the result at the peak.
        for scratch, result, extra in ((8, 4, 12), (1, 16, 0)):
            found, held = meter.measure("needs:prepare", {"scratch": scratch, "result": result})
            assert held == result and found == pytest.approx(extra, abs=0.5)
        found, held = meter.measure("needs:chatty", {})
        assert held == 4 and found == pytest.approx(12, abs=0.5), "what a call prints was taken for the answer"
        found, held = meter.measure("needs:native", {"scratch": 10})
        assert held == 0 and found == pytest.approx(10, abs=0.5)
        with pytest.raises(MemoryUnknown, match="ValueError: no such problem"):
            meter.measure("needs:fails", {})
        with pytest.raises(MemoryUnknown, match="died with code 9"):
            meter.measure("needs:dies", {})


@pytest.mark.skipif(memory.cpu_missing() is not None, reason=str(memory.cpu_missing()))
def test_an_interruption_stops_the_measuring_process_and_reaches_it_in_no_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = tmp_path / "started"

    class Answers:
        """A pipe whose reader is interrupted when the call has begun."""

        def __init__(self, pipe: IO[str]) -> None:
            self.close = pipe.close

        def readline(self) -> str:
            while not (started.is_file() and started.read_text()):
                time.sleep(0.01)
            assert os.getsid(int(started.read_text())) != os.getsid(0), "Ctrl-C would reach it too"
            raise KeyboardInterrupt

    start = MemoryMeter._started

    def interrupting(meter: MemoryMeter):
        process, pipe = start(meter)
        return process, Answers(pipe)

    monkeypatch.setattr(MemoryMeter, "_started", interrupting)
    with pytest.raises(KeyboardInterrupt), MemoryMeter(torch.device("cpu"), threads=1) as meter:
        meter.measure("needs:sleeps", {"started": str(started)})
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_where_the_system_cannot_tell_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", Path("/nonexistent/clear_refs"))
    with pytest.raises(MemoryUnknown, match="needs Linux"), MemoryMeter(torch.device("cpu"), 1) as meter:
        meter.measure("needs:prepare", {})


def test_a_storage_that_tensors_share_counts_once() -> None:
    whole = torch.zeros(10)
    assert tensor_bytes([whole, (whole[:5], {"a": torch.zeros(3, dtype=torch.float64)}), None]) == 40 + 24

"""Peak memory: scratch is counted, results are not, and a process that dies is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynconv.bench import memory
from dynconv.bench.memory import MemoryMeter, MemoryUnknown, tensor_bytes

MODULE = """
import ctypes, os
import torch

def prepare(scratch, result):
    def call():
        block = torch.ones(scratch * 250_000)
        block = block + 1
        del block
        return torch.ones(result * 250_000)
    return call

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
        found, held = meter.measure("needs:native", {"scratch": 10})
        assert held == 0 and found == pytest.approx(10, abs=0.5)
        with pytest.raises(MemoryUnknown, match="ValueError: no such problem"):
            meter.measure("needs:fails", {})
        with pytest.raises(MemoryUnknown, match="died with code 9"):
            meter.measure("needs:dies", {})


def test_where_the_system_cannot_tell_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", Path("/nonexistent/clear_refs"))
    with pytest.raises(MemoryUnknown, match="needs Linux"), MemoryMeter(torch.device("cpu"), 1) as meter:
        meter.measure("needs:prepare", {})


def test_a_storage_that_tensors_share_counts_once() -> None:
    whole = torch.zeros(10)
    assert tensor_bytes([whole, (whole[:5], {"a": torch.zeros(3, dtype=torch.float64)}), None]) == 40 + 24

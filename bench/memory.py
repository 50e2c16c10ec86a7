"""Peak memory of one call beyond its inputs, outputs and gradients.

CUDA: the allocator's own count. CPU: the process's high-water mark in the kernel's books (VmHWM), reset before the
call, so that scratch of oneDNN and of C++ code counts like a tensor. It is taken in a process of its own, whose malloc
gives every freed block of 64 KB and more back to the system: a block kept for later would hide the next call's need,
and giving blocks back would slow the process that is timed.

    python -m dynconv.bench.memory THREADS FD      the measuring process: one JSON request per line of stdin, one answer
                                                   per line of the descriptor FD, where nothing else is printed
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor

from dynconv.ops import gradient_memory

MB = 1e6
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
# mallopt's parameters in glibc, and the size from which a block is a mapping of its own.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _BLOCK = -1, -3, 64 << 10


class MemoryUnknown(RuntimeError):  # noqa: N818 - reads as what happened
    """The peak could not be measured; the message says why."""


def cpu_missing() -> str | None:
    """Why peaks cannot be measured on this system's CPU, or None where they can."""
    if not _CLEAR_REFS.exists():
        return "peak memory on the CPU needs Linux: /proc/self/clear_refs resets the high-water mark"
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        return "peak memory on the CPU needs glibc: mallopt makes freed blocks go back to the system"
    return None


def return_freed_blocks() -> None:
    """Make this process's malloc give freed memory back at once, from now on."""
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(_M_MMAP_THRESHOLD, _BLOCK) and libc.mallopt(_M_TRIM_THRESHOLD, _BLOCK)):
        raise MemoryUnknown("mallopt refused its thresholds")


def peak_beyond_results(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """(MB at the peak of ``call`` beyond what lay there before and beyond its results, MB of its results).

    The call runs once before, so that what it builds once (compiled primitives, workspaces) is not counted. On the CPU
    :func:`return_freed_blocks` must have been called.
    """
    call()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        results = call()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
    else:
        gradient_memory.release()
        ctypes.CDLL(None).malloc_trim(0)
        # "5" resets the high-water mark to the present resident size (proc(5)).
        _CLEAR_REFS.write_text("5")
        before = _resident("VmRSS")
        results = call()
        peak = _resident("VmHWM")
    held = tensor_bytes(results)
    return max(0.0, (peak - before - held) / MB), held / MB


def tensor_bytes(value: object) -> int:
    """Bytes of the tensors in nested tuples, lists and dictionaries; storage that several share counts once."""
    storages: dict[int, int] = {}

    def visit(item: object) -> None:
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, Mapping):
            for inner in item.values():
                visit(inner)
        elif isinstance(item, (tuple, list)):
            for inner in item:
                visit(inner)

    visit(value)
    return sum(storages.values())


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


class MemoryMeter:
    """Measures calls that a named function prepares; on the CPU in a process that starts with the first request.

    Args:
        device: Where the calls run.
        threads: Threads of the measuring process, for scratch is per thread.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self._device, self._threads = device, threads
        self._process: subprocess.Popen[str] | None = None
        self._answers: IO[str] | None = None

    def measure(self, function: str, arguments: Mapping[str, Any]) -> tuple[float, float]:
        """As :func:`peak_beyond_results`, of the call that ``function`` ("module:name") makes of ``arguments``.

        Raises:
            MemoryUnknown: The system cannot tell, or the measuring process died.
        """
        if self._device.type == "cuda":
            return peak_beyond_results(_prepared(function, arguments), self._device)
        if reason := cpu_missing():
            raise MemoryUnknown(reason)
        process, answers = self._started()
        if process.stdin is None:
            raise MemoryUnknown("the measuring process has no pipe")
        try:
            process.stdin.write(json.dumps({"function": function, "arguments": dict(arguments)}) + "\n")
            process.stdin.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = process.wait()
            self.stop()
            raise MemoryUnknown(f"the measuring process died with code {code}; out of memory, as a rule")
        answer = json.loads(line)
        if "error" in answer:
            raise MemoryUnknown(answer["error"])
        return answer["extra_mb"], answer["results_mb"]

    def _started(self) -> tuple[subprocess.Popen[str], IO[str]]:
        """The measuring process, and where it answers."""
        if self._process is None or self._answers is None:
            read, write = os.pipe()
            self._answers = os.fdopen(read, encoding="utf-8")
            command = [sys.executable, "-m", "dynconv.bench.memory", str(self._threads), str(write)]
            try:
                # What it prints goes to stderr (2). A session of its own: Ctrl-C is for the asker, who stops it.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=2, pass_fds=(write,), start_new_session=True, text=True
                )
            finally:
                # Held open here too, the pipe would not end when the process dies.
                os.close(write)
        return self._process, self._answers

    def stop(self) -> None:
        """End the measuring process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            # Reaps it and closes its stdin.
            self._process.communicate()
            self._process = None
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def __enter__(self) -> MemoryMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _prepared(function: str, arguments: Mapping[str, Any]) -> Callable[[], object]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def serve(threads: int, answers: IO[str]) -> None:
    """Answer requests from stdin until it ends."""
    torch.set_num_threads(threads)
    return_freed_blocks()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            call = _prepared(request["function"], request["arguments"])
            extra, results = peak_beyond_results(call, torch.device("cpu"))
            answer: dict[str, Any] = {"extra_mb": extra, "results_mb": results}
            del call
        # The asker decides what an error means; this process goes on to the next request.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8") as pipe:
        serve(int(sys.argv[1]), pipe)

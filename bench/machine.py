"""The machine a row was measured on: who it is, its memory bandwidth and its matrix rate, and its free memory."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dynconv
from dynconv.engine.environment import commit, hardware
from dynconv.timing import synchronise

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# Elements of each of the triad's three arrays: four times and more the last-level cache of the machines meant.
_TRIAD_ELEMENTS = {"cpu": 48 << 20, "cuda": 256 << 20}
# Sides of the square products: the rate of larger ones was the same to 3 %.
_GEMM_SIDE = {"cpu": 1536, "cuda": 8192}
_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Rates:
    """What this machine does at most, measured: bytes and floating-point operations per second."""

    bytes_per_second: float
    flops_per_second: dict[str, float]
    """By dtype name."""

    def floor_ms(self, flops: float, moved: float, dtype: str) -> float:
        """Milliseconds that no program can go below which does ``flops`` in ``dtype`` and moves ``moved`` bytes."""
        return 1e3 * max(flops / self.flops_per_second[dtype], moved / self.bytes_per_second)


def measure_rates(device: torch.device, dtypes: tuple[str, ...], *, shrink: int = 1) -> Rates:
    """Triad bandwidth (a = b + s c in float32, three arrays) and the rate of a square GEMM in each of ``dtypes``.

    The best of several calls: a floor is what the machine can do when nothing disturbs it. ``shrink`` divides the
    sizes, for tests; the figures then mean little.
    """
    bandwidth = _triad_bandwidth(device, _TRIAD_ELEMENTS[device.type] // shrink**2)
    rates = {}
    side, tf32 = _GEMM_SIDE[device.type] // shrink, torch.backends.cuda.matmul.allow_tf32
    # Convolutions take TF32 by default and products do not: the floor is that of convolutions.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        for name in dtypes:
            left, right = (torch.randn(side, side, device=device, dtype=DTYPES[name]) for _ in range(2))
            rates[name] = 2 * side**3 / _best_seconds(functools.partial(torch.mm, left, right), device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    return Rates(bandwidth, rates)


def _triad_bandwidth(device: torch.device, elements: int) -> float:
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    return 3 * a.element_size() * elements / _best_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), device)


def _best_seconds(call: Callable[[], object], device: torch.device, calls: int = 6) -> float:
    seconds = []
    for _ in range(calls):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def free_bytes(device: torch.device) -> int:
    """Bytes that a provider may take: nine tenths of what is free, of the machine and of this process's cgroups."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.9 * (torch.cuda.mem_get_info(device)[0] + cached))
    return int(0.9 * min(_available_bytes(), cgroup_free_bytes()))


def _available_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return _UNLIMITED
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    return 1024 * int(line.split()[1])


def cgroup_free_bytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The least that this process's memory cgroup, or one above it, leaves free; 2^62 where none has a limit.

    A container sees the host's MemAvailable and dies at its own limit. File pages not lately used (``inactive_file``)
    are free: the kernel drops them before it kills. Version 2: memory.max and memory.current; version 1 its own names.
    """
    if not own.is_file():
        return _UNLIMITED
    free = _UNLIMITED
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, used, inactive = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            inactive = "total_inactive_file"
        else:
            continue
        folder = mount / path.lstrip("/")
        for place in (folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))):
            # In a container the path may be the host's, of which only the mount's own folder is there.
            if not ((place / limit).is_file() and (place / used).is_file()):
                continue
            most = (place / limit).read_text().strip()
            if most != "max":
                free = min(free, int(most) - int((place / used).read_text()) + _statistic(place, inactive))
    return max(0, free)


def _statistic(cgroup: Path, name: str) -> int:
    """A line of the cgroup's memory.stat; 0 where it has none."""
    path = cgroup / "memory.stat"
    pairs = (line.split() for line in path.read_text().splitlines()) if path.is_file() else ()
    return next((int(value) for key, value in pairs if key == name), 0)


def identity(device: torch.device) -> dict[str, Any]:
    """The columns that say where and with what a row was measured."""
    git, found = commit(), hardware()
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else found["cpu"],
        "cpu_capability": found["cpu_capability"],
        "threads": torch.get_num_threads(),
        "dynconv": dynconv.__version__,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "timm": _version("timm"),
        "cuda": torch.version.cuda or "none",
        "commit": git["commit"] if git else "unknown",
        "dirty": git["dirty"] if git else "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"

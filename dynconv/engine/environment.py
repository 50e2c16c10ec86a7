"""Where a run was computed: versions, commit, hardware. Needs nothing but torch."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import dynconv

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "tyro",
)


def versions() -> dict[str, str | None]:
    """Versions of dynconv, Python and the packages that results depend on; None for one that is not installed. The
    caller may change what it gets."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"dynconv": dynconv.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, Any]:
    """Processor, memory, threads and CUDA devices."""
    cuda = torch.cuda.is_available()
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    }


def commit() -> dict[str, Any] | None:
    """Commit of the source tree dynconv is imported from and whether files differ from it; None outside of git."""
    root = Path(dynconv.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        sha = _git(root, "rev-parse", "HEAD")
        return {"commit": sha, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def environment() -> dict[str, Any]:
    """What env.json holds."""
    return {
        "versions": versions(),
        "git": commit(),
        "hardware": hardware(),
        "command": sys.argv,
    }


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

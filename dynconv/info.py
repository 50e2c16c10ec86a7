"""What ``dynconv info`` prints: versions, the native build, this machine, and for each missing backend the reason."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

import dynconv
from dynconv import backends

PACKAGES = ("torch", "triton", "numpy", "lightning", "torchvision")


def info() -> dict[str, Any]:
    """Versions, native build, processor, GPUs and backends of this installation.

    ``backends`` maps operator -> backend -> ``None`` where it can run here, else the reason why not.
    """
    return {
        "versions": _versions(),
        "native": _native(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "backends": _backends(),
    }


def _backends() -> dict[str, dict[str, str | None]]:
    # The operators are asked for by name: importing them also loads the native libraries that are asked about.
    operators = {name: importlib.import_module(f"dynconv.ops.{name}") for name in ("dynamic_conv2d", "coefficients")}
    has_gpu = torch.cuda.is_available()
    no_gpu = None if has_gpu else "it was built, but there is no GPU that torch can use"
    conditional: dict[str, dict[str, str | None]] = {
        "triton": {"triton": backends.triton_missing(torch.device("cuda" if has_gpu else "cpu"))},
        "native": {
            "native (cpu)": backends.native_missing("cpu"),
            "native (cuda)": backends.native_missing("cuda") or no_gpu,
        },
    }
    found: dict[str, dict[str, str | None]] = {}
    for name, operator in operators.items():
        found[name] = {}
        for backend in operator.BACKENDS:
            if backend != "auto":
                found[name] |= conditional.get(backend, {backend: None})
    return found


def _versions() -> dict[str, str]:
    versions = {"dynconv": dynconv.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions | {"cuda of torch": torch.version.cuda or "none"}


def _native() -> dict[str, Any]:
    record: Mapping[str, Any] = backends.build_record()
    native: dict[str, Any] = {
        "mode": record.get("mode", "unknown: no build was recorded"),
        "built": record.get("built", {}),
        "left_out": record.get("left_out", {}),
    }
    if "_host" in native["built"]:
        host = importlib.import_module("dynconv._host")
        native |= {"build": host.build_info(), "processor": host.cpu_capabilities()}
        native["kernels"] = os.environ.get("DYNCONV_CPU_ISA") or _widest(set(native["processor"]))
    return native


def _widest(processor: set[str]) -> str:
    """The instruction set that the CPU kernels choose on a processor with these features."""
    if {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= processor:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= processor else "baseline"


def _lines(facts: dict[str, Any]) -> list[str]:
    native = facts["native"]
    lines = ["versions", *(f"  {name:<14} {value}" for name, value in facts["versions"].items())]
    lines += ["native build", f"  {'DYNCONV_BUILD':<14} {native['mode']}"]
    lines += [f"  {part:<14} {name}" for part, name in native["built"].items()]
    lines += [f"  {part:<14} left out: {reason}" for part, reason in native["left_out"].items()]
    lines += [f"  {name:<14} {value}" for name, value in native.get("build", {}).items()]
    if "processor" in native:
        lines.append(f"  {'processor':<14} {' '.join(native['processor'])}")
        lines.append(f"  {'CPU kernels':<14} {native['kernels']} (DYNCONV_CPU_ISA names another)")
    lines += ["GPUs", *(f"  {name}" for name in facts["gpus"] or ["none that torch can use"])]
    for operator, found in facts["backends"].items():
        lines.append(f"backends of {operator}")
        for name, reason in found.items():
            lines.append(f"  {name:<14} {'available' if reason is None else f'missing: {reason}'}")
    return lines


def main() -> None:
    """Print :func:`info` as text."""
    print("\n".join(_lines(info())))


if __name__ == "__main__":
    main()

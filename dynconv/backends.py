"""Which backends can run here, and for each that cannot, why not."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["build_record", "native_missing", "triton_missing"]

_PACKAGE = Path(__file__).parent


def triton_missing(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on tensors of a device, or None where they can.

    Args:
        device: Where the tensors are.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it exists for Linux; pip install triton)"
    if device.type == "cuda":
        return None
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return (
        f"Triton kernels run on CUDA tensors, and these are on {device.type} (TRITON_INTERPRET=1, set before the first "
        "import of triton, runs them slowly on the CPU)"
    )


# Per kind of device, why there are no native operators for it. A plain dictionary, which torch.compile can read.
_NATIVE_MISSING: dict[str, str] = {}
_LOGGER = logging.getLogger("dynconv")


def load_native() -> None:
    """Load the native operators, if they were built. Their schemas must be defined before."""
    left_out = build_record().get("left_out", {})
    for device_type, key in (("cpu", "CPU"), ("cuda", "CUDA")):
        part = f"_native_{device_type}"
        reason = left_out.get(part, "dynconv was installed without a native build")
        for library in _PACKAGE.glob(f"{part}*.so"):
            try:
                torch.ops.load_library(str(library))
            except OSError as error:
                reason = f"{library.name} does not load: {error}"
        if not torch._C._dispatch_has_kernel_for_dispatch_key("dynconv::coefficients_native_forward", key):
            _NATIVE_MISSING[device_type] = reason


def native_missing(device_type: str) -> str | None:
    """Why there are no native operators for tensors of a kind of device, or None where there are.

    Args:
        device_type: ``"cpu"``, ``"cuda"`` or another ``torch.device(...).type``.
    """
    if device_type not in ("cpu", "cuda"):
        return f"there are no native operators for {device_type} tensors"
    return _NATIVE_MISSING.get(device_type)


@functools.cache
def note_fallback(operator: str, device_type: str) -> None:
    """Log, once, that ``operator`` runs in plain PyTorch because its native form is missing, and why."""
    if reason := native_missing(device_type):
        _LOGGER.warning("%s runs in plain PyTorch on %s tensors: %s (dynconv info)", operator, device_type, reason)


def build_record() -> dict[str, Any]:
    """What ``setup.py`` built, what it left out and why; empty where nothing was recorded."""
    path = _PACKAGE / "build_record.json"
    return json.loads(path.read_text()) if path.is_file() else {}

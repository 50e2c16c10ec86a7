"""Which backends can run here, and for each that cannot, why not."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import torch

_PACKAGE = Path(__file__).parent


def triton_missing(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on tensors of ``device``, or None where they can."""
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


def load_native() -> None:
    """Load the native operators, if they were built. Their schemas must be defined before."""
    libraries = sorted(_PACKAGE.glob("_native*.so"))
    problems = []
    for library in libraries:
        try:
            torch.ops.load_library(str(library))
        except OSError as error:
            problems.append(f"{library.name} does not load: {error}")
    for device_type, key in (("cpu", "CPU"), ("cuda", "CUDA")):
        if torch._C._dispatch_has_kernel_for_dispatch_key("dynconv::coefficients_native_forward", key):
            _NATIVE_MISSING.pop(device_type, None)
        else:
            _NATIVE_MISSING[device_type] = "; ".join(problems) or f"no native build for {device_type}: see dynconv info"


def native_missing(device_type: str) -> str | None:
    """Why there are no native operators for tensors of this kind of device, or None where there are."""
    if device_type not in ("cpu", "cuda"):
        return f"there are no native operators for {device_type} tensors"
    return _NATIVE_MISSING.get(device_type)


def build_record() -> dict[str, str]:
    """What ``setup.py`` built, what it left out and why; empty where nothing was recorded."""
    path = _PACKAGE / "build_record.json"
    return json.loads(path.read_text()) if path.is_file() else {}

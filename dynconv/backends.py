"""Which backends can run here, and for each that cannot, why not."""

from __future__ import annotations

import functools
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


@functools.cache
def native_missing(device_type: str) -> str | None:
    """Why there are no native operators for this kind of device, or None where there are.

    The first call loads them, so the operators' schemas must have been defined (``import dynconv.functional``).
    """
    libraries = sorted(_PACKAGE.glob("_native*.so"))
    if not libraries:
        return build_record().get("reason") or "dynconv was installed without a native build (DYNCONV_BUILD=none)"
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError as error:
        return f"{libraries[0].name} does not load: {error}"
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    if key is None or not torch._C._dispatch_has_kernel_for_dispatch_key("dynconv::coefficients_native_forward", key):
        return f"the native build has no operators for {device_type} tensors"
    return None


def build_record() -> dict[str, str]:
    """What ``setup.py`` built, what it left out and why; empty where nothing was recorded."""
    path = _PACKAGE / "build_record.json"
    return json.loads(path.read_text()) if path.is_file() else {}

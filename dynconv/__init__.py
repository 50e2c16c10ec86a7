"""Fused per-sample dynamic convolution for PyTorch, and unsupervised domain adaptation on top of it.

``dynconv.functional`` has the operators, ``dynconv.nn`` the modules. Both are loaded when first used, and neither they
nor this package load any of the training code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynconv import functional, nn

__version__ = "0.1.0"
__all__ = ["__version__", "functional", "nn"]


def __getattr__(name: str) -> Any:
    if name in ("functional", "nn"):
        return importlib.import_module(f"dynconv.{name}")
    raise AttributeError(f"module 'dynconv' has no attribute {name!r}")

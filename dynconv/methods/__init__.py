"""The methods by name: each owns its networks, the recipes of its optimisers and its algorithm."""

from dynconv.methods.base import Method, MethodConfig, Update
from dynconv.methods.drt import DRT, DRTConfig
from dynconv.methods.mcd import MCD, MCDConfig
from dynconv.methods.source_only import SourceOnly, SourceOnlyConfig

METHODS: dict[str, type[Method]] = {"source-only": SourceOnly, "mcd": MCD, "drt": DRT}

__all__ = [
    "DRT",
    "MCD",
    "METHODS",
    "DRTConfig",
    "MCDConfig",
    "Method",
    "MethodConfig",
    "SourceOnly",
    "SourceOnlyConfig",
    "Update",
]

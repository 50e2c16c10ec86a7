"""The methods by name: each owns its networks, the recipes of its optimisers and its algorithm."""

from dynconv.methods.base import Method, MethodConfig, Refresh, Update
from dynconv.methods.cdan import CDAN, CDANConfig
from dynconv.methods.dann import DANN, DANNConfig
from dynconv.methods.drt import DRT, DRTConfig
from dynconv.methods.gsda import GSDA, GSDAConfig
from dynconv.methods.mada import MADA, MADAConfig
from dynconv.methods.mcd import MCD, MCDConfig
from dynconv.methods.pada import PADA, PADAConfig
from dynconv.methods.source_only import SourceOnly, SourceOnlyConfig

METHODS: dict[str, type[Method]] = {
    "source-only": SourceOnly,
    "dann": DANN,
    "mada": MADA,
    "cdan": CDAN,
    "pada": PADA,
    "mcd": MCD,
    "drt": DRT,
    "gsda": GSDA,
}

__all__ = [
    "CDAN",
    "DANN",
    "DRT",
    "GSDA",
    "MADA",
    "MCD",
    "METHODS",
    "PADA",
    "CDANConfig",
    "DANNConfig",
    "DRTConfig",
    "GSDAConfig",
    "MADAConfig",
    "MCDConfig",
    "Method",
    "MethodConfig",
    "PADAConfig",
    "Refresh",
    "SourceOnly",
    "SourceOnlyConfig",
    "Update",
]

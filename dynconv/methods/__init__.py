"""The methods by name: each owns its networks, the recipes of its optimisers and its algorithm."""

from dynconv.methods.adabn import AdaBN, AdaBNConfig
from dynconv.methods.adda import ADDA, ADDAConfig
from dynconv.methods.afn import AFN, AFNConfig
from dynconv.methods.base import Method
from dynconv.methods.bsp import BSP, BSPConfig
from dynconv.methods.calibrator import CalibratorConfig, CalibratorMethod
from dynconv.methods.cdan import CDAN, CDANConfig
from dynconv.methods.config import MethodConfig
from dynconv.methods.cyclegan import CycleGAN, CycleGANConfig
from dynconv.methods.dan import DAN, DANConfig
from dynconv.methods.dann import DANN, DANNConfig
from dynconv.methods.drt import DRT, DRTConfig
from dynconv.methods.gam import GAM, GAMConfig
from dynconv.methods.gaussian import Gaussian, GaussianConfig
from dynconv.methods.gsda import GSDA, GSDAConfig
from dynconv.methods.imported import Imported, ImportedConfig
from dynconv.methods.jan import JAN, JANConfig
from dynconv.methods.m3sda import M3SDA, M3SDAConfig
from dynconv.methods.mada import MADA, MADAConfig
from dynconv.methods.mcd import MCD, MCDConfig
from dynconv.methods.pada import PADA, PADAConfig
from dynconv.methods.records import About, Matched, Refresh, Update
from dynconv.methods.self_training import SelfTraining, SelfTrainingConfig
from dynconv.methods.source_only import SourceOnly, SourceOnlyConfig
from dynconv.methods.target_only import TargetOnly, TargetOnlyConfig

METHODS: dict[str, type[Method]] = {
    "source-only": SourceOnly,
    "target-only": TargetOnly,
    "imported": Imported,
    "adabn": AdaBN,
    "gaussian": Gaussian,
    "self-training": SelfTraining,
    "dan": DAN,
    "jan": JAN,
    "dann": DANN,
    "adda": ADDA,
    "mada": MADA,
    "cdan": CDAN,
    "pada": PADA,
    "mcd": MCD,
    "m3sda": M3SDA,
    "afn": AFN,
    "bsp": BSP,
    "drt": DRT,
    "gsda": GSDA,
    "gam": GAM,
    "calibrator": CalibratorMethod,
    "cyclegan": CycleGAN,
}

__all__ = [
    "ADDA",
    "AFN",
    "BSP",
    "CDAN",
    "DAN",
    "DANN",
    "DRT",
    "GAM",
    "GSDA",
    "JAN",
    "M3SDA",
    "MADA",
    "MCD",
    "METHODS",
    "PADA",
    "ADDAConfig",
    "AFNConfig",
    "About",
    "AdaBN",
    "AdaBNConfig",
    "BSPConfig",
    "CDANConfig",
    "CalibratorConfig",
    "CalibratorMethod",
    "CycleGAN",
    "CycleGANConfig",
    "DANConfig",
    "DANNConfig",
    "DRTConfig",
    "GAMConfig",
    "GSDAConfig",
    "Gaussian",
    "GaussianConfig",
    "Imported",
    "ImportedConfig",
    "JANConfig",
    "M3SDAConfig",
    "MADAConfig",
    "MCDConfig",
    "Matched",
    "Method",
    "MethodConfig",
    "PADAConfig",
    "Refresh",
    "SelfTraining",
    "SelfTrainingConfig",
    "SourceOnly",
    "SourceOnlyConfig",
    "TargetOnly",
    "TargetOnlyConfig",
    "Update",
]

"""Backbones by name, each static or with dynamic convolutions, from scratch or from weights."""

from dynconv.models.dynamic import DynamicSpec, dynamic_parameters
from dynconv.models.features import Features
from dynconv.models.lenet import LeNet
from dynconv.models.network import NAMES, Network, NetworkInput, Normalisation, build, input_of

__all__ = [
    "NAMES",
    "DynamicSpec",
    "Features",
    "LeNet",
    "Network",
    "NetworkInput",
    "Normalisation",
    "build",
    "dynamic_parameters",
    "input_of",
]

"""Backbones by name, each static or with every convolution dynamic."""

from dynconv.models.lenet import LeNet
from dynconv.models.network import NAMES, DynamicSpec, Network, build, dynamic_parameters

__all__ = ["NAMES", "DynamicSpec", "LeNet", "Network", "build", "dynamic_parameters"]

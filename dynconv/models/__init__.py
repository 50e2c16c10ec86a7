"""Backbones by name, each static or with dynamic convolutions, from scratch or from weights."""

from dynconv.models.calibrator import Calibrator
from dynconv.models.calibrator_file import load_calibrator, save_calibrator
from dynconv.models.dynamic import DynamicSpec, dynamic_parameters
from dynconv.models.features import Features
from dynconv.models.gaussian_matching import MatchedLayer, match_gaussian, matched_layers
from dynconv.models.lenet import LeNet
from dynconv.models.network import NAMES, SEGMENTATION, Network, NetworkInput, NormalisationChoice, build, input_of
from dynconv.models.normalisation import (
    DomainBatchNorm,
    DomainName,
    NormalisationPolicy,
    domain_norms,
    normalised_as,
    set_target_statistics,
    split_by_domain,
    statistics_held,
)
from dynconv.models.segmentation import SegmentationFeatures, SegmentationHead

__all__ = [
    "NAMES",
    "SEGMENTATION",
    "Calibrator",
    "DomainBatchNorm",
    "DomainName",
    "DynamicSpec",
    "Features",
    "LeNet",
    "MatchedLayer",
    "Network",
    "NetworkInput",
    "NormalisationChoice",
    "NormalisationPolicy",
    "SegmentationFeatures",
    "SegmentationHead",
    "build",
    "domain_norms",
    "dynamic_parameters",
    "input_of",
    "load_calibrator",
    "match_gaussian",
    "matched_layers",
    "normalised_as",
    "save_calibrator",
    "set_target_statistics",
    "split_by_domain",
    "statistics_held",
]

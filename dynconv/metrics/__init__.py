"""Measures of a classifier: with labels (accuracy, and IoU of label maps) and without the target's (validators)."""

from dynconv.metrics.classification import Classification, classification
from dynconv.metrics.deep_embedded_validation import controlled_risk, deep_embedded_validation, density_ratio
from dynconv.metrics.errors import NonFiniteError, UnlabelledError
from dynconv.metrics.segmentation import Segmentation, segmentation
from dynconv.metrics.validators import (
    LOWER_IS_BETTER,
    VALIDATORS,
    ValidatorName,
    entropy,
    information_maximisation,
    nuclear_norm,
    prediction_validators,
    soft_neighbourhood_density,
)

__all__ = [
    "LOWER_IS_BETTER",
    "VALIDATORS",
    "Classification",
    "NonFiniteError",
    "Segmentation",
    "UnlabelledError",
    "ValidatorName",
    "classification",
    "controlled_risk",
    "deep_embedded_validation",
    "density_ratio",
    "entropy",
    "information_maximisation",
    "nuclear_norm",
    "prediction_validators",
    "segmentation",
    "soft_neighbourhood_density",
]

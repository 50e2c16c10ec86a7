"""Measures of a classifier: with labels (accuracy, over all and by class) and without the target's (validators)."""

from dynconv.metrics.classification import Classification, classification
from dynconv.metrics.deep_embedded_validation import controlled_risk, deep_embedded_validation, density_ratio
from dynconv.metrics.errors import NonFiniteError
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
    "ValidatorName",
    "classification",
    "controlled_risk",
    "deep_embedded_validation",
    "density_ratio",
    "entropy",
    "information_maximisation",
    "nuclear_norm",
    "prediction_validators",
    "soft_neighbourhood_density",
]

"""Measures of a classifier: with labels (accuracy, over all and by class) and without (validators)."""

from dynconv.metrics.classification import Classification, classification
from dynconv.metrics.validators import Prediction, prediction_statistics

__all__ = ["Classification", "Prediction", "classification", "prediction_statistics"]

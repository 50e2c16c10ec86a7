"""Measures of a classifier: with labels (accuracy) and without (validators)."""

from dynconv.metrics.classification import accuracy
from dynconv.metrics.validators import Prediction, prediction_statistics

__all__ = ["Prediction", "accuracy", "prediction_statistics"]

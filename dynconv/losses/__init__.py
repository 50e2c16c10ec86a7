"""Losses on class scores."""

from dynconv.losses.cross_entropy import cross_entropy
from dynconv.losses.discrepancy import classifier_discrepancy
from dynconv.losses.entropy import class_balance

__all__ = ["class_balance", "classifier_discrepancy", "cross_entropy"]

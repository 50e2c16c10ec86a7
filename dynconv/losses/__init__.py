"""Losses: on class scores of images or pixels, of domain discriminators, and on the agreement of their gradients."""

from dynconv.losses.adversarial import domain_accuracies, domain_losses
from dynconv.losses.cross_entropy import cross_entropy
from dynconv.losses.discrepancy import classifier_discrepancy, probabilities
from dynconv.losses.entropy import class_balance, conditional_entropy
from dynconv.losses.feature_norm import hard_norm_loss, mean_norm, stepwise_norm_loss
from dynconv.losses.gradient_synchronisation import Hierarchy, parse_tree, synchronisation_terms
from dynconv.losses.mapping import (
    discrimination_loss,
    least_squares_discrimination_loss,
    least_squares_mapping_loss,
    mapping_loss,
)
from dynconv.losses.mmd import GaussianKernels, jmmd, mk_mmd, optimal_weights, quadruple_terms, term_covariance
from dynconv.losses.moments import MomentDistances, moment_distances, released_moment_distance
from dynconv.losses.spectral import spectral_penalty
from dynconv.losses.weight_drift import weight_drift

__all__ = [
    "GaussianKernels",
    "Hierarchy",
    "MomentDistances",
    "class_balance",
    "classifier_discrepancy",
    "conditional_entropy",
    "cross_entropy",
    "discrimination_loss",
    "domain_accuracies",
    "domain_losses",
    "hard_norm_loss",
    "jmmd",
    "least_squares_discrimination_loss",
    "least_squares_mapping_loss",
    "mapping_loss",
    "mean_norm",
    "mk_mmd",
    "moment_distances",
    "optimal_weights",
    "parse_tree",
    "probabilities",
    "quadruple_terms",
    "released_moment_distance",
    "spectral_penalty",
    "stepwise_norm_loss",
    "synchronisation_terms",
    "term_covariance",
    "weight_drift",
]

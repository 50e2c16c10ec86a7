"""Losses: on class scores, of domain discriminators, and on the agreement of their gradients."""

from dynconv.losses.adversarial import domain_accuracies, domain_losses
from dynconv.losses.cross_entropy import cross_entropy
from dynconv.losses.discrepancy import classifier_discrepancy, probabilities
from dynconv.losses.entropy import class_balance, conditional_entropy
from dynconv.losses.gradient_synchronisation import Hierarchy, parse_tree, synchronisation_terms

__all__ = [
    "Hierarchy",
    "class_balance",
    "classifier_discrepancy",
    "conditional_entropy",
    "cross_entropy",
    "domain_accuracies",
    "domain_losses",
    "parse_tree",
    "probabilities",
    "synchronisation_terms",
]

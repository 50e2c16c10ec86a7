"""Conditional domain adversarial networks (Long et al., NeurIPS 2018): a discriminator of features and predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dynconv.distributed import all_sum, world_size
from dynconv.losses import conditional_entropy, probabilities
from dynconv.methods.adversarial import (
    AdversarialConfig,
    AdversarialMethod,
    Alignment,
    Encoded,
    reversed_gradient,
)
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.dann import domain_game
from dynconv.methods.records import About
from dynconv.models import NormalisationPolicy

# The fields that say what the discriminator is conditioned on, and how.
CONDITIONING = (
    "conditioning",
    "predictions_learn",
    "entropy_conditioning",
    "entropy_normalisation",
    "random_features",
    "random_sampling",
)


@dataclass(frozen=True)
class CDANConfig(AdversarialConfig):
    """CDAN, or CDAN+E."""

    conditioning: Literal["multilinear", "concatenated", "predictions"] = "multilinear"
    """What the discriminator sees: the product of features f and predictions g (eq. 5), or what the paper compares it
    with, both side by side (DANN-[f, g]) or the predictions alone (DANN-g; DANN-f is the method `dann`)."""
    predictions_learn: bool = False
    """Whether the game's gradient also goes through the predictions into classifier and features; released CDAN holds
    it back, though no equation of the paper does. "predictions" needs it, for nothing else would be trained."""
    entropy_conditioning: bool = False
    """CDAN+E: samples count by 1 + exp(-H) of their predictions' entropy H (section 3.3)."""
    entropy_normalisation: Literal["domain", "none"] = "domain"
    """Each domain's weights are divided by their sum, so that both count alike (released CDAN+E), or they are taken as
    they are, between 1 and 2 (the paper's formula)."""
    random_features: int = 0
    """Width of a random projection in place of the product of all features and classes (eq. 6; the paper takes it where
    the product is wider than 4096, released CDAN with 1024); 0 for the product."""
    random_sampling: Literal["gaussian", "uniform"] = "gaussian"
    """What the projection is drawn from, with mean 0 and variance 1; the paper compares both (released CDAN:
    Gaussian)."""

    normalisation_policy: NormalisationPolicy = "separate"
    """What batch normalisation sees (see `MethodConfig`); separate passes in the released code of CDAN."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("random_features",), least=0)
        if not self.entropy_conditioning:
            choice = "entropy_conditioning false, which weighs no sample"
            check_unused(self, ("entropy_normalisation",), choice, "choose entropy_conditioning true")
        if self.random_features == 0:
            choice = "random_features 0, which draws no projection"
            check_unused(self, ("random_sampling",), choice, "give a number of random_features")
        if self.conditioning != "multilinear":
            choice = f"conditioning {self.conditioning!r}, which has no product to project"
            check_unused(self, ("random_features",), choice, "choose conditioning 'multilinear'")
        if self.conditioning == "predictions" and not self.predictions_learn:
            raise ValueError(
                "predictions_learn: conditioning 'predictions' trains the features through the predictions alone; "
                "choose predictions_learn true, or another conditioning"
            )


class CDAN(AdversarialMethod):
    """The discriminator sees the product of features and predictions (eq. 5), so that it tells the domains class by
    class; with `entropy_conditioning`, sure samples count more (CDAN+E)."""

    config_class: ClassVar[type[CDANConfig]] = CDANConfig
    config: CDANConfig
    about = About("Long et al., NeurIPS 2018", variants=("CDAN+E", "DANN-[f, g]", "DANN-g"))
    random_of_features: Tensor
    random_of_classes: Tensor

    def make_discriminators(self) -> nn.Module:
        features, random = self.features.out_features, self.config.random_features
        if self.config.conditioning == "concatenated":
            return self.bank(1, features + self.num_classes)
        if self.config.conditioning == "predictions":
            return self.bank(1, self.num_classes)
        if not random:
            return self.bank(1, features * self.num_classes)
        self.register_buffer("random_of_features", self.random_matrix(features))
        self.register_buffer("random_of_classes", self.random_matrix(self.num_classes))
        return self.bank(1, random)

    def random_matrix(self, rows: int) -> Tensor:
        """A new (rows, random_features) of independent numbers with mean 0 and variance 1."""
        if self.config.random_sampling == "gaussian":
            return torch.randn(rows, self.config.random_features)
        # From -a to a the variance is a^2 / 3.
        return (2 * torch.rand(rows, self.config.random_features) - 1) * math.sqrt(3)

    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        scores = reversed_gradient(encoded.scores, reverse)
        predictions = probabilities(scores if self.config.predictions_learn else scores.detach())
        inputs = self.conditioned(reversed_gradient(encoded.features, reverse), predictions)
        return domain_game(self.discriminators(inputs), encoded.domains, self.entropy_weights(scores, encoded.domains))

    def conditioned(self, features: Tensor, predictions: Tensor) -> Tensor:
        """What the discriminator sees of features (N, F) and predictions (N, C), as `conditioning` says."""
        if self.config.conditioning == "multilinear":
            return self.product(features, predictions)
        predictions = predictions.to(features.dtype)
        return predictions if self.config.conditioning == "predictions" else torch.cat([features, predictions], dim=1)

    def product(self, features: Tensor, predictions: Tensor) -> Tensor:
        """Features (N, F) times predictions (N, C): (N, F * C), or (N, random_features)."""
        predictions = predictions.to(features.dtype)
        if self.config.random_features:
            projected = (features @ self.random_of_features) * (predictions @ self.random_of_classes)
            return projected / math.sqrt(self.config.random_features)
        return (predictions[:, :, None] * features[:, None, :]).flatten(1)

    def entropy_weights(self, scores: Tensor, domains: Tensor) -> Tensor | None:
        """(N, 1): by their entropy, each domain's sum being half the number of all samples where they are normalised;
        None for 1."""
        if not self.config.entropy_conditioning:
            return None
        weights = 1 + torch.exp(-conditional_entropy(scores))
        if self.config.entropy_normalisation == "none":
            return weights[:, None]
        totals = all_sum(torch.stack([(weights * (1 - domains)).sum(), (weights * domains).sum()]).detach())
        half = len(domains) * world_size() / 2
        return (weights * half / totals[domains.long()])[:, None]

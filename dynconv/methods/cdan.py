"""Conditional domain adversarial networks (Long et al., NeurIPS 2018): a discriminator of features and predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from dynconv.methods.checks import check_range
from dynconv.methods.dann import domain_game
from dynconv.models import NormalisationPolicy


@dataclass(frozen=True)
class CDANConfig(AdversarialConfig):
    """CDAN, or CDAN+E."""

    entropy_conditioning: bool = False
    """CDAN+E: samples count by 1 + exp(-H) of their predictions' entropy H (section 3.3)."""
    random_features: int = 0
    """Width of a random projection in place of the product of all features and classes (eq. 6; the paper takes it where
    the product is wider than 4096, released CDAN with 1024); 0 for the product."""

    normalisation_policy: NormalisationPolicy = "separate"
    """What batch normalisation sees (see `MethodConfig`); separate passes in the released code of CDAN."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("random_features",), least=0)


class CDAN(AdversarialMethod):
    """The discriminator sees the product of features and predictions (eq. 5), so that it tells the domains class by
    class."""

    config_class = CDANConfig
    config: CDANConfig
    random_of_features: Tensor
    random_of_classes: Tensor

    def make_discriminators(self) -> nn.Module:
        features, random = self.features.out_features, self.config.random_features
        if not random:
            return self.bank(1, features * self.num_classes)
        self.register_buffer("random_of_features", torch.randn(features, random))
        self.register_buffer("random_of_classes", torch.randn(self.num_classes, random))
        return self.bank(1, random)

    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        scores = reversed_gradient(encoded.scores, reverse)
        product = self.product(reversed_gradient(encoded.features, reverse), probabilities(scores.detach()))
        return domain_game(self.discriminators(product), encoded.domains, self.entropy_weights(scores, encoded.domains))

    def product(self, features: Tensor, predictions: Tensor) -> Tensor:
        """Features (N, F) times predictions (N, C): (N, F * C), or (N, random_features)."""
        predictions = predictions.to(features.dtype)
        if self.config.random_features:
            projected = (features @ self.random_of_features) * (predictions @ self.random_of_classes)
            return projected / math.sqrt(self.config.random_features)
        return (predictions[:, :, None] * features[:, None, :]).flatten(1)

    def entropy_weights(self, scores: Tensor, domains: Tensor) -> Tensor | None:
        """(N, 1): by their entropy, each domain's sum being half the number of all samples, or None for 1."""
        if not self.config.entropy_conditioning:
            return None
        weights = 1 + torch.exp(-conditional_entropy(scores))
        totals = all_sum(torch.stack([(weights * (1 - domains)).sum(), (weights * domains).sum()]).detach())
        half = len(domains) * world_size() / 2
        return (weights * half / totals[domains.long()])[:, None]

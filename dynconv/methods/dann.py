"""Domain-adversarial training (Ganin et al., JMLR 2016): one discriminator for the domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dynconv.losses import domain_accuracies, domain_losses
from dynconv.methods.adversarial import (
    AdversarialConfig,
    AdversarialMethod,
    Alignment,
    Encoded,
    reversed_gradient,
)
from dynconv.methods.records import About
from dynconv.models import NormalisationPolicy


@dataclass(frozen=True)
class DANNConfig(AdversarialConfig):
    """DANN, trained as in released CDAN."""

    normalisation_policy: NormalisationPolicy = "separate"
    """What batch normalisation sees (see `MethodConfig`); separate passes in the released code of CDAN, which trains
    DANN too."""


class DANN(AdversarialMethod):
    """One discriminator tells the source's features from the target's; the features hide it, through gradient reversal
    whose weight rises during the run (Ganin et al., section 4.2; the rise in section 5.2.2)."""

    config_class: ClassVar[type[DANNConfig]] = DANNConfig
    about = About("Ganin et al., JMLR 2016")

    def make_discriminators(self) -> nn.Module:
        return self.bank(1, self.features.out_features)

    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        logits = self.discriminators(reversed_gradient(encoded.features, reverse))
        return domain_game(logits, encoded.domains, self.sample_weights(encoded))

    def sample_weights(self, encoded: Encoded) -> Tensor | None:
        """How much each sample counts for the discriminator, (N, 1); None for 1."""
        return None


def domain_game(logits: Tensor, domains: Tensor, weights: Tensor | None) -> Alignment:
    """The losses of discriminators with logits (N, M), summed over M and averaged over samples, and what to log."""
    loss = domain_losses(logits, domains, weights).sum() / len(logits)
    accuracy = domain_accuracies(logits.detach(), domains, None if weights is None else weights.detach()).mean()
    return Alignment(loss, None, {"domain_loss": loss.detach(), "discriminator/accuracy/level-0": accuracy})

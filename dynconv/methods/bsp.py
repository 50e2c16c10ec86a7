"""Batch spectral penalisation (Chen et al., ICML 2019): a domain game whose features keep no dominant direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dynconv.losses import spectral_penalty
from dynconv.methods.adversarial import Alignment, Encoded, reversed_gradient
from dynconv.methods.cdan import CDAN, CONDITIONING, CDANConfig
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.dann import domain_game
from dynconv.methods.records import About
from dynconv.models import NormalisationPolicy


@dataclass(frozen=True)
class BSPConfig(CDANConfig):
    """BSP; the other fields are those of CDAN, the game that it is added to."""

    game: Literal["dann", "cdan"] = "cdan"
    """The game between discriminator and features: BSP+DANN or BSP+CDAN (the paper's tables have both; the released
    BSP+CDAN is CDAN+E, which is `entropy_conditioning`)."""
    spectral_weight: float = 1e-4
    """Weight of the penalty (beta; 1e-4 in the paper)."""
    num_singular_values: int = 1
    """How many of the largest singular values are penalised (k; 1 in the paper)."""

    normalisation_policy: NormalisationPolicy = "joint"
    """What batch normalisation sees (see `MethodConfig`); one pass of both domains in the released code."""
    lr: float = 3e-3
    """Learning rate of what is new (0.003 in the released code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("spectral_weight",), least=0)
        check_range(self, ("num_singular_values",), least=1)
        if self.spectral_weight == 0:
            choice = "spectral_weight 0, which penalises none"
            check_unused(self, ("num_singular_values",), choice, "give a spectral_weight")
        if self.game == "dann":
            check_unused(self, CONDITIONING, "game 'dann', which conditions on nothing", "choose game 'cdan'")


class BSP(CDAN):
    """DANN or CDAN, whose features also minimise the squares of the largest singular values of the source's and of the
    target's batch, each domain's by itself: sum_{i <= k} (sigma_s,i^2 + sigma_t,i^2), times beta.

    The sum is over the batch, as in the paper: twice the batch is about twice the penalty.
    """

    config_class = BSPConfig
    config: BSPConfig
    about = About("Chen et al., ICML 2019", variants=("BSP+DANN", "BSP+CDAN"))

    def make_discriminators(self) -> nn.Module:
        return self.bank(1, self.features.out_features) if self.config.game == "dann" else super().make_discriminators()

    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        if self.config.game == "cdan":
            return super().alignment(encoded, reverse)
        return domain_game(self.discriminators(reversed_gradient(encoded.features, reverse)), encoded.domains, None)

    def task_loss(self, encoded: Encoded) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Cross entropy (and entropy, where it has a weight) and the penalty: what the features alone minimise."""
        task, logs = super().task_loss(encoded)
        if self.config.spectral_weight == 0:
            return task, logs
        penalty = self.spectral_loss(encoded)
        return task + self.config.spectral_weight * penalty, logs | {"spectral_loss": penalty.detach()}

    def spectral_loss(self, encoded: Encoded) -> Tensor:
        """The penalty of both domains, without its weight: a scalar."""
        count, largest = len(encoded.labels), self.config.num_singular_values
        source, target = encoded.features[:count], encoded.features[count:]
        return spectral_penalty(source, largest) + spectral_penalty(target, largest)

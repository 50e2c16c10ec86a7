"""Multi-adversarial domain adaptation (Pei et al., AAAI 2018): one discriminator per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import nn

from dynconv.losses import probabilities
from dynconv.methods.adversarial import (
    AdversarialConfig,
    AdversarialMethod,
    Alignment,
    Encoded,
    reversed_gradient,
)
from dynconv.methods.checks import check_range
from dynconv.methods.dann import domain_game
from dynconv.methods.records import About


@dataclass(frozen=True)
class MADAConfig(AdversarialConfig):
    """MADA."""

    class_weight: float = 0.3
    """Weight of each class's loss (0.3 in the released code)."""
    assignment: Literal["soft", "hard"] = "soft"
    """How a sample is divided among the discriminators: by its predicted probabilities (eq. 4), or all of it to that of
    its most probable class, the choice that the paper's soft one stands against. What the paper shares between the
    discriminators is `shared_layers`."""
    lr_gamma: float = 3e-4
    """How fast "inverse" falls, per step (released MADA: 0.0003)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("class_weight",), above=0)


class MADA(AdversarialMethod):
    """The discriminator of class k sees p_k f: features weighted by how probable its class is (eq. 4)."""

    config_class = MADAConfig
    config: MADAConfig
    about = About("Pei et al., AAAI 2018")

    def make_discriminators(self) -> nn.Module:
        return self.bank(self.num_classes, self.features.out_features)

    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        # The predictions of both domains, as in the paper; no gradient goes through them.
        weights = probabilities(encoded.scores.detach())
        features = reversed_gradient(encoded.features, reverse)
        if self.config.assignment == "hard":
            # As weights of the samples: a feature times 0 would be a sample that counts, and tells nothing.
            counts = F.one_hot(weights.argmax(dim=1), self.num_classes)
            game = domain_game(self.discriminators(features), encoded.domains, counts)
        else:
            seen = weights.to(features.dtype).t()[:, :, None] * features
            game = domain_game(self.discriminators(seen), encoded.domains, None)
        return game._replace(opposed=self.config.class_weight * game.opposed)

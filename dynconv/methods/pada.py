"""Partial adversarial domain adaptation (Cao et al., ECCV 2018): source classes that the target lacks count less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.distributed import all_mean
from dynconv.methods.adversarial import Encoded
from dynconv.methods.base import Refresh
from dynconv.methods.checks import check_range
from dynconv.methods.dann import DANN, DANNConfig


@dataclass(frozen=True)
class PADAConfig(DANNConfig):
    """PADA."""

    weights_every: int = 500
    """Steps between two estimates of the classes' weights (released PADA: 500)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("weights_every",), least=1)
        if self.target_sampling != "all":
            raise ValueError(
                "target_sampling: PADA weighs the classes by the predictions on all target images; leave it at 'all'"
            )


class PADA(DANN):
    """DANN whose source samples count, for classifier and discriminator, by how much of the target is predicted to be
    of their class (eq. 4 and 5)."""

    config_class = PADAConfig
    config: PADAConfig
    class_weights: Tensor

    def make_discriminators(self) -> torch.nn.Module:
        self.register_buffer("class_weights", torch.ones(self.num_classes))
        return super().make_discriminators()

    def refresh_interval(self, steps_per_pass: int) -> int:
        return self.config.weights_every

    def refresh(self, scores: Tensor) -> Refresh:
        """Estimate the weight of each class: its mean probability on the target (eq. 4)."""
        # Before the first step the predictions say nothing.
        if int(self.step) > 0:
            mean = scores.softmax(dim=1, dtype=torch.promote_types(scores.dtype, torch.float32)).mean(dim=0)
            self.class_weights.copy_(mean / mean.mean())
        low, high = self.class_weights.aminmax()
        return Refresh(logs={"class-weights/smallest": float(low), "class-weights/largest": float(high)})

    def classification_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy with each class's weight, as a weighted mean (eq. 5)."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = self.class_weights.to(scores.dtype)
        total = F.cross_entropy(
            scores,
            labels,
            weight=weights,
            label_smoothing=self.config.label_smoothing * self.num_classes / (self.num_classes - 1),
            reduction="sum",
        )
        return total / all_mean(weights[labels].sum())

    def sample_weights(self, encoded: Encoded) -> Tensor:
        """Source samples by their class's weight over the largest of all classes (the released code takes the largest
        of the batch), target samples 1."""
        weights = torch.ones_like(encoded.domains)[:, None]
        weights[: len(encoded.labels), 0] = (self.class_weights / self.class_weights.max())[encoded.labels].to(weights)
        return weights

"""Partial adversarial domain adaptation (Cao et al., ECCV 2018): source classes that the target lacks count less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.distributed import all_mean, all_min
from dynconv.losses import probabilities
from dynconv.losses.precision import widened
from dynconv.methods.adversarial import Encoded
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.dann import DANN, DANNConfig
from dynconv.methods.records import About, Refresh


@dataclass(frozen=True)
class PADAConfig(DANNConfig):
    """PADA."""

    weights_every: int = 500
    """Steps between two estimates of the classes' weights (released PADA: 500)."""
    weighting: Literal["both", "classifier", "discriminator"] = "both"
    """Which losses of the source the weights reach. The paper's ablation: without the classifier's
    ("discriminator", its PADA-classifier), and without the discriminator's ("classifier", its PADA-adversarial)."""
    classifier_mean: Literal["weighted", "samples"] = "weighted"
    """The classifier's loss divided by the sum of its samples' weights (released PADA), or by their number, with the
    largest class weight made 1 (as the paper prints it; the fewer classes the target has, the smaller the loss)."""
    largest: Literal["classes", "batch"] = "classes"
    """What the discriminator's weights are divided by: the largest of all classes (the paper), or of the source samples
    in the batch (released PADA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("weights_every",), least=1)
        if self.weighting == "discriminator":
            choice = "weighting 'discriminator', which leaves the classifier's loss alone"
            check_unused(self, ("classifier_mean",), choice, "choose weighting 'both'")
        if self.weighting == "classifier":
            choice = "weighting 'classifier', which leaves the discriminator's loss alone"
            check_unused(self, ("largest",), choice, "choose weighting 'both'")
        if self.target_sampling != "all":
            raise ValueError(
                "target_sampling: PADA weighs the classes by the predictions on all target images; leave it at 'all'"
            )


class PADA(DANN):
    """DANN whose source samples count, for classifier and discriminator, by how much of the target is predicted to be
    of their class (eq. 4 and 5).

    The released code passes both domains at once; that is the `normalisation_policy` "joint".
    """

    config_class: ClassVar[type[PADAConfig]] = PADAConfig
    config: PADAConfig
    about = About("Cao et al., ECCV 2018", variants=("PADA-classifier", "PADA-adversarial"), partial=True)
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
            mean = probabilities(scores).mean(dim=0)
            self.class_weights.copy_(mean / mean.mean())
        low, high = self.class_weights.aminmax()
        return Refresh(logs={"class-weights/smallest": float(low), "class-weights/largest": float(high)})

    def classification_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy with each class's weight (eq. 5), as `classifier_mean` says."""
        if self.config.weighting == "discriminator":
            return super().classification_loss(scores, labels)
        scores = widened(scores)
        weights = self.class_weights.to(scores.dtype)
        if self.config.classifier_mean == "samples":
            weights = weights / weights.max()
        total = F.cross_entropy(
            scores,
            labels,
            weight=weights,
            label_smoothing=self.config.label_smoothing * self.num_classes / (self.num_classes - 1),
            reduction="sum",
        )
        return total / (len(labels) if self.config.classifier_mean == "samples" else all_mean(weights[labels].sum()))

    def sample_weights(self, encoded: Encoded) -> Tensor | None:
        """Source samples by their class's weight over the largest one, as `largest` says, target samples 1."""
        if self.config.weighting == "classifier":
            return None
        of_source = self.class_weights[encoded.labels]
        # all_min knows of every process's samples, and the largest is minus the least of their negatives.
        largest = self.class_weights.max() if self.config.largest == "classes" else -all_min(-of_source.max())
        weights = torch.ones_like(encoded.domains)[:, None]
        weights[: len(encoded.labels), 0] = (of_source / largest).to(weights)
        return weights

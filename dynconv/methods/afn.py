"""Adaptive feature norm (Xu et al., ICCV 2019): features of both domains get larger norms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynconv.losses import conditional_entropy, hard_norm_loss, mean_norm, stepwise_norm_loss
from dynconv.methods.base import Method
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Update
from dynconv.models import NormalisationPolicy, split_by_domain
from dynconv.models.features import Features

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class AFNConfig(MethodConfig):
    """AFN; the defaults are those of the released code on Office-31."""

    form: Literal["stepwise", "hard"] = "stepwise"
    """SAFN, where every norm grows by `step_size` per step (objective C2), or HAFN, where each domain's mean norm goes
    to `radius` (objective C1)."""
    norm_weight: float = 0.05
    """Weight of the norms' loss (lambda; 0.05 in the released code)."""
    step_size: float = 1.0
    """By how much a norm is to grow in a step ("stepwise" only; Delta r, 1 in the released code)."""
    radius: float = 25.0
    """The mean norm that is asked for ("hard" only; R, 25 in the released code)."""
    mean_over: Literal["union", "domains"] = "union"
    """The mean over the samples of both domains (C2), or the sum of each domain's mean, which is twice as much in
    batches of one size (released code); "stepwise" only, for "hard" has one norm per domain (C1)."""
    entropy_weight: float = 0.0
    """Weight of the entropy of the target's predictions (0.1 in the released code of SAFN+ENT)."""
    num_layers: int = 1
    """Fully connected layers between backbone and classifier, each with batch normalisation (but for the policy
    "frozen"), ReLU and dropout; the norm is that of the last one's output (1 in the released code on Office-31)."""
    width: int = 1000
    """Width of these layers (the size of the embedding, 1000 in the released code)."""
    dropout: float = 0.5
    """Probability of dropping a feature after each of these layers (0.5 in the released code)."""
    preserve_norm: bool = True
    """L2-preserved dropout: what is kept is multiplied by 1 / sqrt(1 - p), so that the expected square of the norm is
    the same in training and at test, instead of 1 / (1 - p), which keeps the expected sum."""

    normalisation_policy: NormalisationPolicy = "separate"
    """What batch normalisation sees (see `MethodConfig`); a pass of each domain in the released code."""
    optimiser: Literal["adam", "sgd"] = "sgd"
    """SGD in the released code, which leaves the momentum out for the backbone."""
    lr: float = 1e-3
    """Learning rate of all parameters (0.001 in the released code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("norm_weight", "entropy_weight", "dropout", "step_size"), least=0)
        check_range(self, ("radius",), above=0)
        check_range(self, ("num_layers", "width"), least=1)
        if self.dropout >= 1:
            raise ValueError(f"dropout: expected 0 to less than 1, got {self.dropout}")
        if self.dropout == 0:
            check_unused(self, ("preserve_norm",), "dropout 0, which changes no norm", "give a dropout")
        if self.norm_weight == 0:
            choice = "norm_weight 0, which asks nothing of the norms"
            check_unused(self, ("step_size", "radius", "mean_over"), choice, "give a norm_weight")
        if self.form == "stepwise":
            check_unused(self, ("radius",), "form 'stepwise', which has no radius", "choose form 'hard'")
        else:
            unused = ("step_size", "mean_over")
            check_unused(self, unused, "form 'hard', which has no use for it", "choose form 'stepwise'")


class AFN(Method):
    """Cross entropy on the source, and norms of the features that grow together in both domains: stepwise (SAFN,
    objective C2) or towards one number (HAFN, objective C1). Small norms of the target are what the paper finds behind
    its errors.

    The features that `encode` gives are the output of the last fully connected layer, after its dropout.
    """

    config_class = AFNConfig
    config: AFNConfig
    about = About("Xu et al., ICCV 2019", variants=("SAFN", "HAFN"), partial=True)
    default_batch_size = 32

    def __init__(self, config: AFNConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        embedding = Embedding(self.features, config)
        if config.has_split_statistics:
            split_by_domain(embedding.layers, shared_affine=config.normalisation_policy == "adabn")
        self.features = embedding
        self.heads = nn.ModuleList([nn.Linear(config.width, num_classes)])

    def updates(self, batch: Batch) -> Iterator[Update]:
        source, target = self.encode(batch)
        learning = self.source_loss(source, batch.source.labels)
        norms = self.norm_loss(source, target)
        loss = learning + self.config.norm_weight * norms
        logs = {
            "cross_entropy": learning.detach(),
            "norm_loss": norms.detach(),
            "norm/source": mean_norm(source),
            "norm/target": mean_norm(target),
        }
        if self.config.entropy_weight:
            entropy = conditional_entropy(self.scores(target)).mean()
            loss = loss + self.config.entropy_weight * entropy
            logs["entropy"] = entropy.detach()
        yield Update(loss, of=("features", "heads"), logs=logs)

    def norm_loss(self, source: Tensor, target: Tensor) -> Tensor:
        """What is asked of the norms of features (B, F) of both domains, without its weight: a scalar."""
        config = self.config
        if config.form == "hard":
            return hard_norm_loss(source, config.radius) + hard_norm_loss(target, config.radius)
        if config.mean_over == "domains":
            return stepwise_norm_loss(source, config.step_size) + stepwise_norm_loss(target, config.step_size)
        return stepwise_norm_loss(torch.cat([source, target]), config.step_size)


class Embedding(Features):
    """A backbone and the fully connected layers whose output's norm is adapted.

    Args:
        trunk: The backbone.
        config: Number, width, normalisation and dropout of the layers.
    """

    def __init__(self, trunk: Features, config: AFNConfig) -> None:
        super().__init__()
        self.trunk = trunk
        layers: list[nn.Module] = []
        for index in range(config.num_layers):
            layers.append(nn.Linear(config.width if index else trunk.out_features, config.width))
            # These layers come with no statistics that could be frozen.
            if config.norm == "batch" and config.normalisation_policy != "frozen":
                layers.append(nn.BatchNorm1d(config.width))
            layers.append(nn.ReLU())
            layers.append(NormPreservingDropout(config.dropout) if config.preserve_norm else nn.Dropout(config.dropout))
        self.layers = nn.Sequential(*layers)
        self.image_size = trunk.image_size
        self.out_features = config.width

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.trunk(images))


class NormPreservingDropout(nn.Module):
    """Dropout that keeps the expected square of a norm (the L2-preserved dropout of Xu et al., ICCV 2019).

    Args:
        p: Probability of dropping an element, 0 <= p < 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        """`inputs` of any shape; the same in evaluation mode."""
        return F.dropout(inputs, self.p, self.training) * (math.sqrt(1 - self.p) if self.training else 1.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"

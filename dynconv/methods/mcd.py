"""Maximum classifier discrepancy: two classifiers find target samples far from the source, the features hide them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from dynconv.losses import class_balance, classifier_discrepancy
from dynconv.methods.base import Method
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Update
from dynconv.methods.schedules import sigmoid_ramp
from dynconv.models import NormalisationPolicy
from dynconv.nn import GradientReversal

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class MCDConfig(MethodConfig):
    """MCD (Saito et al., CVPR 2018)."""

    form: Literal["three-step", "reversal"] = "three-step"
    """The paper's steps A, B and C, or all at once through gradient reversal (as released DRT trains)."""
    distance: Literal["l1", "l2"] = "l1"
    """The discrepancy of two predictions: mean absolute difference, or mean squared difference, which the paper reports
    to work less well (section 3.2)."""
    discrepancy_weight: float = 1.0
    """Weight of the discrepancy beside the cross entropy (1 in MCD; lambda in DRT eq. 6)."""
    discrepancy_steps: int = 4
    """How often step C is taken ("three-step" only; num_k of MCD, 4 on its digits)."""
    reversal_weight: float = 1.0
    """The features get this many times the reversed gradient ("reversal" only; 4 in released DRT)."""
    ramp: Literal["linear", "sigmoid"] = "linear"
    """Shape of the discrepancy weight's rise: p, or 2 / (1 + exp(-10 p)) - 1, with p = step / ramp_steps up to 1."""
    ramp_steps: int = 0
    """Steps over which the discrepancy weight rises from 0; 0 for the full weight from the first step (papers)."""
    class_balance: float = 0.0
    """Weight of the class balance term on the target; 0 in the papers, 0.01 in released MCD (VisDA) and DRT."""
    normalisation_policy: NormalisationPolicy = "separate"
    """How batch normalisation treats the two domains: "separate" forward passes in MCD; all choices as in
    `MethodConfig`."""
    prediction: Literal["sum", "max"] = "sum"
    """Scores at test: the "sum" of both classifiers (MCD), or, per image (in segmentation per pixel), those of the one
    with the larger "max" score (released DRT)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("discrepancy_weight", "class_balance", "ramp_steps"), least=0)
        check_range(self, ("reversal_weight",), above=0)
        check_range(self, ("discrepancy_steps",), least=1)
        if self.form == "three-step":
            choice = "form 'three-step', which reverses no gradient"
            check_unused(self, ("reversal_weight",), choice, "choose form 'reversal'")
        else:
            choice = "form 'reversal', which takes no step C"
            check_unused(self, ("discrepancy_steps",), choice, "choose form 'three-step'")


class MCD(Method):
    """min over classifiers and features of the source's cross entropy; max over classifiers, min over features of the
    target's discrepancy (steps A, B and C of Saito et al., section 3.3).

    `num_heads` is for the methods that have other classifiers than its two.
    """

    config_class: ClassVar[type[MCDConfig]] = MCDConfig
    config: MCDConfig
    about = About("Saito et al., CVPR 2018", segmentation=True)

    def __init__(self, config: MCDConfig, num_classes: int, *, num_heads: int = 2) -> None:
        super().__init__(config, num_classes, num_heads=num_heads)
        self.reversal = GradientReversal(config.reversal_weight)
        self.weight = discrepancy_weight(config, 0)

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.weight = discrepancy_weight(self.config, step)

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield from self.three_step(batch) if self.config.form == "three-step" else self.reversed_step(batch)

    def three_step(self, batch: Batch) -> Iterator[Update]:
        """A: learn the source. B: the classifiers, which keep the source, disagree on the target. C: the features,
        `discrepancy_steps` times, make them agree."""
        source, target = self.encode(batch)
        loss = self.source_loss(source, batch.source.labels) + self.balance_loss(target)
        yield Update(loss, of=("features", "heads"), logs={"loss_a": loss.detach()})

        with torch.no_grad():
            source, target = self.encode(batch)
        learning = self.source_loss(source, batch.source.labels)
        discrepancy = self.discrepancy(target)
        loss = learning + self.balance_loss(target) - self.weight * discrepancy
        logs = {"cross_entropy": learning.detach(), "discrepancy_before": discrepancy.detach()}
        yield Update(loss, of=("heads",), logs=logs | {"discrepancy_weight": self.weight})

        for _ in range(self.config.discrepancy_steps):
            target = self.encode_target(batch)
            discrepancy = self.discrepancy(target)
            yield Update(self.weight * discrepancy, of=("features",), logs={"discrepancy": discrepancy.detach()})

    def reversed_step(self, batch: Batch) -> Iterator[Update]:
        """All at once: descending -weight * discrepancy is the classifiers' ascent, and below the reversal the
        features' descent."""
        source, target = self.encode(batch)
        learning = self.source_loss(source, batch.source.labels)
        discrepancy = self.discrepancy(self.reversal(target))
        loss = learning + self.balance_loss(target) - self.weight * discrepancy
        logs = {"cross_entropy": learning.detach(), "discrepancy": discrepancy.detach()}
        yield Update(loss, of=("features", "heads"), logs=logs | {"discrepancy_weight": self.weight})

    def scores(self, features: Tensor) -> Tensor:
        """Class scores (B, num_classes) of features (B, F), as `prediction` says."""
        scores = torch.stack([head(features) for head in self.heads])
        if self.config.prediction == "sum":
            return scores.sum(dim=0)
        winner = scores.amax(dim=2, keepdim=True).argmax(dim=0, keepdim=True)
        return scores.gather(0, winner.expand_as(scores[:1]))[0]

    def discrepancy(self, features: Tensor) -> Tensor:
        """How far both classifiers disagree on features (B, F): a scalar."""
        first, second = (head(features) for head in self.heads)
        return classifier_discrepancy(first, second, distance=self.config.distance)

    def balance_loss(self, features: Tensor) -> Tensor:
        """The weighted class balance term of target features (B, F), summed over the classifiers: a scalar."""
        if self.config.class_balance == 0:
            return features.new_zeros(())
        terms = [class_balance(head(features)) for head in self.heads]
        return self.config.class_balance * torch.stack(terms).sum()


def discrepancy_weight(config: MCDConfig, step: int) -> float:
    """The weight of the discrepancy at `step`, counted from 0, with its ramp."""
    return config.discrepancy_weight * risen(config, step)


def risen(config: MCDConfig, step: int) -> float:
    """The part of its weight that the discrepancy has at `step`: 1 once the ramp is over."""
    if step >= config.ramp_steps:
        return 1.0
    progress = step / config.ramp_steps
    return progress if config.ramp == "linear" else sigmoid_ramp(progress)

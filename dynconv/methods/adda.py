"""Adversarial discriminative domain adaptation (Tzeng et al., CVPR 2017): an encoder for each domain, and the target's
is trained against a discriminator that knows the source's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from dynconv.distributed import all_mean
from dynconv.losses import discrimination_loss, mapping_loss
from dynconv.losses.mapping import MappingForm
from dynconv.losses.rows import as_rows, by_pieces
from dynconv.methods.adapted import Adapted, AdaptedConfig, accuracy_of_domains
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.records import About, Update
from dynconv.models import NormalisationPolicy
from dynconv.nn import DiscriminatorBank

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class ADDAConfig(AdaptedConfig):
    """ADDA; the defaults are those of the paper's digits."""

    discriminator_steps: int = 0
    """Steps of the adaptation in which the discriminator learns alone (0 in the paper)."""
    weight_sharing: Literal["unshared", "shared"] = "unshared"
    """Whether the target has an encoder of its own, which starts as the source's and leaves that and the classifier as
    they are (ADDA), or one encoder serves both and goes on learning the source meanwhile (Table 1's other choice)."""
    mapping: MappingForm = "inverted"
    """What the encoder minimises (Table 1): the loss of a GAN with "inverted" labels (eq. 7, ADDA), "minimax" (eq. 6)
    or domain "confusion" (eq. 8)."""
    discriminates: Literal["features", "logits"] = "features"
    """What the discriminator sees: what the encoders give (paper), or the classifier's scores of it (released CyCADA).
    With weight_sharing "unshared" the classifier stays the source's (CyCADA's port for digits adapts a copy of it to
    the target); with "shared" the encoder's adversarial steps are steps of the classifier too, as in CyCADA's
    segmentation. Of label maps each place is a sample, and the discriminator is a stack of 1x1 convolutions; there
    "logits" are the custom."""
    gate: float = 0.0
    """The target's encoder takes no step where the discriminator's accuracy on the batch is not above this (0.6 in
    released CyCADA, whose segmentation takes the accuracy of the last 100 steps); 0 for a step each time (paper)."""
    adversarial_weight: float = 1.0
    """Weight of the encoder's loss beside the source's cross entropy ("shared" only; 0.1 in released CyCADA's
    segmentation)."""

    normalisation_policy: NormalisationPolicy = "separate"
    """How batch normalisation treats the two domains. With encoders of their own each domain has its own statistics;
    the source's are left alone by the adaptation. "separate": the target's come from its batches (released CyCADA);
    "source-only": they stay what the source's were; "frozen": both stay those of `weights`. With shared weights all
    choices as in `MethodConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("discriminator_steps", "gate", "adversarial_weight"), least=0)
        if self.gate >= 1:
            raise ValueError(f"gate: expected less than 1, got {self.gate}")
        if self.discriminates == "features":
            choice = "discriminates 'features', which shows no scores"
            check_unused(self, ("score_maps",), choice, "choose discriminates 'logits'")
        if self.weight_sharing == "shared":
            choice = "weight_sharing 'shared', which has one encoder"
            unused = ("adaptation_lr_factor", "drift_weight", "drift")
            check_unused(self, unused, choice, "choose weight_sharing 'unshared'")
            return
        choice = "weight_sharing 'unshared', whose encoder has no other loss"
        check_unused(self, ("adversarial_weight",), choice, "choose weight_sharing 'shared'")
        own: tuple[NormalisationPolicy, ...] = ("separate", "source-only", "frozen")
        if self.normalisation_policy not in own:
            raise ValueError(
                f"normalisation_policy: {self.normalisation_policy!r} is for one encoder, and weight_sharing "
                f"'unshared' has two; choose one of {', '.join(map(repr, own))}, or weight_sharing 'shared'"
            )

    @property
    def has_two_encoders(self) -> bool:
        return self.weight_sharing == "unshared"


class ADDA(Adapted):
    """min over the source's encoder and the classifier of the cross entropy; then min over D of L_advD and min over
    the target's encoder of L_advM (eq. 9).

    With `drift_weight` it is "ADDA + our regularization" of GAM (Huang et al., ECCV 2018, Table 1). Several sources are
    one.
    """

    config_class: ClassVar[type[ADDAConfig]] = ADDAConfig
    about = About("Tzeng et al., CVPR 2017", segmentation=True)
    default_batch_size = 128
    config: ADDAConfig

    def __init__(self, config: ADDAConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        if config.has_two_encoders:
            self.give_own_encoder()
        seen = self.features.out_features if config.discriminates == "features" else num_classes
        self.discriminators = DiscriminatorBank(
            1, seen, hidden_features=config.hidden_features, num_layers=config.num_layers, dropout=0.0
        )
        self.maps = False
        # The discriminator's accuracy on each micro-batch of the step.
        self._accuracies: list[Tensor] = []

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        pretrained, alone = self.config.adaptation_begins(max_steps), self.config.discriminator_steps
        if pretrained + alone >= max_steps:
            raise ValueError(
                f"pretrain, discriminator_steps: of the run's {max_steps} steps {pretrained} learn the source and "
                f"{alone} train the discriminator alone, so nothing is ever adapted; give less of these, or more steps"
            )

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.maps = step >= self.config.adaptation_begins(max_steps) + self.config.discriminator_steps
        self._accuracies.clear()

    def adaptation(self, batch: Batch) -> Iterator[Update]:
        """A step of the discriminator, then one of the encoder against it."""
        source, target = self.encode(batch)
        seen = self.discriminated(source), self.discriminated(target)
        of_source, of_target = self.judged(seen[0].detach(), seen[1].detach())
        loss = discrimination_loss(of_source, of_target)
        accuracy = accuracy_of_domains(of_source.detach(), of_target.detach())
        self._accuracies.append(accuracy)
        logs = {"domain_loss": loss.detach(), "discriminator/accuracy/level-0": accuracy}
        yield Update(loss, of=("discriminators",), logs=logs)
        if not self.maps or self.gate_is_shut():
            return
        # The encoders did not change meanwhile, so their features are not computed again.
        loss = mapping_loss(*self.judged(*seen), self.config.mapping)
        logs = {"mapping_loss": loss.detach()}
        if self.encoders is not None:
            yield Update(self.with_drift(loss, logs), of=("features",), logs=logs)
            return
        learning = self.source_loss(source, batch.source.labels)
        logs["cross_entropy"] = learning.detach()
        yield Update(learning + self.config.adversarial_weight * loss, of=("features", "heads"), logs=logs)

    def discriminated(self, features: Tensor) -> Tensor:
        """What the discriminator sees of features (B, F): (B, F) or (B, num_classes); of maps a row for each place."""
        return as_rows(features if self.config.discriminates == "features" else self.shown_scores(features))

    def judged(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's logits (N, 1) of the rows it sees of source and target; positive for the source."""
        logits = by_pieces(self.discriminators, torch.cat([source, target]))
        return logits[: len(source)], logits[len(source) :]

    def gate_is_shut(self) -> bool:
        """Whether the discriminator's accuracy on the whole batch is too low for the encoder to step."""
        if self.config.gate == 0:
            return False
        return bool(all_mean(torch.stack(self._accuracies).mean()) <= self.config.gate)

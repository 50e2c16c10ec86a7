"""Adversarial discriminative domain adaptation (Tzeng et al., CVPR 2017): an encoder for each domain, and the target's
is trained against a discriminator that knows the source's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from dynconv.distributed import all_mean
from dynconv.losses import MappingForm, as_rows, by_pieces, discrimination_loss, domain_accuracies, mapping_loss
from dynconv.methods.base import About, Update
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.encoders import Encoders, encoding, evaluated
from dynconv.methods.source_first import SourceFirst, SourceFirstConfig
from dynconv.models import DomainName, Features, NormalisationPolicy
from dynconv.nn import DiscriminatorBank

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class ADDAConfig(SourceFirstConfig):
    """ADDA; the defaults are those of the paper's digits."""

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
    hidden_features: int = 500
    """Width of the discriminator's hidden layers (section 5.1: 500)."""
    num_layers: int = 3
    """Linear layers of the discriminator (section 5.1: 3)."""
    discriminator_steps: int = 0
    """Steps of the adaptation in which the discriminator learns alone (0 in ADDA, 500 in the paper of GAM)."""
    gate: float = 0.0
    """The target's encoder takes no step where the discriminator's accuracy on the batch is not above this (0.6 in
    released CyCADA, whose segmentation takes the accuracy of the last 100 steps); 0 for a step each time (paper)."""
    adversarial_weight: float = 1.0
    """Weight of the encoder's loss beside the source's cross entropy ("shared" only; 0.1 in released CyCADA's
    segmentation)."""
    adaptation_lr_factor: float = 0.2
    """The target's encoder learns with this many times `lr` ("unshared" only; 0.2 x 1e-3 = the paper's 2e-4)."""
    discriminator_lr_factor: float = 0.2
    """The discriminator's learning rate is this many times `lr` (as the encoder's in the paper)."""
    beta1: float = 0.5
    """Adam's beta 1 of the discriminator and of the target's own encoder (section 5.1: 0.5)."""

    lr: float = 1e-3
    """Learning rate on the source (released code of GAM: 1e-3)."""
    weight_decay: float = 2.5e-5
    """L2 penalty while the source is learnt (released code of GAM: 2.5e-5); what only adapts has none."""
    normalisation_policy: NormalisationPolicy = "separate"
    """How batch normalisation treats the two domains. With encoders of their own each domain has its own statistics;
    the source's are left alone by the adaptation. "separate": the target's come from its batches (released CyCADA);
    "source-only": they stay what the source's were; "frozen": both stay those of `weights`. With shared weights all
    choices as in `MethodConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("discriminator_steps", "gate", "adversarial_weight", "beta1"), least=0)
        check_range(self, ("adaptation_lr_factor", "discriminator_lr_factor"), above=0)
        check_range(self, ("hidden_features", "num_layers"), least=1)
        for name in ("gate", "beta1"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected less than 1, got {getattr(self, name)}")
        if self.discriminates == "features":
            choice = "discriminates 'features', which shows no scores"
            check_unused(self, ("score_maps",), choice, "choose discriminates 'logits'")
        if self.optimiser == "sgd":
            check_unused(self, ("beta1",), "optimiser 'sgd', which has no use for it", "choose optimiser 'adam'")
        if self.weight_sharing == "shared":
            choice = "weight_sharing 'shared', which has one encoder"
            check_unused(self, ("adaptation_lr_factor",), choice, "choose weight_sharing 'unshared'")
            return
        choice = "weight_sharing 'unshared', whose encoder has no other loss"
        check_unused(self, ("adversarial_weight",), choice, "choose weight_sharing 'shared'")
        own: tuple[NormalisationPolicy, ...] = ("separate", "source-only", "frozen")
        if self.normalisation_policy not in own:
            raise ValueError(
                f"normalisation_policy: {self.normalisation_policy!r} is for one encoder, and weight_sharing "
                f"'unshared' has two; choose one of {', '.join(map(repr, own))}, or weight_sharing 'shared'"
            )


class ADDA(SourceFirst):
    """min over the source's encoder and the classifier of the cross entropy; then min over D of L_advD and min over
    the target's encoder of L_advM (eq. 9).

    While the source is learnt, the target's encoder follows the source's. From then on the source's encoder is as it
    was, its batch statistics and dropout too: so the accuracy on the source, which is judged by its own encoder, no
    longer changes, and the column `source-val`, which takes the first of equals, is the network before the adaptation.
    Several sources are one.
    """

    config_class: ClassVar[type[ADDAConfig]] = ADDAConfig
    about = About("Tzeng et al., CVPR 2017", segmentation=True)
    default_batch_size = 128
    config: ADDAConfig

    def __init__(self, config: ADDAConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        if config.weight_sharing == "unshared":
            self.features = both = Encoders(self.features)
            pairs = zip(both.source.parameters(), both.target.parameters(), strict=True)
            self._pretrained |= {id(own) for model, own in pairs if id(model) in self._pretrained}
        seen = self.features.out_features if config.discriminates == "features" else num_classes
        self.discriminators = DiscriminatorBank(
            1, seen, hidden_features=config.hidden_features, num_layers=config.num_layers, dropout=0.0
        )
        self.maps = False
        # The discriminator's accuracy on each micro-batch of the step.
        self._accuracies: list[Tensor] = []

    @property
    def encoders(self) -> Encoders | None:
        """Both encoders; None where one serves both domains."""
        return self.features if isinstance(self.features, Encoders) else None

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers: "features" (of the target, and of the source where weights are shared), "heads",
        "discriminators", and "source" for a source's encoder of its own."""
        config = self.config
        optimisers = super().optimisers()
        discriminators = list(self.discriminators.parameters())
        optimisers["discriminators"] = self._adapting([(discriminators, config.discriminator_lr_factor)])
        if self.encoders is not None:
            optimisers["source"] = self._optimiser(self.groups_of(self.encoders.source))
            factor = config.adaptation_lr_factor
            groups = [(group, factor * own) for group, own in self.groups_of(self.encoders.target)]
            optimisers["features"] = self._adapting(groups)
        self._optimisers = optimisers
        return dict(optimisers)

    def groups_of(self, encoder: Features) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters of one of both encoders, each group with its factor on the learning rate."""
        own = {id(parameter) for parameter in encoder.parameters()}
        return [([each for each in group if id(each) in own], factor) for group, factor in self.feature_groups()]

    def _adapting(self, groups: list[tuple[list[nn.Parameter], float]]) -> torch.optim.Optimizer:
        optimiser = self._optimiser(groups)
        for group in optimiser.param_groups:
            group["weight_decay"] = 0.0
            if self.config.optimiser == "adam":
                group["betas"] = (self.config.beta1, group["betas"][1])
        return optimiser

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

    def evaluating_domain(self, domain: DomainName) -> AbstractContextManager[None]:
        """Within the context `predict` takes its images for those of `domain`: for the source's encoder or the
        target's."""
        if self.encoders is None:
            return super().evaluating_domain(domain)
        return encoding(self.encoders, domain)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.encoders is None:
            return super().encode(batch)
        return self.encode_source(batch.source.images), self.encode_target(batch)

    def _normalised(self, images: Tensor, domain: DomainName) -> Tensor:
        if self.encoders is None:
            return super()._normalised(images, domain)
        with encoding(self.encoders, domain):
            if domain == "target" or not self.adapting:
                return super()._normalised(images, domain)
            with torch.no_grad(), evaluated(self.encoders.source):
                return super()._normalised(images, domain)

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield from self.adaptation(batch) if self.adapting else self.pretraining(batch)

    def pretraining(self, batch: Batch) -> Iterator[Update]:
        """Learn the source (eq. 1)."""
        update = self.source_update(batch)
        if self.encoders is None:
            yield update
            return
        update.of = ("source", "heads")
        yield update
        # The engine has taken the step. What is evaluated or written down before the adaptation begins is the source's
        # encoder, whichever domain is asked for.
        self.encoders.follow()

    def adaptation(self, batch: Batch) -> Iterator[Update]:
        """A step of the discriminator, then one of the encoder against it."""
        source, target = self.encode(batch)
        seen = self.discriminated(source), self.discriminated(target)
        of_source, of_target = self.judged(seen[0].detach(), seen[1].detach())
        loss = discrimination_loss(of_source, of_target)
        accuracy = _accuracy(of_source.detach(), of_target.detach())
        self._accuracies.append(accuracy)
        logs = {"domain_loss": loss.detach(), "discriminator/accuracy/level-0": accuracy}
        yield Update(loss, of=("discriminators",), logs=logs)
        if not self.maps or self.gate_is_shut():
            return
        # The encoders did not change meanwhile, so their features are not computed again.
        loss = mapping_loss(*self.judged(*seen), self.config.mapping)
        logs = {"mapping_loss": loss.detach()}
        if self.encoders is not None:
            yield Update(loss, of=("features",), logs=logs)
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


def _accuracy(source: Tensor, target: Tensor) -> Tensor:
    """Share of logits (N, 1) that tell the domain: a scalar."""
    domains = torch.cat([torch.ones_like(source[:, 0]), torch.zeros_like(target[:, 0])])
    return domain_accuracies(torch.cat([source, target]), domains).mean()

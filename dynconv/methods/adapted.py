"""Methods that leave the source's network as it was and adapt a copy of it, against discriminators, to the target."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dynconv.losses import domain_accuracies, weight_drift
from dynconv.losses.weight_drift import DriftForm
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.encoders import Encoders, encoding, evaluated
from dynconv.methods.records import Update
from dynconv.methods.source_first import SourceFirst, SourceFirstConfig
from dynconv.models import DomainName, Features

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class AdaptedConfig(SourceFirstConfig):
    """The fields of ADDA and of what follows it."""

    hidden_features: int = 500
    """Width of a discriminator's hidden layers (ADDA, section 5.1: 500)."""
    num_layers: int = 3
    """Linear layers of a discriminator (ADDA, section 5.1: 3)."""
    drift_weight: float | None = None
    """Weight of ||theta_s - theta_t||^2, how far the target's network has gone from the source's, in its loss (GAM, eq.
    3); None for 0."""
    drift: DriftForm = "sum"
    """That over all weights (paper of GAM), or the "mean" of each tensor (its released code)."""
    adaptation_lr_factor: float = 0.2
    """The target's network learns with this many times `lr` (0.2 x 1e-3 = ADDA's 2e-4)."""
    discriminator_lr_factor: float = 0.2
    """A discriminator's learning rate is this many times `lr` (as the target's network's in the paper of ADDA)."""
    beta1: float = 0.5
    """Adam's beta 1 of the discriminators and of the target's own network (ADDA, section 5.1: 0.5)."""

    lr: float = 1e-3
    """Learning rate on the source (released code of GAM: 1e-3)."""
    weight_decay: float = 2.5e-5
    """L2 penalty while the source is learnt (released code of GAM: 2.5e-5); what only adapts has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("beta1", "drift_weight"), least=0)
        check_range(self, ("adaptation_lr_factor", "discriminator_lr_factor"), above=0)
        check_range(self, ("hidden_features", "num_layers"), least=1)
        if self.beta1 >= 1:
            raise ValueError(f"beta1: expected less than 1, got {self.beta1}")
        if self.optimiser == "sgd":
            check_unused(self, ("beta1",), "optimiser 'sgd', which has no use for it", "choose optimiser 'adam'")
        if self.weight_of_drift == 0:
            choice = f"drift_weight {self.drift_weight}, which leaves it out"
            check_unused(self, ("drift",), choice, "give drift_weight a number above 0")

    @property
    def has_two_encoders(self) -> bool:
        """Whether the source's network stays as it was, and the target's is a copy that adapts."""
        return True

    @property
    def has_source_network(self) -> bool:
        return self.has_two_encoders or super().has_source_network

    @property
    def weight_of_drift(self) -> float:
        """`drift_weight`, or what None stands for."""
        return self.drift_weight or 0.0

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """By name the fields that need not be set, as they are or as what stands for them, so that two configurations
        that mean the same say the same; without those that are decided by one of `without`."""
        return {"drift_weight": self.weight_of_drift}


class Adapted(SourceFirst):
    """A network for each domain: while the source is learnt the target's follows it, and from then on it adapts alone.

    The source's network is as it was from then on, its batch statistics and dropout too: so the accuracy on the source,
    which is judged by its own network, no longer changes, and the column `source-val`, which takes the first of equals
    after step 0, tells nothing about the adaptation.
    """

    config_class: ClassVar[type[AdaptedConfig]]
    config: AdaptedConfig

    @property
    def encoders(self) -> Encoders | None:
        """Both encoders; None where one serves both domains."""
        return self.features if isinstance(self.features, Encoders) else None

    @property
    def _both(self) -> Encoders:
        return cast(Encoders, self.features)

    def give_own_encoder(self) -> None:
        """Give the target an encoder of its own, a copy of the source's."""
        self.features = both = Encoders(self.features)
        pairs = zip(both.source.parameters(), both.target.parameters(), strict=True)
        self._pretrained |= {id(own) for model, own in pairs if id(model) in self._pretrained}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers: "features" (of the target, and of the source where both share them), "heads",
        "discriminators", and "source" for a source's encoder of its own."""
        config = self.config
        optimisers = super().optimisers()
        discriminators = list(self.get_submodule("discriminators").parameters())
        optimisers["discriminators"] = self._adapting([(discriminators, config.discriminator_lr_factor)])
        if self.encoders is not None:
            optimisers["source"] = self._optimiser(self.groups_of(self.encoders.source))
            factor = config.adaptation_lr_factor
            optimisers["features"] = self._adapting([(group, factor * own) for group, own in self.target_groups()])
        self._optimisers = optimisers
        return dict(optimisers)

    def target_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters of the target's own network, each group with its factor on the learning rate."""
        return self.groups_of(self._both.target)

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

    def evaluating_domain(self, domain: DomainName) -> AbstractContextManager[None]:
        """Within the context `predict` takes its images for those of `domain`: for the source's network or the
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

    @abc.abstractmethod
    def adaptation(self, batch: Batch) -> Iterator[Update]:
        """The updates of a step that adapts."""

    def pretraining(self, batch: Batch) -> Iterator[Update]:
        """Learn the source (ADDA, eq. 1)."""
        update = self.source_update(batch)
        if self.encoders is None:
            yield update
            return
        update.of = ("source", "heads")
        yield update
        # The engine has taken the step. What is evaluated or written down before the adaptation begins is the source's
        # network, whichever domain is asked for.
        self.follow()

    def follow(self) -> None:
        """Make the target's network what the source's is."""
        follow(self._both.target, self._both.source)

    def with_drift(self, loss: Tensor, logs: dict[str, Tensor]) -> Tensor:
        """`loss` of the target's network and the drift from the source's, with its weight; the drift is logged, with a
        weight of 0 too: how far a network goes that nothing holds is what the regulariser is judged by."""
        weight = self.config.weight_of_drift
        with contextlib.nullcontext() if weight else torch.no_grad():
            drift = weight_drift(*self.both_parameters(), self.config.drift)
        logs["weight_drift"] = drift.detach()
        return loss + weight * drift if weight else loss

    def both_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Those of the source's network, which are constants, and those of the target's that adapt."""
        both = self._both
        return [parameter.detach() for parameter in both.source.parameters()], list(both.target.parameters())


@torch.no_grad()
def follow(own: nn.Module, model: nn.Module) -> None:
    """Make `own` what `model` is, a module of the same kind."""
    # Each by its own name in the state, running statistics and counters too.
    for value, given in zip(own.state_dict().values(), model.state_dict().values(), strict=True):
        value.copy_(given)


def accuracy_of_domains(source: Tensor, target: Tensor) -> Tensor:
    """Share of logits (N, 1) that tell the domain, those of the source by being positive: a scalar."""
    right = [
        domain_accuracies(logits, torch.full_like(logits[:, 0], domain)).mean()
        for logits, domain in ((source, 1), (target, 0))
    ]
    return (right[0] * len(source) + right[1] * len(target)) / (len(source) + len(target))

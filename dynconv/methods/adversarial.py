"""What every method with domain discriminators has: the game between them and the features, and the images it is
played on."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dynconv.losses import conditional_entropy, cross_entropy, probabilities
from dynconv.losses.precision import wide
from dynconv.methods.base import Method
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import Refresh, Update
from dynconv.methods.schedules import sigmoid_ramp
from dynconv.methods.selection import select_confident
from dynconv.nn import DiscriminatorBank, gradient_reversal

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class AdversarialConfig(MethodConfig):
    """The fields of every method with domain discriminators; the defaults are those of released CDAN."""

    form: Literal["alternating", "reversal"] = "reversal"
    """Discriminators and features in turns, each against the other's last state (GSDA eq. 14 to 17), or both at once
    through gradient reversal (DANN)."""
    adversarial_weight: float = 1.0
    """The features get this many times the discriminators' gradient, reversed (lambda of DANN)."""
    ramp: Literal["none", "sigmoid"] = "sigmoid"
    """Rise of `adversarial_weight`: 2 / (1 + exp(-10 p)) - 1 with p = the part of the run that is over, up to
    `ramp_end` (DANN section 5.2.2), or its full value from the first step."""
    ramp_end: float = 1.0
    """Part of the run after which the weight has risen to its full value, but for 5e-5."""
    entropy_weight: float = 0.0
    """Weight of the entropy of the target's predictions (alpha of GSDA eq. 5)."""
    hidden_features: int = 1024
    """Width of the discriminators' hidden layers (released CDAN: 1024, for digits 500)."""
    num_layers: int = 3
    """Linear layers of a discriminator (released CDAN and MADA: 3)."""
    dropout: float = 0.5
    """Dropout within the discriminators."""
    shared_layers: int = 0
    """The first layers of the discriminators that all of them have in common: with 415 of them (DomainNet), their own
    first layers alone have 109 million parameters at 256 features."""
    discriminator_lr_factor: float = 1.0
    """The discriminators' learning rate is this many times `lr`."""
    source_sampling: Literal["uniform", "class-balanced"] = "uniform"
    """"class-balanced" draws every class of a source equally often (GSDA section 3.1)."""
    target_sampling: Literal["all", "confident"] = "all"
    """"confident" trains on those target images whose predicted class has at least `confidence`, every predicted class
    equally often (GSDA section 3.1)."""
    confidence: float = 0.8
    """Least probability of a pseudo label. GSDA states none; DRT's self-training has 0.8."""
    confident_share: float = 0.2
    """Of a predicted class that nobody passes for, this share of its images, the most confident ones, is taken."""
    selection_every: int = 0
    """Steps between two selections of target images; 0 for the fewest after which every source and every target image
    was seen."""

    bottleneck: int = 256
    """Width of the layer whose output the discriminators see (released CDAN: 256); 0 for none."""
    optimiser: Literal["adam", "sgd"] = "sgd"
    """SGD in DANN, CDAN and MADA."""
    nesterov: bool = True
    """Nesterov's form of the momentum (released CDAN)."""
    lr: float = 1e-2
    """Learning rate of what is new (released CDAN on Office-31: 0.01, and 0.001 for pretrained weights)."""
    pretrained_lr_factor: float = 0.1
    """Parameters that came with `weights` learn with this many times `lr`."""
    lr_schedule: Literal["constant", "step", "inverse"] = "inverse"
    """"inverse" multiplies the learning rate by (1 + `lr_gamma` * step) ** -`lr_power` (released CDAN)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        nonnegative = ("adversarial_weight", "entropy_weight", "dropout", "selection_every", "shared_layers")
        check_range(self, nonnegative, least=0)
        check_range(self, ("ramp_end", "discriminator_lr_factor", "confident_share"), above=0)
        check_range(self, ("hidden_features", "num_layers"), least=1)
        for name, below in (("dropout", 1.0), ("confidence", 1.0)):
            if not 0 <= getattr(self, name) < below:
                raise ValueError(f"{name}: expected 0 to less than {below:g}, got {getattr(self, name)}")
        if self.shared_layers >= self.num_layers:
            raise ValueError(
                f"shared_layers: expected less than num_layers = {self.num_layers}, for each discriminator has its own "
                f"last layer; got {self.shared_layers}"
            )
        for name in ("ramp_end", "confident_share"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}: expected at most 1, got {getattr(self, name)}")
        if self.ramp == "none":
            check_unused(self, ("ramp_end",), "ramp 'none', which never rises", "choose ramp 'sigmoid'")
        if self.target_sampling == "all":
            unused = ("confidence", "confident_share", "selection_every")
            check_unused(self, unused, "target_sampling 'all'", "choose target_sampling 'confident'")


class Encoded(NamedTuple):
    """What the networks make of a batch: the source's images first."""

    features: Tensor
    """(N, F)."""
    scores: Tensor
    """(N, C)."""
    domains: Tensor
    """(N,), float32 or float64: 1 for the source, 0 for the target."""
    labels: Tensor
    """(N_source,)."""

    @property
    def probabilities(self) -> Tensor:
        """(N, C) without gradient: one-hot labels of the source, predictions for the target."""
        count = len(self.labels)
        target = probabilities(self.scores[count:].detach())
        source = torch.nn.functional.one_hot(self.labels, self.scores.shape[1]).to(target.dtype)
        return torch.cat([source, target])


class Alignment(NamedTuple):
    """A game's losses on one batch, as scalars."""

    opposed: Tensor
    """What discriminators minimise and features maximise."""
    shared: Tensor | None
    """What both minimise; None for nothing."""
    logs: dict[str, Tensor | float]


class AdversarialMethod(Method):
    """min over features and heads of the task's loss, and a game of the discriminators against the features.

    A subclass makes `self.discriminators` in `make_discriminators` and gives the game's loss in `alignment`.
    """

    config_class: ClassVar[type[AdversarialConfig]] = AdversarialConfig
    default_batch_size = 36
    config: AdversarialConfig
    discriminators: nn.Module

    def __init__(self, config: AdversarialConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.discriminators = self.make_discriminators()
        self.weight = adversarial_weight(config, 0.0)

    @abc.abstractmethod
    def make_discriminators(self) -> nn.Module:
        """The discriminators, on features (N, F = self.features.out_features)."""

    @abc.abstractmethod
    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        """The game's losses. With `reverse`, the gradient of `opposed` to features and scores is multiplied by
        -`reverse`; None leaves it as it is."""

    def bank(self, num: int, in_features: int) -> DiscriminatorBank:
        """Discriminators as the configuration describes them."""
        config = self.config
        return DiscriminatorBank(
            num,
            in_features,
            hidden_features=config.hidden_features,
            num_layers=config.num_layers,
            dropout=config.dropout,
            shared_layers=config.shared_layers,
        )

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers: "features", "heads" and "discriminators"."""
        optimisers = super().optimisers()
        group = (list(self.discriminators.parameters()), self.config.discriminator_lr_factor)
        self._optimisers = {**optimisers, "discriminators": self._optimiser([group])}
        return dict(self._optimisers)

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.weight = adversarial_weight(self.config, step / max_steps)

    @property
    def class_balanced(self) -> bool:
        return self.config.source_sampling == "class-balanced"

    def refresh_interval(self, steps_per_pass: int) -> int:
        if self.config.target_sampling == "all":
            return 0
        return self.config.selection_every or steps_per_pass

    def refresh(self, scores: Tensor) -> Refresh:
        """Choose the target images to train on by how sure their predictions are."""
        return select_confident(scores, self.config.confidence, self.config.confident_share)

    def updates(self, batch: Batch) -> Iterator[Update]:
        encoded = self.encoded(batch)
        task, logs = self.task_loss(encoded)
        logs["adversarial_weight"] = self.weight
        if self.config.form == "reversal":
            game = self.alignment(encoded, self.weight)
            loss = task + game.opposed if game.shared is None else task + game.opposed + game.shared
            yield Update(loss, of=("features", "heads", "discriminators"), logs=logs | game.logs)
            return
        held = encoded._replace(features=encoded.features.detach(), scores=encoded.scores.detach())
        game = self.alignment(held, None)
        loss = game.opposed if game.shared is None else game.opposed + game.shared
        yield Update(loss, of=("discriminators",), logs=game.logs)
        # The features did not change meanwhile, so they are not computed again.
        with fixed(self.discriminators):
            game = self.alignment(encoded, None)
        loss = task - self.weight * game.opposed
        yield Update(loss if game.shared is None else loss + game.shared, of=("features", "heads"), logs=logs)

    def encoded(self, batch: Batch) -> Encoded:
        """Features and scores of the source's and the target's images."""
        source, target = self.encode(batch)
        features = torch.cat([source, target])
        dtype = wide(features.dtype)
        domains = torch.zeros(len(features), dtype=dtype, device=features.device)
        domains[: len(source)] = 1
        return Encoded(features, self.heads[0](features), domains, batch.source.labels)

    def classification_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of source scores (B, C) against labels (B,)."""
        return cross_entropy(scores, labels, smoothing=self.config.label_smoothing)

    def task_loss(self, encoded: Encoded) -> tuple[Tensor, dict[str, Tensor | float]]:
        """L_c: the source's cross entropy, and the target's entropy where it has a weight (GSDA eq. 5)."""
        count = len(encoded.labels)
        learning = self.classification_loss(encoded.scores[:count], encoded.labels)
        logs: dict[str, Tensor | float] = {"cross_entropy": learning.detach()}
        if self.config.entropy_weight == 0:
            return learning, logs
        entropy = conditional_entropy(encoded.scores[count:]).mean()
        return learning + self.config.entropy_weight * entropy, logs | {"entropy": entropy.detach()}


@contextlib.contextmanager
def fixed(module: nn.Module) -> Iterator[None]:
    """`module` without gradients of its parameters in what is computed within the context."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def reversed_gradient(tensor: Tensor, weight: float | None) -> Tensor:
    """`tensor`, whose gradient is multiplied by -`weight`; as it is for None."""
    return tensor if weight is None else gradient_reversal(tensor, weight)


def adversarial_weight(config: AdversarialConfig, progress: float) -> float:
    """The weight of the reversed gradient when the part `progress` of the run is over."""
    if config.ramp == "none" or progress >= config.ramp_end:
        return config.adversarial_weight
    return config.adversarial_weight * sigmoid_ramp(progress / config.ramp_end)

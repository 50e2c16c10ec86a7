"""What every method is: networks, optimisers and a generator of updates."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from dynconv.losses import cross_entropy
from dynconv.methods.checks import check_range, check_types, check_unused
from dynconv.models import DynamicSpec, build

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass
class Update:
    """One optimiser step a method asks for.

    The engine clears the gradients, calls `loss.backward()` and steps the groups in `of`, all before it asks the
    method for the next update; gradients that reached other groups are dropped.
    """

    loss: Tensor
    """A scalar."""
    of: tuple[str, ...]
    """The optimisers, by their names in `Method.optimisers()`, that step."""
    logs: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Detached scalars by name."""


@dataclass(frozen=True)
class MethodConfig:
    """The fields that every method has."""

    backbone: Literal["lenet-small", "lenet-m3sda"] = "lenet-small"
    """The network: `lenet-small` for quick runs, `lenet-m3sda` for Digit-Five as in M3SDA and DRT."""
    norm: Literal["batch", "none"] = "batch"
    """Whether the network has batch normalisation."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """MCD trains its digits with Adam, DRT with SGD (section 4.1)."""
    lr: float = 2e-4
    """Learning rate (MCD digits: 2e-4)."""
    momentum: float = 0.9
    """Of SGD; Adam has no use for it."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter (5e-4 in the released code of MCD and DRT)."""
    head_lr_factor: float = 1.0
    """The classifiers' learning rate is this many times `lr` (released DRT on DomainNet: 10)."""
    lr_schedule: Literal["constant", "step"] = "constant"
    """"step" multiplies the learning rate by `lr_decay` at each of `lr_milestones`."""
    lr_milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    """Fractions of the run at which "step" decays (DRT section 4.1: epochs 100 and 200 of 300)."""
    lr_decay: float = 0.1
    """The factor of "step" (DRT section 4.1)."""
    label_smoothing: float = 0.0
    """Probability moved from the label to the other classes together; 0 in the papers, 0.01 in released DRT."""

    def __post_init__(self) -> None:
        # A configuration read from a file brings its tuples as lists.
        if isinstance(self.lr_milestones, list):
            object.__setattr__(self, "lr_milestones", tuple(self.lr_milestones))
        check_types(self)
        check_range(self, ("lr", "head_lr_factor", "lr_decay"), above=0)
        check_range(self, ("momentum", "weight_decay", "label_smoothing"), least=0)
        if self.momentum >= 1:
            raise ValueError(f"momentum: expected less than 1, got {self.momentum}")
        if self.label_smoothing >= 0.5:
            raise ValueError(f"label_smoothing: expected less than 0.5, got {self.label_smoothing}")
        bounds = (0, *self.lr_milestones, 1)
        if any(right <= left for left, right in itertools.pairwise(bounds)):
            raise ValueError(
                f"lr_milestones: expected growing fractions of the run between 0 and 1, got {self.lr_milestones}"
            )
        if self.optimiser == "adam":
            check_unused(self, ("momentum",), "optimiser 'adam', which has no use for it", "choose optimiser 'sgd'")
        if self.lr_schedule == "constant":
            unused = ("lr_milestones", "lr_decay")
            check_unused(self, unused, "lr_schedule 'constant', which never decays", "choose lr_schedule 'step'")


class Method(nn.Module, abc.ABC):
    """Networks, the recipes of their optimisers, and one algorithm.

    Args:
        config: An instance of `config_class`.
        num_classes: Classes to tell apart.
        num_heads: Classifiers on the features, each with its own random start.
        dynamic: Makes every convolution dynamic; None for a static network.

    A subclass implements `updates`. The engine's order within a step is `begin_step`, then `updates`, in training mode.
    """

    config_class: ClassVar[type[MethodConfig]]
    step: Tensor

    def __init__(
        self, config: MethodConfig, num_classes: int, *, num_heads: int = 1, dynamic: DynamicSpec | None = None
    ) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(f"config: expected a {self.config_class.__name__}, got a {type(config).__name__}")
        network = build(config.backbone, num_classes=num_classes, dynamic=dynamic, norm=config.norm)
        self.config = config
        self.num_classes = num_classes
        self.features = network.features
        self.heads = nn.ModuleList(network.make_head() for _ in range(num_heads))
        # What the schedules depend on, so that a checkpoint of the method holds it.
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._optimisers: dict[str, torch.optim.Optimizer] = {}

    @abc.abstractmethod
    def updates(self, batch: Batch) -> Iterator[Update]:
        """The algorithm: the updates of one training step, each computed when it is asked for."""

    def predict(self, images: Tensor) -> Tensor:
        """Class scores (B, num_classes) of images (B, 3, 32, 32): the sum of the heads' scores."""
        features = self.features(images)
        return torch.stack([head(features) for head in self.heads]).sum(dim=0)

    def forward(self, images: Tensor) -> Tensor:
        """`predict`, under the name that wrappers and exporters call."""
        return self.predict(images)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers by group: "features" and "heads". `begin_step` schedules those made last."""
        self._optimisers = {
            "features": self._optimiser(self.feature_groups()),
            "heads": self._optimiser([(list(self.heads.parameters()), self.config.head_lr_factor)]),
        }
        return dict(self._optimisers)

    def feature_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters of the features, each group with its factor on the learning rate."""
        return [(list(self.features.parameters()), 1.0)]

    def begin_step(self, step: int, max_steps: int) -> None:
        """Set every schedule for `step`, counted from 0, of `max_steps`."""
        if not 0 <= step < max_steps:
            raise ValueError(f"step: expected 0 to max_steps - 1 = {max_steps - 1}, got {step}")
        self.step.fill_(step)
        factor = learning_rate_factor(self.config, step, max_steps)
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def source_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of source features (B, F) against labels (B,), summed over the heads (DRT eq. 7)."""
        smoothing = self.config.label_smoothing
        losses = [cross_entropy(head(features), labels, smoothing=smoothing) for head in self.heads]
        return torch.stack(losses).sum()

    def source_update(self, batch: Batch) -> Update:
        """Cross entropy on the source alone: the target's images are not even seen by the batch statistics."""
        loss = self.source_loss(self.features(batch.source.images), batch.source.labels)
        return Update(loss, of=("features", "heads"), logs={"cross_entropy": loss.detach()})

    def _optimiser(self, groups: list[tuple[list[nn.Parameter], float]]) -> torch.optim.Optimizer:
        config = self.config
        described = [
            {"params": parameters, "lr": config.lr * factor, "initial_lr": config.lr * factor}
            for parameters, factor in groups
            if parameters
        ]
        if config.optimiser == "adam":
            return torch.optim.Adam(described, weight_decay=config.weight_decay)
        return torch.optim.SGD(described, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def learning_rate_factor(config: MethodConfig, step: int, max_steps: int) -> float:
    """What the learning rate of `step` is multiplied by under the schedule of `config`."""
    if config.lr_schedule == "constant":
        return 1.0
    return config.lr_decay ** sum(step >= milestone * max_steps for milestone in config.lr_milestones)

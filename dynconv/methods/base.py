"""What every method is: networks, optimisers and a generator of updates."""

from __future__ import annotations

import abc
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dynconv.losses import cross_entropy
from dynconv.methods.checks import check_range, check_types, check_unused
from dynconv.models import (
    DomainName,
    DynamicSpec,
    NormalisationPolicy,
    build,
    domain_norms,
    normalised_as,
    set_target_statistics,
    split_by_domain,
    statistics_held,
    weights_of,
)

if TYPE_CHECKING:
    from dynconv.data import Batch, TargetSelection


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


@dataclass
class Refresh:
    """What a method found when it looked at its scores of all unlabelled target images."""

    changed: bool = False
    """Whether `selection` replaces the one before."""
    selection: TargetSelection | None = None
    """The target images to train on from now on, with their pseudo labels; None for all of them."""
    logs: Mapping[str, float] = field(default_factory=dict)
    """Scalars by name."""
    message: str | None = None
    """A line for whoever watches the run."""


@dataclass(frozen=True)
class About:
    """Where a method comes from and what it is made for; docs/methods.md is made of these."""

    paper: str
    """Authors, venue and year."""
    variants: tuple[str, ...] = ()
    """Published names of what the method also is, by its default or by some choice of its fields."""
    multi_source: Literal["by domain", "union"] = "union"
    """Whether several sources are told apart, or their union is one source."""
    partial: bool = False
    """Whether it is made for targets that lack some of the source's classes."""
    segmentation: bool = False
    """Whether it also trains networks that label every pixel."""


@dataclass(frozen=True)
class MethodConfig:
    """The fields that every method has."""

    backbone: Literal["lenet-small", "lenet-m3sda", "resnet-small", "resnet50", "resnet101"] = "lenet-small"
    """The network: `lenet-small` for quick runs on digits, `lenet-m3sda` for Digit-Five as in M3SDA and DRT,
    `resnet-small` for 64 x 64 images from scratch, `resnet50` and `resnet101` for 224 x 224."""
    weights: str = "auto"
    """Where its weights come from: "imagenet" (torchvision's), "none", a FILE with a state_dict, or "auto": ImageNet
    for resnet50 and resnet101, none for the others."""
    norm: Literal["batch", "none"] = "batch"
    """Whether the network has batch normalisation (the ResNets always have)."""
    normalisation_policy: NormalisationPolicy = "joint"
    """How batch normalisation treats the two domains. "joint": one pass of source and target together. "separate": a
    pass of each, by its own statistics. "source-only": the target is normalised by the source's running statistics and
    leaves them alone. "frozen": everything by the running statistics that came with `weights`. "domain-specific":
    layers of its own for each domain (DSBN, Chang et al., CVPR 2019). "adabn": trains as "source-only", and target
    images are judged by the target's own statistics (Li et al., 2016)."""
    bottleneck: int = 0
    """Width of a linear layer between the network and the classifiers (256 in DANN, CDAN and what follows them); 0 for
    none."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """MCD trains its digits with Adam, DRT with SGD (section 4.1)."""
    lr: float = 2e-4
    """Learning rate (MCD digits: 2e-4)."""
    momentum: float = 0.9
    """Of SGD; Adam has no use for it."""
    nesterov: bool = False
    """Nesterov's form of the momentum (SGD only)."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter (5e-4 in the released code of MCD and DRT)."""
    head_lr_factor: float = 1.0
    """The classifiers' learning rate is this many times `lr` (released DRT on DomainNet: 10)."""
    pretrained_lr_factor: float = 1.0
    """Parameters that came with `weights` learn with this many times `lr` (0.1 in DANN, CDAN and what follows them)."""
    lr_schedule: Literal["constant", "step", "inverse"] = "constant"
    """"step" multiplies the learning rate by `lr_decay` at each of `lr_milestones`; "inverse" by
    (1 + `lr_gamma` * step) ** -`lr_power`."""
    lr_milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    """Fractions of the run at which "step" decays (DRT section 4.1: epochs 100 and 200 of 300)."""
    lr_decay: float = 0.1
    """The factor of "step" (DRT section 4.1)."""
    lr_gamma: float = 1e-3
    """How fast "inverse" falls, per step (released CDAN: 0.001)."""
    lr_power: float = 0.75
    """The exponent of "inverse" (DANN, CDAN: 0.75)."""
    label_smoothing: float = 0.0
    """Probability moved from the label to the other classes together; 0 in the papers, 0.01 in released DRT."""

    def __post_init__(self) -> None:
        # A configuration read from a file brings its tuples as lists.
        if isinstance(self.lr_milestones, list):
            object.__setattr__(self, "lr_milestones", tuple(self.lr_milestones))
        check_types(self)
        check_range(self, ("lr", "head_lr_factor", "lr_decay"), above=0)
        nonnegative = ("momentum", "weight_decay", "label_smoothing", "pretrained_lr_factor", "lr_gamma", "lr_power")
        check_range(self, (*nonnegative, "bottleneck"), least=0)
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
            unused = ("momentum", "nesterov")
            check_unused(self, unused, "optimiser 'adam', which has no use for it", "choose optimiser 'sgd'")
        elif self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: it is a form of momentum, and momentum is 0")
        schedules = {"step": ("lr_milestones", "lr_decay"), "inverse": ("lr_gamma", "lr_power")}
        for schedule, names in schedules.items():
            if self.lr_schedule != schedule:
                choice = f"lr_schedule {self.lr_schedule!r}, which has no use for it"
                check_unused(self, names, choice, f"choose lr_schedule {schedule!r}")
        if self.norm == "none":
            choice = "norm 'none', which has no batch normalisation"
            check_unused(self, ("normalisation_policy",), choice, "choose norm 'batch'")
        if self.normalisation_policy == "frozen" and weights_of(self.backbone, self.weights) == "none":
            # Means of 0 and variances of 1 normalise nothing: that network has a name, norm "none".
            raise ValueError(
                f"normalisation_policy: 'frozen' keeps the running statistics that come with weights, and with weights "
                f"{self.weights!r} {self.backbone} starts without any; give a FILE as weights, or choose another policy"
            )


class Method(nn.Module, abc.ABC):
    """Networks, the recipes of their optimisers, and one algorithm.

    Args:
        config: An instance of `config_class`.
        num_classes: Classes to tell apart.
        num_heads: Classifiers on the features, each with its own random start.
        dynamic: Makes every convolution dynamic; None for a static network.

    A subclass implements `updates`. The engine's order within a step is `refresh` where it is due, `begin_step`, then
    `updates`, in training mode.
    """

    config_class: ClassVar[type[MethodConfig]]
    about: ClassVar[About]
    default_batch_size: ClassVar[int] = 64
    """Images per step from the sources, and as many from the target, where the user says nothing."""
    supervised_by_target: ClassVar[bool] = False
    """Whether it is a bound and no adaptation: its only source is the target's labelled training split."""
    step: Tensor

    def __init__(
        self, config: MethodConfig, num_classes: int, *, num_heads: int = 1, dynamic: DynamicSpec | None = None
    ) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(f"config: expected a {self.config_class.__name__}, got a {type(config).__name__}")
        network = build(
            config.backbone,
            num_classes=num_classes,
            dynamic=dynamic,
            norm=config.norm,
            bottleneck=config.bottleneck,
            weights=config.weights,
        )
        self.config = config
        self.num_classes = num_classes
        self.image_size = network.image_size
        self.normalisation = network.normalisation
        self.features = network.features
        self._pretrained = {id(parameter) for parameter in network.pretrained}
        if config.normalisation_policy in ("domain-specific", "adabn"):
            split_by_domain(self.features, shared_affine=config.normalisation_policy == "adabn")
            for norm in domain_norms(self.features):
                if id(norm.source.weight) in self._pretrained:
                    self._pretrained |= {id(parameter) for parameter in norm.target.parameters()}
        self.heads = nn.ModuleList(network.make_head() for _ in range(num_heads))
        # What the schedules depend on, so that a checkpoint of the method holds it.
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._optimisers: dict[str, torch.optim.Optimizer] = {}

    @classmethod
    def for_task(cls, config: MethodConfig, num_classes: int, num_sources: int) -> Self:
        """The method for a task of so many classes and sources; most methods take any number of sources for one."""
        return cls(config, num_classes)

    @abc.abstractmethod
    def updates(self, batch: Batch) -> Iterator[Update]:
        """The algorithm: the updates of one training step, each computed when it is asked for."""

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        """Raise a ValueError where a run of `max_steps` steps, with `micro_batch` images of each domain in a
        micro-batch over all processes, would not do what it is asked for."""

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise a ValueError where the method goes on from a network of other classes than `classes`, which are in the
        order of the scores."""

    @property
    def notice(self) -> str | None:
        """A line for whoever watches a run, before its first step; None for nothing."""
        return None

    @property
    def class_balanced(self) -> bool:
        """Whether every class of a source is drawn equally often, whatever its size."""
        return False

    def refresh_interval(self, steps_per_pass: int) -> int:
        """Steps between two calls of `refresh`, the first one before step 0; 0 for none. `steps_per_pass` is the fewest
        after which every source and every target image was seen."""
        return 0

    def refresh_due(self) -> bool:
        """Whether `refresh` is to be called at this one of its steps; all target images are scored for it."""
        return True

    def refresh(self, scores: Tensor) -> Refresh:
        """Look at the class scores (N, num_classes) of all N target training images, in their order, in evaluation
        mode. What is kept for later steps must be in a buffer, so that a checkpoint holds it."""
        return Refresh()

    def predict(self, images: Tensor) -> Tensor:
        """Class scores (B, num_classes) of images (B, 3, S, S) with S = image_size; of the target, unless the call is
        within `evaluating_domain`."""
        return self.scores(self.features(images))

    def scores(self, features: Tensor) -> Tensor:
        """Class scores (B, num_classes) of features (B, F): the sum of the heads' scores."""
        return torch.stack([head(features) for head in self.heads]).sum(dim=0)

    def forward(self, images: Tensor) -> Tensor:
        """`predict`, under the name that wrappers and exporters call."""
        return self.predict(images)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, F) of the source's and of the target's images, normalised as `normalisation_policy` says.

        Whatever trains the features gets them here, from `encode_source` or from `encode_target`.
        """
        source, target = batch.source.images, batch.target.images
        if self.config.normalisation_policy in ("joint", "frozen"):
            # Frozen statistics do not depend on the batch, and one pass of all images is faster than two.
            features = self._normalised(torch.cat([source, target]), "source")
            return features[: len(source)], features[len(source) :]
        return self.encode_source(source), self._normalised(target, "target")

    def encode_source(self, images: Tensor) -> Tensor:
        """Features (B, F) of source images, in a step that looks at no target image."""
        return self._normalised(images, "source")

    def encode_target(self, batch: Batch) -> Tensor:
        """Features (B, F) of the target's images as `encode` gives them, without those of the source's images where the
        policy lets them go without."""
        if self.config.normalisation_policy == "joint":
            return self.encode(batch)[1]
        return self._normalised(batch.target.images, "target")

    def _normalised(self, images: Tensor, domain: DomainName) -> Tensor:
        """Features of images of `domain`, in one pass."""
        policy = self.config.normalisation_policy
        by_source = policy in ("source-only", "adabn")
        held = policy == "frozen" or (by_source and domain == "target")
        with (
            normalised_as(self.features, "source" if by_source else domain),
            statistics_held(self.features) if held else contextlib.nullcontext(),
        ):
            return self.features(images)

    def evaluating_domain(self, domain: DomainName) -> AbstractContextManager[None]:
        """Within the context `predict` takes its images for those of `domain`: it matters where each domain has
        statistics of its own ("domain-specific" and "adabn")."""
        return normalised_as(self.features, domain)

    @property
    def observed_images(self) -> int | None:
        """How many target images, evenly spread, `observe_target` is to see: 0 for all, None for as many as the engine
        takes to be enough."""
        return None

    def observe_target(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Take the target's statistics from its images, for the policy "adabn"; any other looks at nothing.

        Called before every evaluation, in evaluation mode. What is found is in buffers that no training step reads.

        Args:
            batches: Gives target images (B, 3, S, S), this process's share of them, anew at each call.

        Raises:
            ValueError: In training mode, for dropout would be measured, or without any image.
        """
        if self.config.normalisation_policy != "adabn":
            return
        self.require_evaluation()
        set_target_statistics(self.features, batches)

    def require_evaluation(self) -> None:
        """Raise a ValueError in training mode, where what `observe_target` measures would be another network's."""
        if self.training:
            raise ValueError("observe_target: the method is in training mode; call eval() first")

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers by group: "features" and "heads". `begin_step` schedules those made last."""
        self._optimisers = {
            "features": self._optimiser(self.feature_groups()),
            "heads": self._optimiser([(list(self.heads.parameters()), self.config.head_lr_factor)]),
        }
        return dict(self._optimisers)

    def feature_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters of the features, each group with its factor on the learning rate."""
        parameters = list(self.features.parameters())
        new = [parameter for parameter in parameters if id(parameter) not in self._pretrained]
        pretrained = [parameter for parameter in parameters if id(parameter) in self._pretrained]
        return [(new, 1.0), (pretrained, self.config.pretrained_lr_factor)]

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
        loss = self.source_loss(self.encode_source(batch.source.images), batch.source.labels)
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
        return torch.optim.SGD(
            described,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )


def learning_rate_factor(config: MethodConfig, step: int, max_steps: int) -> float:
    """What the learning rate of `step` is multiplied by under the schedule of `config`."""
    if config.lr_schedule == "constant":
        return 1.0
    if config.lr_schedule == "inverse":
        return (1 + config.lr_gamma * step) ** -config.lr_power
    return config.lr_decay ** sum(step >= milestone * max_steps for milestone in config.lr_milestones)

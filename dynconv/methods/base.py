"""What every method is: networks, optimisers and a generator of updates."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dynconv.losses import cross_entropy
from dynconv.methods.checks import check_segmentation
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Matched, Refresh, Update
from dynconv.methods.schedules import learning_rate_factor
from dynconv.models import (
    DomainName,
    build,
    domain_norms,
    dynamic_parameters,
    normalised_as,
    set_target_statistics,
    split_by_domain,
    statistics_held,
)

if TYPE_CHECKING:
    from dynconv.data import Batch


class Method(nn.Module, abc.ABC):
    """Networks, the recipes of their optimisers, and one algorithm.

    Args:
        config: An instance of `config_class`.
        num_classes: Classes to tell apart.
        num_heads: Classifiers on the features, each with its own random start.

    A subclass implements `updates`. The engine's order within a step is `refresh` where it is due, `begin_step`, then
    `updates`, in training mode.

    With a backbone for segmentation, where `about.segmentation` allows one, images are (B, 3, H, W), "features (B, F)"
    are maps (B, F, h, w), "scores (B, C)" are score maps (B, C, H, W), and labels are (B, H, W).

    Raises:
        ValueError: A backbone for segmentation, and the method is for labels of whole images.
    """

    config_class: ClassVar[type[MethodConfig]]
    about: ClassVar[About]
    default_batch_size: ClassVar[int] = 64
    """Images per step from the sources, and as many from the target, where the user says nothing."""
    supervised_by_target: ClassVar[bool] = False
    """Whether it is a bound and no adaptation: its only source is the target's labelled training split."""
    matched_to_target: ClassVar[bool] = False
    """Whether its one network ends as the target's in closed form, so that the source's is no longer there."""
    takes_scores: ClassVar[bool] = False
    """Whether what makes scores in a FILE of `weights` is taken too, and not learnt anew."""
    step: Tensor

    def __init__(self, config: MethodConfig, num_classes: int, *, num_heads: int = 1) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(f"config: expected a {self.config_class.__name__}, got a {type(config).__name__}")
        check_segmentation(type(self), config)
        network = build(
            config.backbone,
            num_classes=num_classes,
            dynamic=config.dynamic_spec(),
            norm=config.norm,
            bottleneck=config.bottleneck,
            weights=config.weights,
            image_norm=config.image_norm,
            with_scores=self.takes_scores,
        )
        self.config = config
        self.num_classes = num_classes
        self.image_size = network.image_size
        self.normalisation = network.normalisation
        self.features = network.features
        self._notice = network.notice
        self._scores = network.scores
        self._pretrained = {id(parameter) for parameter in network.pretrained}
        if config.has_split_statistics:
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
        """The method for a task of so many classes and sources; most methods take any number of sources for one.

        Args:
            config: An instance of `config_class`.
            num_classes: Classes to tell apart.
            num_sources: Labelled source domains, each of which a batch has images of.
        """
        return cls(config, num_classes)

    @classmethod
    def is_plain(cls) -> bool:
        """Whether what judges images is the features and the classifiers and nothing else, the sum of whose scores is
        taken, so that another run may go on from these alone."""
        return all(getattr(cls, name) is getattr(Method, name) for name in ("predict", "embed", "scores"))

    @abc.abstractmethod
    def updates(self, batch: Batch) -> Iterator[Update]:
        """The algorithm: the updates of one training step, each computed when it is asked for."""

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        """Raise a ValueError where a run of `max_steps` steps, with `micro_batch` images of each domain in a
        micro-batch over all processes, would not do what it is asked for."""

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise a ValueError where the method goes on from a network of other classes than `classes`, which are in the
        order of the scores. Called before the first step; what depends on the classes' names is decided here."""

    @property
    def notice(self) -> str | None:
        """Lines for whoever watches a run, before its first step; None for nothing."""
        return self._notice

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

    def matching_step(self, max_steps: int) -> int | None:
        """The step, counted from 0, of a run of `max_steps`, before which `match` is called; None for none."""
        return None

    def match(self, source: Callable[[], Iterable[Tensor]], target: Callable[[], Iterable[Tensor]]) -> Matched:
        """Change the networks in closed form, by what images of both domains show. Called in evaluation mode.

        Args:
            source, target: Give training images (B, 3, S, S) of a domain without their labels, this process's share of
                as many as `observed_images` says, anew at each call.
        """
        return Matched()

    def predict(self, images: Tensor) -> Tensor:
        """Class scores (B, num_classes) of images (B, 3, S, S) with S = image_size; of the target, unless the call is
        within `evaluating_domain`."""
        return self.scores(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, F) of images (B, 3, S, S), as `predict` scores them."""
        return self.features(images)

    def scores(self, features: Tensor) -> Tensor:
        """Class scores (B, num_classes) of features (B, F): the sum of the heads' scores."""
        return torch.stack([head(features) for head in self.scoring_heads]).sum(dim=0)

    @property
    def scoring_heads(self) -> nn.ModuleList:
        """The heads that the next features are scored by; the only ones, in most methods."""
        return self.heads

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
        """How many target images, evenly spread, `observe_target` is to see, and `match` of each side: 0 for all, None
        for as many as the engine takes to be enough."""
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

    @property
    def diagnosed_images(self) -> int:
        """How many source images `diagnose` is to see of each kind; 0 for no diagnosis."""
        return 0

    def diagnose(self, trained: Tensor, held_out: Tensor) -> dict[str, float]:
        """What the method measures of itself at each evaluation, in evaluation mode: figures by name, for the rows of
        results.jsonl. It draws from no generator that the training draws from.

        Args:
            trained: Source images (n, 3, S, S) that are trained on.
            held_out: Source images (n, 3, S, S) that are not.
        """
        return {}

    def remark(self, row: Mapping[str, Any]) -> str | None:
        """A line for whoever watches, about the figures of an evaluation; None for nothing. Asked once of each,
        in their order, so that what stays true need not be said again."""
        return None

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers by group: "features" and "heads". `begin_step` schedules those made last."""
        self._optimisers = {
            "features": self._optimiser(self.feature_groups()),
            "heads": self._optimiser([(list(self.heads.parameters()), self.config.head_lr_factor)]),
        }
        return dict(self._optimisers)

    def feature_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters of the features, each group with its factor on the learning rate: what is new, what came with
        the weights, and the bases and branches that did not."""
        parameters = list(self.features.parameters())
        added = {id(parameter) for parameter in dynamic_parameters(self.features)} - self._pretrained
        new = [parameter for parameter in parameters if id(parameter) not in self._pretrained | added]
        pretrained = [parameter for parameter in parameters if id(parameter) in self._pretrained]
        residual = [parameter for parameter in parameters if id(parameter) in added]
        config = self.config
        return [(new, 1.0), (pretrained, config.pretrained_lr_factor), (residual, config.residual_lr_factor)]

    def begin_step(self, step: int, max_steps: int) -> None:
        """Set every schedule for `step`, counted from 0, of `max_steps`.

        Raises:
            ValueError: `step` is not within the run.
        """
        if not 0 <= step < max_steps:
            raise ValueError(f"step: expected 0 to max_steps - 1 = {max_steps - 1}, got {step}")
        self.step.fill_(step)
        factor = learning_rate_factor(self.config, step, max_steps)
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def source_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of source features (B, F) against labels (B,), summed over the heads (DRT eq. 7); of maps
        against label maps (B, H, W), over the pixels that have a class."""
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

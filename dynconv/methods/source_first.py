"""Methods that learn the source first and adapt afterwards, and where a trained source network comes from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dynconv.methods.base import Method
from dynconv.methods.checks import check_unused, labels_pixels
from dynconv.methods.config import MethodConfig
from dynconv.models import DomainName, input_of
from dynconv.models.segmentation import SegmentationHead
from dynconv.models.weights import are_left_out, weights_left_out

# What a branch computes by, beside what the shapes of its weights tell.
OF_BRANCHES = ("temperature", "scale_activation")
# What the shapes of a network's weights are of.
OF_NETWORK = ("backbone", "norm", "bottleneck", "residual", "num_bases", "basis_kernel_size", "reduction")


@dataclass(frozen=True)
class StartedConfig(MethodConfig):
    """The fields of methods that may begin with the network of another run."""

    source_checkpoint: str = ""
    """FILE: a checkpoint of a run on the source with the same classes and network (RUN/checkpoints/last.pt) whose
    network and classifier are taken; empty for none."""


@dataclass(frozen=True)
class SourceFirstConfig(StartedConfig):
    """The fields of methods that learn the source first and adapt afterwards."""

    pretrain: float = 0.5
    """Share of the run's steps in which the network learns the source, before the adaptation begins (released code of
    GAM, whose scripts are ADDA's: 10,000 steps of each)."""
    source_checkpoint: str = ""
    """FILE: a checkpoint of a run on the source with the same classes and network (RUN/checkpoints/last.pt) whose
    network and classifier are taken; the whole run is then adaptation. Give `weights` "none" where that run had it, for
    ResNets take images of another normalisation then. Empty to train them in the first `pretrain` of this run."""
    score_maps: Literal["low", "full"] = "low"
    """Of a network for segmentation whose scores a discriminator sees: these before the last upsampling ("low": a
    choice of ours, 1/64 of the places where that is eightfold), or at the images' size ("full": released code of CyCADA
    and of the Calibrator)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.pretrain < 1:
            raise ValueError(
                f"pretrain: expected a share of the run above 0 and below 1, got {self.pretrain}; to adapt from the "
                f"first step, give another run's source_checkpoint"
            )
        if self.source_checkpoint:
            choice = "source_checkpoint, which has been trained"
            check_unused(self, ("pretrain",), choice, "leave source_checkpoint out")
            # A network for segmentation is normalised as its file of weights wants it, whoever brings the weights.
            if self.weights not in ("auto", "none") and not labels_pixels(self):
                raise ValueError(
                    f"weights: {self.weights} contradicts {choice}; leave weights at auto, give none where that run "
                    "had none, or leave source_checkpoint out"
                )
        if not labels_pixels(self):
            choice = f"backbone {self.backbone!r}, whose scores are no maps"
            check_unused(self, ("score_maps",), choice, "choose a backbone for segmentation")

    def adaptation_begins(self, max_steps: int) -> int:
        """The first step, counted from 0, that adapts in a run of `max_steps`."""
        return 0 if self.source_checkpoint else math.ceil(self.pretrain * max_steps)


class Started(Method):
    """A method that begins with the network of another run, where a checkpoint is given."""

    config_class: ClassVar[type[StartedConfig]]
    starts_as: ClassVar[DomainName] = "source"
    """Whose network is taken of a run that has one for each domain."""
    config: StartedConfig

    def __init__(self, config: StartedConfig, num_classes: int) -> None:
        # The checkpoint's take the place of the weights that its run began with.
        with weights_left_out() if config.source_checkpoint else contextlib.nullcontext():
            super().__init__(config, num_classes)
        # Of the network that the run begins with; None where it learns the source itself.
        self.source_classes: tuple[str, ...] | None = None
        if config.source_checkpoint and not are_left_out():
            networks = nn.ModuleDict({"features": self.features, "heads": self.heads})
            self.source_classes = load_source(networks, Path(config.source_checkpoint), config, self.starts_as)

    def check_classes(self, classes: Sequence[str]) -> None:
        if self.source_classes is not None and self.source_classes != tuple(classes):
            raise ValueError(
                f"source_checkpoint {self.config.source_checkpoint}: its classes are {listed(self.source_classes)}, "
                f"and this run's are {listed(classes)}; give a checkpoint of a run with the same classes"
            )


class SourceFirst(Started):
    """A method whose run is two: steps that learn the source, unless a checkpoint of such a run is given, then steps
    that adapt. `adapting` tells which of both a step is."""

    config_class: ClassVar[type[SourceFirstConfig]]
    config: SourceFirstConfig

    def __init__(self, config: SourceFirstConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.adapting = bool(config.source_checkpoint)

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        if self.config.adaptation_begins(max_steps) >= max_steps:
            raise ValueError(
                f"pretrain: all of the run's {max_steps} steps learn the source, so nothing is ever adapted; give a "
                "smaller share, or more steps"
            )

    def shown_scores(self, features: Tensor) -> Tensor:
        """Class scores as a discriminator sees them: (B, num_classes) of features (B, F), and of maps score maps of the
        size that `score_maps` chooses."""
        (head,) = self.scoring_heads
        if isinstance(head, SegmentationHead) and self.config.score_maps == "low":
            return head.low(features)
        return self.scores(features)

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.adapting = step >= self.config.adaptation_begins(max_steps)


def load_source(
    networks: nn.ModuleDict, path: Path, config: MethodConfig, domain: DomainName = "source"
) -> tuple[str, ...]:
    """Copy the encoder and the classifier of a run's checkpoint into `networks`, "features" and "heads", which are as
    `config` describes them.

    Args:
        networks: Where they go.
        path: The checkpoint.
        config: Of the method that they are for.
        domain: Whose encoder and classifier are taken of a run that has one for each domain (ADDA, GAM).

    Returns:
        The names of the classes that the run told apart, in the order of the scores.

    Raises:
        ValueError: The file is missing, is no run's checkpoint, is of another network or of images that were
            normalised otherwise; or of a run that has seen the target's labels, that is matched to its target (where
            the source's are wanted), or that judges by more than an encoder and a classifier (where the target's are).
    """
    where = f"source_checkpoint {path}"
    if not path.is_file():
        last = path / "checkpoints" / "last.pt"
        what = "this is a folder" if path.is_dir() else "there is no such file"
        raise ValueError(
            f"{where}: {what}; expected a checkpoint of a run on the source, such as "
            f"{last if last.is_file() else 'RUN/checkpoints/last.pt'}"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        classes, method = tuple(found["classes"]), found["config"]["method"]
        before = found["config"].get(f"{method}.source_checkpoint", "")
        its = {
            name: found["config"].get(f"{method}.{name}", getattr(MethodConfig, name))
            for name in (*OF_NETWORK, *OF_BRANCHES)
        }
        weights = found["config"].get(f"{method}.weights", MethodConfig.weights)
        chosen = found["config"].get(f"{method}.image_norm", MethodConfig.image_norm)
        state = network_of(found["method"], domain)
    except Exception as error:
        raise ValueError(
            f"{where} cannot be read ({type(error).__name__}); expected a checkpoint of a run on the source"
        ) from error
    if why := _no_start(method, before, domain):
        raise ValueError(f"{where} is of a run of {method}, {why}")
    own = networks.state_dict()
    misfits = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    misfits += [name for name in state if name not in own]
    if misfits:
        differing = [f"{name} {its[name]!r}" for name in OF_NETWORK if its[name] != getattr(config, name)]
        give = f"its {', '.join(differing)}" if differing else "the backbone, norm, bottleneck and residual of that run"
        raise ValueError(
            f"{where} is of a run of {method} with another network: {listed(misfits)} do not fit; give {give} (its "
            f"classes are {listed(classes)})"
        )
    others = [f"{name} {its[name]!r}" for name in OF_BRANCHES if its[name] != getattr(config, name)]
    if others:
        raise ValueError(
            f"{where} is of a run of {method} whose coefficients are found in another way; give its {', '.join(others)}"
        )
    wanted = input_of(config.backbone, weights, chosen).normalisation
    if wanted != input_of(config.backbone, config.weights, config.image_norm).normalisation:
        kept = weights == "none" or labels_pixels(config)
        advice = f"weights {weights if kept else 'auto'!r}" if chosen == config.image_norm else ""
        raise ValueError(
            f"{where} is of a run of {method} with weights {weights!r}, and with {config.weights!r} the images are "
            f"normalised otherwise than there; give {advice or f'image_norm {wanted!r}'}"
        )
    networks.load_state_dict(state)
    return classes


def network_of(state: Mapping[str, Tensor], domain: DomainName) -> dict[str, Tensor]:
    """The encoder and the classifiers among a method's weights, by the names that they have where one of each serves
    both domains, features.* and heads.*.

    Args:
        state: A method's `state_dict`.
        domain: Whose are taken where each domain has its own: of encoders features.source.* and features.target.*, of
            classifiers heads.* and target_heads.*.
    """
    encoder, heads = f"features.{domain}.", "target_heads."
    if not any(name.startswith(encoder) for name in state):
        encoder = "features."
    if domain == "source" or not any(name.startswith(heads) for name in state):
        heads = "heads."
    found: dict[str, Tensor] = {}
    for own, usual in ((encoder, "features."), (heads, "heads.")):
        found |= {usual + name.removeprefix(own): value for name, value in state.items() if name.startswith(own)}
    return found


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def no_longer_the_sources(method: str, before: str) -> str | None:
    """Why the network of a run of `method` is not one that learnt the source, and what to give instead; None where it
    is.

    Args:
        before: The run's own `source_checkpoint`; empty where it has none.
    """
    kind = _known(method)
    if kind is None or not kind.matched_to_target:
        return None
    start = f"the run that it was matched from (its checkpoint {before})" if before else "one of source-only"
    return f"whose network is matched to its target and no longer the source's; give {start}"


def _no_start(method: str, before: str, domain: DomainName) -> str | None:
    """Why nothing may start as `domain` from a run of `method`, and what to give instead; None where it may."""
    kind = _known(method)
    if kind is None:
        return None
    if kind.supervised_by_target:
        return "which has seen the target's labels; give one of a run on the source, such as source-only"
    if domain == "target" and not kind.is_plain():
        start = f"the run that it started from (its checkpoint {before})" if before else "one of source-only"
        return (
            "which judges the target's images by more than features and one classifier, and these alone would be "
            f"taken; give {start}"
        )
    return no_longer_the_sources(method, before) if domain == "source" else None


def _known(method: str) -> type[Method] | None:
    # Here, for the registry holds the method that this module is a part of.
    from dynconv.methods import METHODS

    return METHODS.get(method)

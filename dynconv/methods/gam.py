"""General activation matching (GAM: Huang, Huang and Kraehenbuehl, ECCV 2018, section 4.2): the target's network is
trained so that discriminators of several layers' activations cannot tell it from the source's."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dynconv.losses import (
    discrimination_loss,
    least_squares_discrimination_loss,
    least_squares_mapping_loss,
    mapping_loss,
)
from dynconv.losses.mapping import MappingForm
from dynconv.losses.rows import as_rows, by_pieces
from dynconv.methods.adapted import Adapted, AdaptedConfig, accuracy_of_domains, follow
from dynconv.methods.checks import check_range, check_unused, labels_pixels
from dynconv.methods.encoders import evaluated
from dynconv.methods.gaussian import described
from dynconv.methods.records import About, Matched, Update
from dynconv.methods.source_only import check_source_policy
from dynconv.models import DomainName, NormalisationPolicy, input_of, match_gaussian
from dynconv.models.taps import SCORES, layer_names, quarters, resolve_layers, tapped
from dynconv.models.weights import weights_left_out
from dynconv.nn import DiscriminatorBank

if TYPE_CHECKING:
    from dynconv.data import Batch

# Of the paper, for labels of images and for labels of pixels: section 5.2 halves the regulariser, 5.3 doubles it;
# lambda = 0.1 "with a batch of 12 images yielded the best result" is of segmentation.
_OF_IMAGES = {"adversarial_weight": 1.0, "drift_weight": 0.5}
_OF_PIXELS = {"adversarial_weight": 0.1, "drift_weight": 2.0}


# Section 5: steps in which the discriminators learn alone.
STEPS_ALONE = 500


@dataclass(frozen=True)
class GAMConfig(AdaptedConfig):
    """General activation matching; the defaults are the paper's, for labels of images and for those of pixels."""

    taps: tuple[str, ...] = ()
    """The layers whose activations are matched, each with a discriminator: names of modules, "scores" for the
    classifier's, or places from the images to the scores, counted from 1 (of ERFNet's encoder "4" to "17"). Empty for
    the paper's: the last two, or, for labels of pixels, four in even steps (4, 8, 12 and 17 of 17)."""
    scales: tuple[float, ...] = ()
    """Of each tap the factor on its losses; empty for the paper's: 0.1 for the layer before the scores of images, where
    there are others beside it, and 1 for all others."""
    gan: Literal["classical", "least-squares"] | None = None
    """The game: "classical" (Goodfellow et al., 2014) or "least-squares" (LSGAN, Mao et al., 2017); None for the
    paper's, classical for labels of images and least-squares for those of pixels."""
    mapping: MappingForm = "inverted"
    """What the target's network minimises against a classical discriminator: its loss with "inverted" labels (released
    code), "minimax" or domain "confusion", as in ADDA. Least squares are with inverted labels always."""
    adversarial_weight: float | None = None
    """lambda of eq. 3; None for 1, or 0.1 for labels of pixels (the paper's for ERFNet with batches of 12; for digits
    it gives none). Released code, which takes means over both domains together: 0.5."""
    drift_weight: float | None = None
    """Weight of ||theta_s - theta_t||^2, how far the target's network has gone from the source's (eq. 3); 0 to leave
    the regulariser out. None for 0.5, or 2 for labels of pixels (sections 5.2 and 5.3: halved and doubled)."""
    drift_from: Literal["source", "start"] = "source"
    """What theta_s of the regulariser is: the source's network (eq. 3), or the Gaussian "start", which is far from it:
    on digits nearly all of the distance is in the biases of the 500 features."""
    order: Literal["jointly", "one-by-one"] | None = None
    """Whether all discriminators play from the first step ("jointly": released code) or a new one joins in in the order
    of `taps` after each equal part of the adaptation ("one-by-one"). None for the paper's: one by one for labels of
    images, jointly for those of pixels."""
    discriminator_steps: int | None = None
    """Steps in which the discriminators learn alone: the first ones of the adaptation, and after each new one of "one-
    by-one" (released code: 0). None for the 500 of section 5, and where a run has no more steps for that, for half of
    these, which it says."""
    gaussian_start: bool = True
    """Whether the target's network begins as Gaussian matching leaves it (section 4.1, "crucial for successful
    transfer" by section 4.2), or as the source's (released code)."""
    layers: Literal["hidden", "all"] = "hidden"
    """Of the Gaussian start: the layers that a nonlinearity follows, or the scores too."""
    statistics_images: int | None = None
    """Of the Gaussian start: training images of each side, evenly spread, that the moments are taken from; 0 for all,
    None for 2,000 images or 100 scenes."""

    normalisation_policy: NormalisationPolicy = "source-only"
    """How batch normalisation treats the source: "source-only" or "frozen", as in `MethodConfig`. In the adaptation
    statistics are held in both networks; the target's are the Gaussian start's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_policy(self.normalisation_policy, ("source-only", "frozen"), "the training of GAM's source")
        check_range(self, ("adversarial_weight",), above=0)
        check_range(self, ("statistics_images", "discriminator_steps"), least=0)
        if self.scales and (not self.taps or len(self.scales) != len(self.taps)):
            raise ValueError(
                f"scales: expected one for each of taps, got {len(self.scales)} for {len(self.taps) or 'the default'} "
                "taps; name the taps, or leave scales out"
            )
        if any(scale <= 0 for scale in self.scales):
            raise ValueError(f"scales: expected numbers above 0, got {self.scales}; leave a tap out instead")
        if self.game == "least-squares":
            choice = "gan 'least-squares', whose labels are inverted"
            check_unused(self, ("mapping",), choice, "choose gan 'classical'")
        if not self.gaussian_start:
            choice = "gaussian_start false, which takes no moments"
            check_unused(self, ("layers", "statistics_images", "drift_from"), choice, "choose gaussian_start true")
        if self.weight_of_drift == 0:
            check_unused(self, ("drift_from",), "drift_weight 0, which leaves it out", "give a drift_weight above 0")

    @property
    def game(self) -> Literal["classical", "least-squares"]:
        """`gan`, or what None stands for."""
        return self.gan or ("least-squares" if labels_pixels(self) else "classical")

    @property
    def weight_of_game(self) -> float:
        """`adversarial_weight`, or what None stands for."""
        return self._own("adversarial_weight", self.adversarial_weight)

    @property
    def weight_of_drift(self) -> float:
        return self._own("drift_weight", self.drift_weight)

    @property
    def joins(self) -> Literal["jointly", "one-by-one"]:
        """`order`, or what None stands for."""
        return self.order or ("jointly" if labels_pixels(self) else "one-by-one")

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """As `AdaptedConfig.resolved`; the taps by the names of their layers.

        Raises:
            ValueError: The network has no such taps.
        """
        taps, scales = _resolved_taps(self)
        found = super().resolved(without) | {
            "adversarial_weight": self.weight_of_game,
            "gan": self.game,
            "order": self.joins,
            "taps": taps,
        }
        # What balances other layers changes with them.
        return found if "taps" in without else found | {"scales": scales}

    def joining_steps(self, max_steps: int) -> tuple[int, ...]:
        """The steps, counted from 0, with which a discriminator joins in beside others in a run of `max_steps`; empty
        where all play from the first step that adapts."""
        if self.joins == "jointly":
            return ()
        return first_steps(self.adaptation_begins(max_steps), max_steps, len(_resolved_taps(self)[0]))[1:]

    def steps_alone(self, steps: int) -> int:
        """`discriminator_steps`, or what None stands for where the adaptation (a part of "one-by-one") has so many
        `steps`."""
        if self.discriminator_steps is not None:
            return self.discriminator_steps
        return STEPS_ALONE if steps > STEPS_ALONE else steps // 2

    def _own(self, name: str, given: float | None) -> float:
        return (_OF_PIXELS if labels_pixels(self) else _OF_IMAGES)[name] if given is None else given


class GAM(Adapted):
    """min over theta_t of ||theta_s - theta_t||^2 + lambda sum_i J(P(A_i^s), P(A_i^t)) (eq. 3), where each J is the
    game of a discriminator of one layer's activations; every place of an activation map is a sample.

    The source's network, classifier and all, stays as it was; the target's begins as Gaussian matching leaves it. In
    the adaptation both are in evaluation mode: what is matched are the activations that the networks have in use,
    without dropout and by held batch statistics. Of several taps the activations are kept once, as the pass leaves
    them, and discriminators see views of them (in channels_last). A network that was compiled runs eagerly here: in its
    graphs there are no hooks. Several sources are one.
    """

    config_class: ClassVar[type[GAMConfig]] = GAMConfig
    about = About("Huang et al., ECCV 2018", variants=("DAM",), segmentation=True)
    default_batch_size = 128
    config: GAMConfig

    def __init__(self, config: GAMConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        names = layer_names(self.features)
        usual = quarters(names) if labels_pixels(config) else names[-2:]
        self.tap_names = resolve_layers(self.features, config.taps) if config.taps else usual
        # "To balance the influence of different activation maps": one alone is in balance.
        weaker = () if labels_pixels(config) or len(self.tap_names) == 1 else self.features.taps[-1:]
        self.tap_scales = config.scales or tuple(0.1 if tap in weaker else 1.0 for tap in self.tap_names)
        widths = [shape[0] for shape in self.tap_shapes().values()]
        sizes: dict[str, Any] = {"hidden_features": config.hidden_features, "num_layers": config.num_layers}
        self.discriminators = nn.ModuleList(DiscriminatorBank(1, width, **sizes, dropout=0.0) for width in widths)
        self.give_own_encoder()
        self.target_heads = copy.deepcopy(self.heads)
        # What the drift is from where it is not the source's; buffers, so that a checkpoint holds them.
        self.started = nn.Module()
        if config.drift_from == "start":
            for place, parameter in enumerate(self.both_parameters()[1]):
                self.started.register_buffer(str(place), parameter.detach().clone())
        # The first so many discriminators play in this step; `alone`: and nothing else learns.
        self.playing = len(self.tap_names)
        self.alone = False
        self._shortened: str | None = None

    def tap_shapes(self, size: tuple[int, int] | None = None) -> dict[str, tuple[int, ...]]:
        """Shape (C, h, w) or (C,) of each tap's activations of an image, by name.

        Args:
            size: Height and width of the images of a network for label maps; None for its smallest.
        """
        side = self.image_size or input_of(self.config.backbone).multiple
        parameter = next(self.features.parameters())
        image = torch.zeros(1, 3, *(size or (side, side)), dtype=parameter.dtype, device=parameter.device)
        with torch.no_grad():
            return {tap: tuple(output.shape[1:]) for tap, output in self.activations(image, "source").items()}

    def activations(self, images: Tensor, domain: DomainName) -> dict[str, Tensor]:
        """What the taps of a domain's network give of images (B, 3, S, S), in evaluation mode: maps (B, C, h, w) or
        features (B, C), by name. Of the source's network without a graph."""
        encoder = self.features if self.encoders is None else self.encoders.of(domain)
        inner = [tap for tap in self.tap_names if tap != SCORES]
        fixed = torch.no_grad() if domain == "source" else contextlib.nullcontext()
        with fixed, evaluated(encoder), tapped(encoder, inner) as found:
            features = encoder(images)
            with self.evaluating_domain(domain):
                scores = {SCORES: self.shown_scores(features)} if SCORES in self.tap_names else {}
        return {tap: (found | scores)[tap] for tap in self.tap_names}

    @property
    def scoring_heads(self) -> nn.ModuleList:
        both = self.encoders
        return self.heads if both is None or both.domain == "source" else self.target_heads

    def target_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        return [*super().target_groups(), (list(self.target_heads.parameters()), self.config.head_lr_factor)]

    def both_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        source, target = super().both_parameters()
        heads = [parameter.detach() for parameter in self.heads.parameters()]
        return list(self.started.buffers()) or [*source, *heads], [*target, *self.target_heads.parameters()]

    def follow(self) -> None:
        super().follow()
        follow(self.target_heads, self.heads)

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        super().check_run(max_steps=max_steps, micro_batch=micro_batch)
        parts, steps = self._parts, self._steps_of_part(max_steps)
        alone = self.config.steps_alone(steps)
        each = (
            f"each of the {parts} parts of the adaptation, one for each discriminator,"
            if parts > 1
            else "the adaptation"
        )
        if alone >= steps:
            raise ValueError(
                f"discriminator_steps: {each} has {steps} of the run's {max_steps} steps, and in {alone} of them the "
                "discriminators would learn alone, so nothing is ever adapted; give fewer of these, or more steps"
            )
        if self.config.discriminator_steps is None and alone != STEPS_ALONE:
            # Before the first step whoever watches is told.
            self._shortened = (
                f"discriminator_steps: {STEPS_ALONE}, the paper's, are too many, for {each} has {steps} of the "
                f"run's {max_steps} steps; they learn alone in {alone} of these (--discriminator-steps to choose)"
            )

    @property
    def notice(self) -> str | None:
        return "\n".join(filter(None, (super().notice, self._shortened))) or None

    def _steps_of_part(self, max_steps: int) -> int:
        """Steps of each of the equal parts of the adaptation of a run of `max_steps`, of the shortest of them."""
        return (max_steps - self.config.adaptation_begins(max_steps)) // self._parts

    @property
    def _parts(self) -> int:
        """Parts of the adaptation, of as many steps each."""
        return len(self.tap_names) if self.config.joins == "one-by-one" else 1

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        if not self.adapting:
            return
        begins = self.config.adaptation_begins(max_steps)
        steps, parts = max_steps - begins, self._parts
        # Which of the equal parts of the adaptation, counted from 0, and its first step.
        part = (step - begins) * parts // steps
        first = first_steps(begins, max_steps, parts)[part]
        self.playing = len(self.tap_names) if parts == 1 else part + 1
        self.alone = step < first + self.config.steps_alone(self._steps_of_part(max_steps))

    @property
    def observed_images(self) -> int | None:
        return self.config.statistics_images

    def matching_step(self, max_steps: int) -> int | None:
        return self.config.adaptation_begins(max_steps) if self.config.gaussian_start else None

    def match(self, source: Callable[[], Iterable[Tensor]], target: Callable[[], Iterable[Tensor]]) -> Matched:
        both = self._both
        own = nn.Sequential(both.source, *self.heads).eval()
        adapted = nn.Sequential(both.target, *self.target_heads).eval()
        found = match_gaussian(own, adapted, source, target, layers=self.config.layers)
        if self.config.drift_from == "start":
            with torch.no_grad():
                for start, parameter in zip(self.started.buffers(), self.both_parameters()[1], strict=True):
                    start.copy_(parameter)
        return described(found)

    def adaptation(self, batch: Batch) -> Iterator[Update]:
        """A step of the discriminators, then one of the target's network against them."""
        source = self.activations(batch.source.images, "source")
        with torch.no_grad() if self.alone else contextlib.nullcontext():
            target = self.activations(batch.target.images, "target")
        players = [
            (tap, scale, bank, as_rows(source[tap]), as_rows(target[tap]))
            for tap, scale, bank in zip(self.tap_names, self.tap_scales, self.discriminators, strict=True)
        ][: self.playing]
        terms, logs = [], dict[str, Tensor]()
        for tap, scale, bank, own, other in players:
            # Apart, for together they would be a copy of the activations.
            judged = by_pieces(bank, own), by_pieces(bank, other.detach())
            terms.append(scale * self._discrimination(*judged))
            logs[f"discriminator/accuracy/{tap}"] = self._accuracy(*judged)
        loss = torch.stack(terms).sum()
        yield Update(loss, of=("discriminators",), logs={"domain_loss": loss.detach(), **logs})
        if self.alone:
            return
        # The target's network did not change meanwhile, so its activations are not computed again.
        terms = [scale * self._mapping(bank, own, other) for _, scale, bank, own, other in players]
        loss = torch.stack(terms).sum()
        logs = {"mapping_loss": loss.detach()}
        yield Update(self.with_drift(self.config.weight_of_game * loss, logs), of=("features",), logs=logs)

    def _discrimination(self, source: Tensor, target: Tensor) -> Tensor:
        if self.config.game == "least-squares":
            return least_squares_discrimination_loss(source, target)
        return discrimination_loss(source, target)

    def _mapping(self, bank: nn.Module, source: Tensor, target: Tensor) -> Tensor:
        judged = by_pieces(bank, target)
        if self.config.game == "least-squares":
            return least_squares_mapping_loss(judged)
        form = self.config.mapping
        return mapping_loss(judged if form == "inverted" else by_pieces(bank, source), judged, form)

    def _accuracy(self, source: Tensor, target: Tensor) -> Tensor:
        middle = 0.5 if self.config.game == "least-squares" else 0.0
        return accuracy_of_domains(source.detach() - middle, target.detach() - middle)


def first_steps(begins: int, max_steps: int, parts: int) -> tuple[int, ...]:
    """The first step of each of the equal `parts` of the steps from `begins` to `max_steps`."""
    steps = max_steps - begins
    return tuple(begins - (-part * steps // parts) for part in range(parts))


@functools.cache
def _resolved_taps(config: GAMConfig) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The names and the scales of the taps of a configuration; no weights are read or made."""
    with torch.device("meta"), weights_left_out():
        # However many classes there are, the layers are these.
        made = GAM(config, 2)
    return made.tap_names, made.tap_scales

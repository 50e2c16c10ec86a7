"""The light-weight Calibrator (Ye et al., CVPR 2020): a small network in front of a frozen classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dynconv.data.normalise import Normalisation, black_and_span
from dynconv.losses.groups import group_accuracy, group_loss
from dynconv.losses.rows import as_rows, by_pieces
from dynconv.methods.checks import check_range, check_unused, labels_pixels
from dynconv.methods.config import Backbone
from dynconv.methods.records import About, Update
from dynconv.methods.source_first import SourceFirst, SourceFirstConfig
from dynconv.models import NormalisationPolicy
from dynconv.models.calibrator import Calibrator, PerturbationForm
from dynconv.models.pixel_discriminator import PixelDiscriminator, group_discriminator

if TYPE_CHECKING:
    from dynconv.data import Batch

# What the discriminators tell apart (section 3.2): the kinds of images in the order of G_1, G_2, G_3 and G_4 (source,
# target, calibrated source, calibrated target), and the group of each. With two groups G_2 is not shown.
GROUPS: dict[int, tuple[int | None, ...]] = {4: (0, 1, 2, 3), 2: (0, None, 1, 1)}
SOURCE = 0
# Of a difference of two shares, each of 600 images, the standard error is at most 0.03.
DIAGNOSED = 300
# Of scenes, whose features have hundreds of places each, and of which so many patches are drawn: with one of each a
# difference of two shares would have a standard error of up to 0.09.
DIAGNOSED_SCENES, PATCHES = 32, 16
OVERFITTED = 0.1


@dataclass(frozen=True)
class CalibratorConfig(SourceFirstConfig):
    """The Calibrator; the defaults are the paper's for digits and, where it is silent, those of its released code."""

    width: int = 8
    """Channels of the calibrator's first layer (8 makes the paper's 0.18 M parameters on digits, 4 its 0.05 M on
    driving scenes)."""
    blocks: int = 9
    """Residual blocks of the calibrator (9 by the same counts)."""
    epsilon: float = 0.4
    """L-infinity bound of the perturbation, above 0 and at most 1, the range from black to white (section 5.2: 0.01 on
    driving scenes; for digits the paper gives none, released code has 0.2, 0.4 and 0.45 of its own form; the default is
    a choice of ours)."""
    form: PerturbationForm = "tanh"
    """epsilon * "tanh" of what the calibrator finds, or "nonnegative", which only brightens (released code)."""
    calibrator_dropout: float = 0.0
    """Probability of dropping a value of the calibrator's output (0.05 in released code)."""
    start: Literal["normal", "identity"] = "normal"
    """Start of the calibrator: all weights from N(0, 0.02), as CycleGAN's and released code's, which is a perturbation
    from the first step on; or its last layer at 0, so that it starts as the "identity" (a choice of ours)."""
    groups: Literal[4, 2] = 4
    """What the discriminators tell apart: source, target, calibrated source and calibrated target (4), or source images
    and calibrated ones (2)."""
    discriminators: Literal["both", "feature", "pixel"] = "both"
    """Whether features are aligned (eq. 5), pixels (eq. 6), or both."""
    feature_input: Literal["features", "logits", "probabilities"] = "features"
    """What the feature discriminator sees: M_s, the features before the classifier (eq. 5), the classifier's scores of
    them (a choice of ours, after ADDA's port in released CyCADA; released code for segmentation), or the softmax of
    these (released code for digits). Of maps each place is judged by itself, as by 1x1 convolutions. "pixel"
    discriminators have no use for it."""
    feature_hidden: tuple[int, ...] = (500,)
    """Widths of the feature discriminator's hidden layers: one makes the paper's two layers (its width is a choice of
    ours); released code has 1000 and 500, for segmentation 512 and 256."""
    feature_dropout: float = 0.0
    """Dropout before the feature discriminator's last layer (0.5 in released code). Of maps each place drops features
    of its own, where released code drops a feature at all places of an image."""
    pixel_hidden: tuple[int, ...] = (128,)
    """Widths of the pixel discriminator's hidden layers (released code: 128)."""
    patch: bool = True
    """Whether the pixel discriminator sees a random patch of each image, or all of it (section 3.2, trick 1; all of it
    not with a backbone for segmentation, whose images have no fixed size)."""
    patch_size: int = 4
    """Side of the patches (released code: 4 for MNIST to USPS, 8 for other digits, 64 for driving scenes)."""
    shuffle: bool = True
    """Whether the pixels that it sees are shuffled (section 3.2, trick 2)."""
    source_weight: float = 1.0
    """Of the calibrator's terms for source images (eq. 7: 1; released code: 0.1, for segmentation 0.2)."""
    target_weight: float = 1.0
    """Of the calibrator's terms for target images (eq. 7: 1)."""
    calibrator_lr_factor: float = 1.0
    """The calibrator learns with this many times `lr`."""
    discriminator_lr_factor: float = 1.0
    """The discriminators learn with this many times `lr`."""

    beta1: float = 0.9
    """Adam's beta 1 of calibrator and discriminators (0.9 in released code; 0.5, as in many GANs, forgets the other
    side's last moves sooner)."""

    backbone: Backbone = "dtn"
    """The frozen classifier: `dtn` is the paper's "LeNet" (section 5.3); otherwise as in `MethodConfig`."""
    lr: float = 1e-4
    """Learning rate (section 4: 1e-4 for all networks)."""
    normalisation_policy: NormalisationPolicy = "source-only"
    """How batch normalisation is learnt with the source: from its batches ("source-only"), or not at all, where it came
    with `weights` ("frozen"). The adaptation changes none of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("width", "blocks", "patch_size"), least=1)
        check_range(self, ("epsilon", "calibrator_lr_factor", "discriminator_lr_factor"), above=0)
        check_range(self, ("source_weight", "target_weight", "calibrator_dropout", "feature_dropout", "beta1"), least=0)
        if self.epsilon > 1:
            raise ValueError(f"epsilon: expected at most 1, the range from black to white, got {self.epsilon}")
        for name in ("calibrator_dropout", "feature_dropout", "beta1"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected less than 1, got {getattr(self, name)}")
        for name in ("feature_hidden", "pixel_hidden"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name}: expected widths of at least 1, got {getattr(self, name)}")
        if self.optimiser == "sgd":
            check_unused(self, ("beta1",), "optimiser 'sgd', which has no use for it", "choose optimiser 'adam'")
        if self.start == "identity" and self.form != "tanh":
            raise ValueError(f"start: 'identity' is for form 'tanh', and {self.form!r} brightens where it is 0")
        if self.source_weight == self.target_weight == 0:
            raise ValueError("source_weight, target_weight: with both at 0 the calibrator learns nothing")
        if self.discriminators == "pixel":
            of_features = ("feature_input", "feature_hidden", "feature_dropout")
            choice = "discriminators 'pixel', which sees no feature"
            check_unused(self, of_features, choice, "choose discriminators 'both' or 'feature'")
        if self.discriminators == "feature":
            of_pixels = ("pixel_hidden", "patch", "patch_size", "shuffle")
            choice = "discriminators 'feature', which sees no pixel"
            check_unused(self, of_pixels, choice, "choose discriminators 'both' or 'pixel'")
        if self.discriminators == "pixel" or self.feature_input == "features":
            what = "discriminators 'pixel'" if self.discriminators == "pixel" else "feature_input 'features'"
            choice = f"{what}, which shows no scores"
            check_unused(self, ("score_maps",), choice, "choose feature_input 'logits' or 'probabilities'")
        if not self.patch and labels_pixels(self):
            raise ValueError(
                f"patch: false takes whole images of one size, and {self.backbone} takes scenes of any; leave patch at "
                "true"
            )
        if not self.patch:
            check_unused(self, ("patch_size",), "patch false, which takes whole images", "leave patch at true")
        own: tuple[NormalisationPolicy, ...] = ("source-only", "frozen")
        if self.normalisation_policy not in own:
            raise ValueError(
                f"normalisation_policy: {self.normalisation_policy!r} lets the target into the frozen classifier's "
                f"statistics; choose one of {', '.join(map(repr, own))}"
            )


class CalibratorMethod(SourceFirst):
    """The classifier F_s = C_s o M_s learns the source (eq. 4) and is frozen; then discriminators of features and of
    pixels tell four groups of images apart (eq. 5, 6), and the calibrator G_c fools both to take what it calibrated, of
    the target and of the source, for source images (eq. 7).

    `predict` is F_s o G_c for images of either domain. Until the adaptation begins, it is F_s. In the adaptation F_s is
    in evaluation mode, no optimiser steps it, and not one parameter or running statistic of it changes. Several sources
    are one.
    """

    config_class: ClassVar[type[CalibratorConfig]] = CalibratorConfig
    about = About("Ye et al., CVPR 2020", segmentation=True)
    default_batch_size = 128
    config: CalibratorConfig
    calibrating: bool = False
    """Whether the adaptation has begun. The buffer `calibrates` says the same to a checkpoint; an exported program
    could not branch on it."""
    calibrates: Tensor

    def __init__(self, config: CalibratorConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.calibrated = Calibrated(
            Calibrator(
                width=config.width,
                blocks=config.blocks,
                epsilon=config.epsilon,
                form=config.form,
                dropout=config.calibrator_dropout,
            ),
            self.normalisation,
        )
        if config.start == "identity":
            self.calibrator.start_as_identity()
        groups = config.groups
        self.discriminators = nn.ModuleDict()
        if config.discriminators != "pixel":
            seen = self.features.out_features if config.feature_input == "features" else num_classes
            self.discriminators["feature"] = group_discriminator(
                seen, config.feature_hidden, groups, dropout=config.feature_dropout
            )
        if config.discriminators != "feature":
            side = self.image_size
            if not labels_pixels(config) and config.patch_size > side:
                raise ValueError(f"patch_size: expected 1 to {side}, the side of the images, got {config.patch_size}")
            self.discriminators["pixel"] = PixelDiscriminator(
                config.patch_size if config.patch else side,
                shuffle=config.shuffle,
                hidden_features=config.pixel_hidden,
                groups=groups,
            )
        self.register_buffer("calibrates", torch.zeros((), dtype=torch.bool))
        # The discriminators that the last remark found to overfit.
        self._overfitted: set[str] = set()

    @property
    def calibrator(self) -> Calibrator:
        """G_c, of images in [0, 1]."""
        return self.calibrated.calibrator

    def calibrate(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S), normalised for the classifier, as the calibrator gives them: normalised likewise."""
        return self.calibrated(images)

    def embed(self, images: Tensor) -> Tensor:
        return self.features(self.calibrate(images) if self.calibrating else images)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers: "features" and "heads" (of the source), "calibrator" and "discriminators"."""
        config = self.config
        optimisers = super().optimisers()
        for name, module, factor in (
            ("calibrator", self.calibrated, config.calibrator_lr_factor),
            ("discriminators", self.discriminators, config.discriminator_lr_factor),
        ):
            optimisers[name] = self._optimiser([(list(module.parameters()), factor)])
            for group in optimisers[name].param_groups if config.optimiser == "adam" else ():
                group["betas"] = (config.beta1, group["betas"][1])
        self._optimisers = optimisers
        return dict(optimisers)

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.calibrates.fill_(self.adapting)
        self.calibrating = self.adapting
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As any module's; but the frozen classifier stays in evaluation mode: neither dropout nor batch statistics of
        the images it is to judge (in released code both go on, and its running statistics drift)."""
        super().train(mode)
        if self.calibrating:
            self.features.eval()
            self.heads.eval()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
        self.calibrating = bool(self.calibrates)
        self.train(self.training)

    def updates(self, batch: Batch) -> Iterator[Update]:
        if not self.adapting:
            for discriminator in self.discriminators.values():
                if isinstance(discriminator, PixelDiscriminator):
                    # Now, and not after all the steps that learn the source.
                    discriminator.check_size(batch.source.images)
            yield self.source_update(batch)
            return
        kinds = self.kinds(batch.source.images, batch.target.images)
        yield self.discrimination(kinds)
        # The calibrator did not change meanwhile, so what it made is not computed again.
        yield self.calibration(kinds)

    def kinds(self, source: Tensor, target: Tensor) -> dict[str, list[Tensor]]:
        """What each discriminator sees of G_1 to G_4 (section 3.2), of G_2 only with four groups: `source`, `target`,
        and both calibrated, each (B, 3, S, S) or features of them (B, F) or maps."""
        images = [source, target]
        plain = images if self.config.groups == 4 else [source]
        calibrated = self.calibrate(torch.cat(images))
        found = {}
        for name in self.discriminators:
            with torch.no_grad():
                of_plain = self.seen(name, torch.cat(plain)).split([len(each) for each in plain])
            of_calibrated = self.seen(name, calibrated).split([len(each) for each in images])
            found[name] = [*of_plain, *of_calibrated]
        return found

    def seen(self, name: str, images: Tensor) -> Tensor:
        """What a discriminator sees of images (B, 3, S, S): these, or features of them (B, F) or maps."""
        return self.represented(images) if name == "feature" else images

    def represented(self, images: Tensor) -> Tensor:
        """What the feature discriminator sees of images: M_s(images) (B, F), or class scores or probabilities of them
        (B, C); or maps of these."""
        features = self.features(images)
        if self.config.feature_input == "features":
            return features
        scores = self.shown_scores(features)
        return scores if self.config.feature_input == "logits" else scores.softmax(dim=1)

    def discrimination(self, kinds: Mapping[str, Sequence[Tensor]]) -> Update:
        """A step of the discriminators (eq. 5 and 6)."""
        labels = [group for group in GROUPS[self.config.groups] if group is not None]
        losses, logs = [], {}
        for name, parts in kinds.items():
            logits = self.judged(name, [part.detach() for part in parts])
            losses.append(group_loss(logits, labels))
            logs[f"{name}_domain_loss"] = losses[-1].detach()
            logs[f"discriminator/accuracy/{name}"] = group_accuracy([each.detach() for each in logits], labels)
        return Update(torch.stack(losses).sum(), of=("discriminators",), logs=logs)

    def calibration(self, kinds: Mapping[str, Sequence[Tensor]]) -> Update:
        """A step of the calibrator (eq. 7)."""
        weights = (self.config.source_weight, self.config.target_weight)
        losses, logs = [], {}
        for name, parts in kinds.items():
            # The last two: both domains' calibrated images.
            terms = [group_loss([logits], [SOURCE]) for logits in self.judged(name, parts[-2:])]
            losses += [weight * term for weight, term in zip(weights, terms, strict=True)]
            logs[f"{name}_calibration_loss"] = torch.stack(terms).sum().detach()
        return Update(torch.stack(losses).sum(), of=("calibrator",), logs=logs)

    def judged(
        self, name: str, parts: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """A discriminator's logits (N_i, groups) of each of `parts`: of its images, or of the places of its maps."""
        discriminator = self.discriminators[name]
        if name == "pixel":
            # Called by name, so that what it draws can be drawn from another generator.
            return discriminator(torch.cat(list(parts)), generator).split([len(part) for part in parts])
        rows = [as_rows(part) for part in parts]
        return by_pieces(discriminator, torch.cat(rows)).split([len(part) for part in rows])

    @property
    def diagnosed_images(self) -> int:
        if not self.calibrating:
            return 0
        return DIAGNOSED_SCENES if labels_pixels(self.config) else DIAGNOSED

    @torch.no_grad()
    def diagnose(self, trained: Tensor, held_out: Tensor) -> dict[str, float]:
        """Of each discriminator the share of source images, plain and calibrated, whose group it tells (of maps the
        share of their places):
        `discriminator/NAME/trained-accuracy` and `discriminator/NAME/held-out-accuracy`."""
        of_source, of_calibrated = (GROUPS[self.config.groups][place] for place in (0, 2))
        labels = [group for group in (of_source, of_calibrated) if group is not None]
        scenes = labels_pixels(self.config)
        found = {}
        for what, images in (("trained", trained), ("held-out", held_out)):
            generator = torch.Generator(images.device).manual_seed(0)
            told = {name: list[Tensor]() for name in self.discriminators}
            # Of a scene of 1024 x 2048 the score maps, plain and calibrated, have 4 million places.
            for part in images.split(1) if scenes else [images]:
                calibrated = self.calibrate(part)
                for name, shares in told.items():
                    seen = [self.seen(name, part), self.seen(name, calibrated)]
                    draws = range(PATCHES if scenes and name == "pixel" else 1)
                    drawn = [group_accuracy(self.judged(name, seen, generator), labels) for _ in draws]
                    shares.append(torch.stack(drawn).mean())
            for name, shares in told.items():
                found[f"discriminator/{name}/{what}-accuracy"] = float(torch.stack(shares).mean())
        return found

    def remark(self, row: Mapping[str, Any]) -> str | None:
        """Names a discriminator that overfits (section 3.2), at the first of the evaluations in a row that find it so;
        a resumed run says it again."""
        lines = []
        for name in self.discriminators:
            trained, held_out = (row.get(f"discriminator/{name}/{what}-accuracy") for what in ("trained", "held-out"))
            if trained is None or held_out is None or trained - held_out <= OVERFITTED:
                self._overfitted.discard(name)
            elif name not in self._overfitted:
                self._overfitted.add(name)
                lines.append(
                    f"the {name} discriminator overfits: it tells the group of {trained:.0%} of the source images it "
                    f"trains on and of {held_out:.0%} of those held out"
                )
        return "; ".join(lines) or None


class Calibrated(nn.Module):
    """A calibrator of images in [0, 1] for images that are normalised for a classifier."""

    low: Tensor
    span: Tensor

    def __init__(self, calibrator: Calibrator, normalisation: Normalisation) -> None:
        super().__init__()
        self.calibrator = calibrator
        low, span = black_and_span(normalisation)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("span", span, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # The clamp of the calibrator takes back what rounding adds.
        return self.calibrator((images - self.low) / self.span) * self.span + self.low

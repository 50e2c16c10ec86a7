"""CycleGAN (Zhu et al., ICCV 2017): source images in the target's style, and a classifier that learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dynconv.data.normalise import black_and_span
from dynconv.distributed import gather_rows, rank, share_of, world_size
from dynconv.losses.cycle import absolute_difference, least_squares
from dynconv.methods.base import Method
from dynconv.methods.checks import check_range
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Update
from dynconv.methods.source_only import SOURCE_POLICIES, check_source_policy
from dynconv.models import NormalisationPolicy
from dynconv.models.calibrator import ResnetGenerator
from dynconv.models.patch_discriminator import PatchDiscriminator

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class CycleGANConfig(MethodConfig):
    """CycleGAN; the defaults are the paper's but where they say so."""

    width: int = 32
    """Channels of the generators' first layer (64 in the paper; 32 is a choice of ours, for images of 32 x 32)."""
    blocks: int | None = None
    """Residual blocks of each generator; None for 6 up to 128 x 128 pixels and 9 above (appendix 7.2)."""
    discriminator_width: int = 64
    """Channels of the discriminators' first layer (appendix 7.2: 64)."""
    discriminator_layers: int | None = None
    """Layers of stride 2 of each discriminator: 1, 2 or 3 judge patches of 16 x 16, 34 x 34 or 70 x 70 pixels. None for
    3 (section 4), or 2 where the images are smaller than 70 x 70 (a choice of ours)."""
    cycle_weight: float = 10.0
    """Lambda of eq. 3: the weight of cycle consistency (section 4: 10)."""
    identity_weight: float = 0.0
    """Weight, in multiples of `cycle_weight`, of the loss that lets a generator leave images of its own target domain
    alone (section 5.2: 0.5 for paintings and photographs; 0 elsewhere)."""
    pool_size: int = 50
    """Translated images of each direction that are kept to show the discriminators (section 4: 50); 0 for the newest
    images alone."""
    gan_lr: float = 2e-4
    """Learning rate of generators and discriminators (section 4: 2e-4)."""
    gan_beta1: float = 0.5
    """Adam's beta 1 of both (released code: 0.5)."""
    gan_decay: float = 0.5
    """Share of the run after which that learning rate falls, in a line, to 0 (section 4: 100 of 200 epochs)."""

    normalisation_policy: NormalisationPolicy = "source-only"
    """How the classifier, which learns from translated images alone, normalises the target's: "source-only", "frozen"
    or "adabn", as in `MethodConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_policy(self.normalisation_policy, SOURCE_POLICIES, "cyclegan's classifier")
        check_range(self, ("width", "discriminator_width", "blocks", "discriminator_layers"), least=1)
        check_range(self, ("cycle_weight", "identity_weight", "pool_size", "gan_beta1", "gan_decay"), least=0)
        check_range(self, ("gan_lr",), above=0)
        for name in ("gan_beta1", "gan_decay"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected less than 1, got {getattr(self, name)}")
        if self.identity_weight and not self.cycle_weight:
            raise ValueError(
                f"identity_weight: it counts in multiples of cycle_weight, which is 0; got {self.identity_weight}"
            )


class CycleGAN(Method):
    """min over G and F, max over D_X and D_Y of eq. 3: G makes target images of source images, F source images of
    target images, each discriminator tells real from translated ones, and F(G(x)) and G(F(y)) shall be x and y.

    The classifier learns the source's labels on G(x) and nothing else (the pixel-level part of CyCADA, Hoffman et al.,
    ICML 2018, without its semantic loss): its accuracy on the target tells how good the translation is, its accuracy on
    the source is that of untranslated images. `translate` gives the images that `dynconv export --part stylised`
    writes. Batches are larger than the paper's, of 1 image, for 32 x 32 pixels do not fill a core. Several sources are
    one.
    """

    config_class: ClassVar[type[CycleGANConfig]] = CycleGANConfig
    about = About("Zhu et al., ICCV 2017")
    default_batch_size = 16
    config: CycleGANConfig
    scale: Tensor
    shift: Tensor

    def __init__(self, config: CycleGANConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        blocks, layers = config.blocks, config.discriminator_layers
        if blocks is None:
            blocks = 6 if self.image_size <= 128 else 9
        if layers is None:
            layers = 2 if self.image_size < 70 else 3
        self.generator_options = {"width": config.width, "blocks": blocks}
        self.generators = nn.ModuleDict(
            {side: ResnetGenerator(**self.generator_options) for side in ("to_target", "to_source")}
        )
        self.discriminators = nn.ModuleDict(
            {side: PatchDiscriminator(width=config.discriminator_width, layers=layers) for side in ("target", "source")}
        )
        self.pools = nn.ModuleDict(
            {side: ImagePool(config.pool_size, self.image_size) for side in ("target", "source")}
        )
        # From the classifier's normalisation to the generators' [-1, 1]. Not in the checkpoint: the backbone decides.
        black, span = black_and_span(self.normalisation)
        self.register_buffer("scale", 2 / span, persistent=False)
        self.register_buffer("shift", -1 - black * self.scale, persistent=False)
        self._gan_optimisers: list[torch.optim.Optimizer] = []

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers: "features" and "heads" (the classifier), "generators" and "discriminators"."""
        config = self.config
        optimisers = super().optimisers()
        for name in ("generators", "discriminators"):
            parameters = list(self.get_submodule(name).parameters())
            optimisers[name] = torch.optim.Adam(parameters, lr=config.gan_lr, betas=(config.gan_beta1, 0.999))
        self._gan_optimisers = [optimisers["generators"], optimisers["discriminators"]]
        return optimisers

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        left = (max_steps - step) / (max_steps * (1 - self.config.gan_decay))
        for optimiser in self._gan_optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.config.gan_lr * min(1.0, left)

    def translate(self, images: Tensor) -> Tensor:
        """Source images (B, 3, S, S), normalised for the classifier, in the target's style: G(x), of the same shape, in
        [0, 1]."""
        return (self._generated("to_target", self._for_generators(images)) + 1) / 2

    def updates(self, batch: Batch) -> Iterator[Update]:
        """The classifier, then both generators, then both discriminators, all on the same translations."""
        source, target = (self._for_generators(each.images) for each in (batch.source, batch.target))
        to_target = self._generated("to_target", source)
        to_source = self._generated("to_source", target)
        yield self._classification(to_target.detach(), batch.source.labels)
        yield self._generation(source, target, to_target, to_source)
        yield self._discrimination(source, target, to_target.detach(), to_source.detach())

    def _classification(self, translated: Tensor, labels: Tensor) -> Update:
        loss = self.source_loss(self.encode_source(self._for_classifier(translated)), labels)
        return Update(loss, of=("features", "heads"), logs={"cross_entropy": loss.detach()})

    def _generation(self, source: Tensor, target: Tensor, to_target: Tensor, to_source: Tensor) -> Update:
        """Eq. 3 for G and F, by least squares: both discriminators shall take translated images for real ones."""
        config = self.config
        fooling = {
            "target": least_squares(self.discriminators["target"](to_target), 1),
            "source": least_squares(self.discriminators["source"](to_source), 1),
        }
        cycle = absolute_difference(self._generated("to_source", to_target), source) + absolute_difference(
            self._generated("to_target", to_source), target
        )
        loss = fooling["target"] + fooling["source"] + config.cycle_weight * cycle
        logs = {f"fooling/{side}": value.detach() for side, value in fooling.items()} | {"cycle": cycle.detach()}
        if config.identity_weight:
            identity = absolute_difference(self._generated("to_target", target), target) + absolute_difference(
                self._generated("to_source", source), source
            )
            loss = loss + config.cycle_weight * config.identity_weight * identity
            logs["identity"] = identity.detach()
        return Update(loss, of=("generators",), logs=logs)

    def _discrimination(self, source: Tensor, target: Tensor, to_target: Tensor, to_source: Tensor) -> Update:
        """Half of each discriminator's loss, so that it learns more slowly than the generators (appendix 7.1)."""
        losses, logs = [], {}
        for side, real, translated in (("target", target, to_target), ("source", source, to_source)):
            judge, pool = self.discriminators[side], self.pools[side]
            of_real, of_translated = judge(real), judge(pool(translated))
            losses.append((least_squares(of_real, 1) + least_squares(of_translated, 0)) / 2)
            logs[f"discriminator/{side}"] = losses[-1].detach()
            right = torch.cat([(of_real > 0.5).flatten(), (of_translated <= 0.5).flatten()])
            logs[f"discriminator/accuracy/{side}"] = right.to(torch.float32).mean()
        return Update(torch.stack(losses).sum(), of=("discriminators",), logs=logs)

    def _generated(self, side: str, images: Tensor) -> Tensor:
        return torch.tanh(self.generators[side](images))

    def _for_generators(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift

    def _for_classifier(self, images: Tensor) -> Tensor:
        return (images - self.shift) / self.scale


class ImagePool(nn.Module):
    """The latest images of a generator, mixed with older ones (section 4, after Shrivastava et al., CVPR 2017), so that
    a discriminator does not forget what it learnt to tell.

    Until `size` images have come, each is kept and given back. Then each is given back as it is with probability 1/2;
    otherwise one of those kept, drawn at random, is given back and the new one is kept in its place (released code).

    Images, their number and the key of the draws are buffers, and a draw depends on the key and the image's number
    alone: a resumed run goes on as if never stopped, micro-batches are the batch, and several processes keep one pool,
    which sees the whole batch.

    Args:
        size: Images to keep; 0 for none, which gives back what comes.
        side: Of the images, (3, side, side).
    """

    kept: Tensor
    seen: Tensor
    key: Tensor

    def __init__(self, size: int, side: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("kept", torch.zeros(size, 3, side, side))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("key", torch.randint(2**62, ()))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, side, side), of this process, to as many to show the discriminator; without gradient."""
        if not self.size:
            return images
        everyone = gather_rows(images, len(images) * world_size())
        shown = everyone.clone()
        seen, key = int(self.seen), int(self.key)
        for place, image in enumerate(everyone, seen):
            if place < self.size:
                self.kept[place] = image
                continue
            draws = np.random.default_rng([key, place])
            if draws.random() < 0.5:
                other = int(draws.integers(self.size))
                shown[place - seen] = self.kept[other]
                self.kept[other] = image
        self.seen += len(everyone)
        return shown[share_of(len(everyone), rank(), world_size())]

"""What the methods have in common that bring two domains together by their mean embeddings, without an opponent."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dynconv.distributed import gather_rows_with_gradient
from dynconv.losses import cross_entropy
from dynconv.losses.mmd import Bandwidth, Estimator, GaussianKernels, fewest_samples
from dynconv.methods.base import Method
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import Update
from dynconv.methods.schedules import sigmoid_ramp

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class KernelConfig(MethodConfig):
    """The fields of DAN and JAN; how they are trained is that of their released code in PyTorch."""

    of_alignment: ClassVar[tuple[str, ...]] = ("ramp", "estimator", "bandwidth", "num_kernels", "kernel_factor")
    """The fields that say how the domains are aligned, which an `alignment_weight` of 0 has no use for."""

    alignment_weight: float = 1.0
    """Weight of the discrepancy beside the cross entropy (lambda; 1 in the released code)."""
    ramp: Literal["none", "sigmoid"] = "none"
    """The weight from the first step on, or its rise as 2 / (1 + exp(-10 p)) - 1 with p = the part of the run that is
    over (JAN)."""
    estimator: Estimator = "linear"
    """Which pairs of samples are compared: "linear", quadruples of neighbours that share no sample (DAN section 3.2,
    JAN eq. 11); "ring", overlapping neighbours (released code); "unbiased", all pairs; "biased", and each sample with
    itself (JAN eq. 9)."""
    bandwidth: Bandwidth = "median"
    """Middle of the kernels' bandwidths: the "median" of the batch's squared distances (papers, of all training data)
    or their "mean" (released code)."""
    num_kernels: int = 33
    """Gaussian kernels of a layer."""
    kernel_factor: float = 2**0.5
    """Each bandwidth is this many times the one before (2 in the released code)."""

    bottleneck: int = 256
    """Width of the layer whose output is aligned (released code: 256); 0 for none."""
    optimiser: Literal["adam", "sgd"] = "sgd"
    """SGD in the papers."""
    nesterov: bool = True
    """Nesterov's form of the momentum (released code)."""
    lr: float = 3e-3
    """Learning rate of what is new (released code on Office-31: 0.003, and 0.0003 for pretrained weights)."""
    pretrained_lr_factor: float = 0.1
    """Parameters that came with `weights` learn with this many times `lr`."""
    lr_schedule: Literal["constant", "step", "inverse"] = "inverse"
    """"inverse" multiplies the learning rate by (1 + `lr_gamma` * step) ** -`lr_power` (released code)."""
    lr_gamma: float = 3e-4
    """How fast "inverse" falls, per step (released code: 0.0003)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("alignment_weight",), least=0)
        check_range(self, ("num_kernels",), least=1)
        check_range(self, ("kernel_factor",), above=0)
        if self.alignment_weight == 0:
            choice = "alignment_weight 0, which aligns nothing"
            check_unused(self, self.of_alignment, choice, "give an alignment_weight")
        if self.num_kernels == 1:
            check_unused(self, ("kernel_factor",), "num_kernels 1, which has no second", "choose more kernels")

    def kernels(self) -> GaussianKernels:
        """The kernels of a layer."""
        return GaussianKernels(self.num_kernels, self.kernel_factor, self.bandwidth)


class Layers(NamedTuple):
    """What the network makes of one domain's images."""

    features: Tensor
    """(B, F)."""
    scores: Tensor
    """(B, C)."""


class KernelMethod(Method):
    """min over features and heads of the source's cross entropy + weight * the discrepancy of the domains' layers.

    The discrepancy is that of the whole batch: over several processes each has the others' samples too.
    """

    config_class: ClassVar[type[KernelConfig]] = KernelConfig
    default_batch_size = 36
    config: KernelConfig

    def __init__(self, config: KernelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.weight = alignment_weight(config, 0.0)
        self.order_seed = 0

    @abc.abstractmethod
    def discrepancy(self, source: Layers, target: Layers) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """How far the domains are apart, a scalar, and what to log."""

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        super().check_run(max_steps=max_steps, micro_batch=micro_batch)
        check_images(micro_batch, fewest_samples(self.config.estimator), f"estimator {self.config.estimator!r}")

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.order_seed = step
        self.weight = alignment_weight(self.config, step / max_steps)

    def update_groups(self) -> tuple[str, ...]:
        """The optimisers that step."""
        return ("features", "heads")

    def updates(self, batch: Batch) -> Iterator[Update]:
        source, target = (Layers(features, self.heads[0](features)) for features in self.encode(batch))
        learning = cross_entropy(source.scores, batch.source.labels, smoothing=self.config.label_smoothing)
        order = mixed_order(batch.source.domains, self.order_seed)
        everyone = whole(source)
        everyone = Layers(everyone.features[order], everyone.scores[order])
        discrepancy, logs = self.discrepancy(everyone, whole(target))
        logs = {"cross_entropy": learning.detach(), "alignment_weight": self.weight, **logs}
        yield Update(learning + self.weight * discrepancy, of=self.update_groups(), logs=logs)


def whole(layers: Layers) -> Layers:
    """The layers of every process's samples."""
    return Layers(*(gather_rows_with_gradient(layer) for layer in layers))


def mixed_order(domains: Tensor, seed: int) -> Tensor:
    """The order (n,) in which the source rows of all processes are compared: random where they are of several sources,
    as they are where they are of one.

    The sources take turns in a batch, so that no two neighbours are of one source A: what "linear" and "ring" estimate
    of them is <mu_A - mu_T, mu_B - mu_T>, which drives A and B apart to either side of the target.

    Args:
        domains: int64, which source each of this process's rows is of.
        seed: Fixes the order, the same on every process.
    """
    everyone = gather_rows_with_gradient(domains)
    order = torch.randperm(len(everyone), generator=torch.Generator().manual_seed(seed)).to(domains.device)
    # Decided on the device, for the host would wait for it.
    several = (everyone != everyone[:1]).any()
    return torch.where(several, order, torch.arange(len(everyone), device=domains.device))


def check_images(micro_batch: int, least: int, choice: str) -> None:
    """Raise a ValueError where `choice` cannot do with `micro_batch` images of each domain."""
    if micro_batch < least:
        raise ValueError(
            f"{choice} takes at least {least} images of each domain in a micro-batch, got {micro_batch}; give a larger "
            f"batch or fewer micro-batches"
        )


def alignment_weight(config: KernelConfig, progress: float) -> float:
    """The weight of the discrepancy when the part `progress` of the run is over."""
    if config.ramp == "none":
        return config.alignment_weight
    return config.alignment_weight * sigmoid_ramp(progress)

"""Deep adaptation networks (Long et al., ICML 2015): the domains' mean embeddings meet in several layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dynconv.losses.mmd import mk_mmd, optimal_weights, quadruple_terms, term_covariance
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.kernel_alignment import KernelConfig, KernelMethod, Layers, check_images
from dynconv.methods.records import About


@dataclass(frozen=True)
class DANConfig(KernelConfig):
    """DAN. The released code is estimator "ring", bandwidth "mean", 5 kernels of factor 2 with equal weights, on the
    features alone (in PyTorch) or on features and scores (in Caffe); it adds the kernels up, so that its
    `alignment_weight` of 1 is 5 here."""

    of_alignment: ClassVar[tuple[str, ...]] = (
        *KernelConfig.of_alignment,
        "layers",
        "kernel_weights",
        "weights_every",
    )

    layers: Literal["features+scores", "features", "scores"] = "features+scores"
    """Which layers are aligned, each with kernels of its own (eq. 4; AlexNet's fc6 to fc8 in the paper). One layer
    alone is an ablation of section 4: DAN_7 ("features") and DAN_8 ("scores")."""
    kernel_weights: Literal["learned", "equal"] = "learned"
    """beta of eq. 2, which is learned by the quadratic programme of eq. 8, or "equal" for all kernels (released code).
    A single kernel (DAN_SK: `num_kernels` 1) has nothing to learn."""
    weights_every: int = 50
    """Steps between two solutions of eq. 8, each on what was seen since the last; the kernels begin with equal weights.
    The paper takes turns between the network and beta and states no interval: a choice of ours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("weights_every",), least=1)
        if self.kernel_weights == "equal":
            choice = "kernel_weights 'equal', which are never solved for"
            check_unused(self, ("weights_every",), choice, "choose kernel_weights 'learned'")
        elif self.num_kernels == 1:
            choice = "num_kernels 1, which has nothing to weigh"
            check_unused(self, ("weights_every",), choice, "choose more kernels")

    @property
    def learns_weights(self) -> bool:
        """Whether there are weights to solve for."""
        return self.kernel_weights == "learned" and self.num_kernels > 1


class DAN(KernelMethod):
    """min over the network of the source's cross entropy + lambda * the sum of d_k^2 over the layers (eq. 4), where k
    is the mixture of kernels that tells the domains apart most surely (eq. 7)."""

    config_class = DANConfig
    about = About("Long et al., ICML 2015")
    config: DANConfig
    kernel_weights: Tensor
    mmd_sum: Tensor
    covariance_sum: Tensor
    batches_seen: Tensor

    def __init__(self, config: DANConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.aligned = config.layers.split("+")
        count = config.num_kernels
        self.register_buffer("kernel_weights", torch.full((len(self.aligned), count), 1 / count))
        if config.learns_weights:
            self.register_buffer("mmd_sum", torch.zeros(len(self.aligned), count))
            self.register_buffer("covariance_sum", torch.zeros(len(self.aligned), count, count))
            self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        super().check_run(max_steps=max_steps, micro_batch=micro_batch)
        if self.config.learns_weights:
            # Two quadruples, for Q of eq. 8 is of their differences.
            check_images(micro_batch, 4, "kernel_weights 'learned'")

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        if self.config.learns_weights and step % self.config.weights_every == 0 and self.batches_seen > 0:
            self.solve_weights()

    @torch.no_grad()
    def solve_weights(self) -> None:
        """Each layer's weights by eq. 8 from the batches since the last time; those of a layer where no kernel's
        estimate is positive stay, for there the programme has no solution."""
        for index in range(len(self.aligned)):
            mmd, covariance = self.mmd_sum[index], self.covariance_sum[index]
            found = optimal_weights(mmd / self.batches_seen, covariance / self.batches_seen)
            if found is not None:
                self.kernel_weights[index] = found
        for sums in (self.mmd_sum, self.covariance_sum, self.batches_seen):
            sums.zero_()

    def discrepancy(self, source: Layers, target: Layers) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        found = {}
        for index, name in enumerate(self.aligned):
            first, second = getattr(source, name), getattr(target, name)
            if self.config.learns_weights:
                self.observe(index, first, second)
            found[name] = mk_mmd(
                first,
                second,
                kernels=self.config.kernels(),
                estimator=self.config.estimator,
                weights=self.kernel_weights[index],
            )
        if self.config.learns_weights:
            self.batches_seen += 1
        return torch.stack(list(found.values())).sum(), {f"mmd/{name}": mmd.detach() for name, mmd in found.items()}

    @torch.no_grad()
    def observe(self, layer: int, source: Tensor, target: Tensor) -> None:
        """Add what eq. 8 needs to know of a batch: d and Q, of quadruples whatever the estimator of the loss."""
        terms = quadruple_terms(source, target, kernels=self.config.kernels())
        self.mmd_sum[layer] += terms.mean(dim=0)
        self.covariance_sum[layer] += term_covariance(terms)

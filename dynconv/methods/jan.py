"""Joint adaptation networks (Long et al., ICML 2017): features and predictions meet in their joint embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dynconv.losses import probabilities
from dynconv.losses.mmd import GaussianKernels, jmmd
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.kernel_alignment import KernelConfig, KernelMethod, Layers
from dynconv.methods.records import About
from dynconv.nn import gradient_reversal


@dataclass(frozen=True)
class JANConfig(KernelConfig):
    """JAN, or JAN-A. The released code in PyTorch is estimator "ring", bandwidth "mean", 5 kernels of factor 2 on the
    features and a `prediction_bandwidth` of 1.68, without a ramp; it adds the kernels up, so that its
    `alignment_weight` of 1 is 5 here."""

    of_alignment: ClassVar[tuple[str, ...]] = (
        *KernelConfig.of_alignment,
        "layers",
        "prediction_bandwidth",
        "adversarial",
        "adversarial_lr_factor",
    )

    layers: Literal["features+predictions", "features", "predictions"] = "features+predictions"
    """Whose joint distribution is aligned (L of eq. 8; pool5 and fc of a ResNet in the paper); one alone is MMD."""
    prediction_bandwidth: float = 0.0
    """Bandwidth of the one kernel of the predictions (1.68 in the released code); 0 for that of `bandwidth`."""
    adversarial: bool = False
    """JAN-A (eq. 12): a linear layer on each aligned layer, the identity at first, makes the discrepancy as large as it
    can, through gradient reversal (one square layer each, as in the authors' Transfer-Learning-Library)."""
    adversarial_lr_factor: float = 0.1
    """Those layers learn with this many times `lr` (Transfer-Learning-Library: 0.1)."""
    ramp: Literal["none", "sigmoid"] = "sigmoid"
    """The rise of the weight as 2 / (1 + exp(-10 p)) - 1 (section 5.1), or its full value from the first step."""
    num_kernels: int = 1
    """Gaussian kernels of the features (1 in the paper, 5 in the released code)."""
    kernel_factor: float = 2.0
    """Each bandwidth is this many times the one before (released code: 2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("prediction_bandwidth",), least=0)
        check_range(self, ("adversarial_lr_factor",), above=0)
        if not self.adversarial:
            choice = "adversarial false, which has no such layers"
            check_unused(self, ("adversarial_lr_factor",), choice, "choose adversarial true")
        if self.layers == "features":
            choice = "layers 'features', which leave the predictions out"
            check_unused(self, ("prediction_bandwidth",), choice, "align the predictions too")
        elif self.layers == "predictions":
            choice = "layers 'predictions', which have one kernel"
            check_unused(self, ("num_kernels", "kernel_factor"), choice, "align the features too")
            if self.prediction_bandwidth:
                choice = f"layers 'predictions' with a prediction_bandwidth of {self.prediction_bandwidth}"
                check_unused(self, ("bandwidth",), choice, "align the features too")

    def kernels_of(self, layer: str) -> GaussianKernels:
        """The kernels of "features" or of "predictions"."""
        if layer == "features":
            return self.kernels()
        return GaussianKernels(1, 1.0, self.prediction_bandwidth or self.bandwidth)


class JAN(KernelMethod):
    """min over the network of the source's cross entropy + lambda * the JMMD of features and predictions (eq. 10)."""

    config_class = JANConfig
    about = About("Long et al., ICML 2017", variants=("JAN-A",))
    config: JANConfig

    def __init__(self, config: JANConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.aligned = config.layers.split("+")
        widths = {"features": self.features.out_features, "predictions": num_classes}
        self.adversaries = nn.ModuleDict(
            {layer: identity_layer(widths[layer]) for layer in self.aligned if config.adversarial}
        )

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """New optimisers: "features", "heads" and, of JAN-A, "adversaries"."""
        optimisers = super().optimisers()
        if self.config.adversarial:
            group = (list(self.adversaries.parameters()), self.config.adversarial_lr_factor)
            self._optimisers = {**optimisers, "adversaries": self._optimiser([group])}
        return dict(self._optimisers)

    def update_groups(self) -> tuple[str, ...]:
        return (*super().update_groups(), "adversaries") if self.config.adversarial else super().update_groups()

    def discrepancy(self, source: Layers, target: Layers) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        found = jmmd(
            [self.activations(layer, source) for layer in self.aligned],
            [self.activations(layer, target) for layer in self.aligned],
            kernels=[self.config.kernels_of(layer) for layer in self.aligned],
            estimator=self.config.estimator,
        )
        return found, {"jmmd": found.detach()}

    def activations(self, layer: str, found: Layers) -> Tensor:
        """What is aligned of a layer, (B, F) or (B, C)."""
        values = found.features if layer == "features" else probabilities(found.scores)
        if not self.config.adversarial:
            return values
        # Two reversals: the layer between them ascends, and what is before both descends.
        adversary = self.adversaries[layer]
        return gradient_reversal(adversary(gradient_reversal(values)))


def identity_layer(width: int) -> nn.Linear:
    """A linear layer (B, width) to (B, width) that changes nothing yet."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

"""A supervised training step that is timed, and how far a network is off its oracle: the same in float64 with the
reference's convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynconv import reference
from dynconv.bench.harness import relative_error
from dynconv.bench.providers import grouped_convolution
from dynconv.nn import DynamicConv2d

CHECKED_IMAGES = 2
# A dynamic network may be off the oracle by this many times what the static one is off its own, in the same dtype: its
# coefficients' gradients are sums that cancel. A basis with the wrong sign was off by 0.9.
_ALLOWED_OF_STATIC, _ALLOWED_AT_LEAST, _ALLOWED_AT_MOST = 10.0, 1e-4, 0.3


class GroupedConv2d(DynamicConv2d):
    """A ``DynamicConv2d`` computed the peers' way, in plain PyTorch."""

    def forward(self, x: Tensor, context: Tensor | None = None, coefficients: Any = None) -> Tensor:
        pi, scale = self.branch(x if context is None else context)
        kernels = self.weight if scale is None else scale[:, :, None, None, None] * self.weight
        if self.basis is not None:
            mixed = (pi @ self.basis.reshape(self.num_bases, -1)).view(-1, self.out_channels, *self.basis.shape[1:])
            margin = (self.kernel_size[0] - self.basis.shape[2]) // 2
            kernels = kernels + F.pad(mixed, (margin,) * 4)
        y = grouped_convolution(x, kernels, self.stride[0], int(self.padding[0]), self.groups)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


class ReferenceConv2d(DynamicConv2d):
    """A ``DynamicConv2d`` computed by the oracle."""

    def forward(self, x: Tensor, context: Tensor | None = None, coefficients: Any = None) -> Tensor:
        pi, scale = self.branch(x if context is None else context)
        geometry: dict[str, Any] = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}
        named = {"scale": scale, "basis": self.basis, "coefficients": pi}
        return reference.dynamic_conv2d(x, self.weight, self.bias, **named, **geometry)


@dataclass
class Training:
    """A model, its optimiser and one batch; a call is one step and gives the loss."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    optimiser: torch.optim.Optimizer
    dtype: str

    def loss(self, images: slice = slice(None), *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Logits and loss of some of the images; ``exact`` without autocast."""
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.dtype == "bf16" and not exact):
            logits = self.model(self.images[images])
            return logits, F.cross_entropy(logits, self.labels[images])

    def __call__(self) -> Tensor:
        _, loss = self.loss()
        loss.backward()
        self.optimiser.step()
        # After the step and not before it: what a step holds then ends with it, and is counted as its own.
        self.optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    @property
    def standing_mb(self) -> float:
        """MB that lie there between two steps: parameters, buffers, momentum and the batch."""
        parameters = sum(2 * p.numel() * p.element_size() for p in self.model.parameters())
        buffers = sum(b.numel() * b.element_size() for b in self.model.buffers())
        return (parameters + buffers + self.images.numel() * self.images.element_size()) / 1e6


def allowed_beside(static: float | None) -> float:
    """The relative error that a dynamic network may have beside the static one's, `static`; None where that is not
    known, as for the static one itself."""
    if static is None:
        return _ALLOWED_AT_MOST
    return min(_ALLOWED_AT_MOST, _ALLOWED_AT_LEAST + _ALLOWED_OF_STATIC * static)


def distance(own: Training, oracle: Training, *, gradients: bool = True) -> tuple[float, str]:
    """The largest relative error of logits and gradients against the oracle made float64, and whose it is.

    On a few images, with the running statistics in batch normalisation (those of a small batch multiply rounding) and
    SiLU in the place of ReLU (a unit that rounding switches on moves a gradient of ResNet-50 by 7e-4, which is off by
    2e-6 otherwise).
    """
    oracle.model.double()
    oracle.images = oracle.images.double()
    found: dict[str, float] = {}
    results = []
    for model, exact in ((own, False), (oracle, True)):
        was_training = model.model.training
        model.model.eval()
        with _smooth(model.model), torch.set_grad_enabled(gradients):
            logits, loss = model.loss(slice(CHECKED_IMAGES), exact=exact)
            if gradients:
                loss.backward()
        results.append({"logits": logits.detach()} | (_gradients(model.model) if gradients else {}))
        model.optimiser.zero_grad(set_to_none=True)
        model.model.train(was_training)
    for name, expected in results[1].items():
        found[name] = relative_error(results[0][name], expected)
    worst = max(found, key=lambda name: found[name])
    return found[worst], worst


@contextmanager
def _smooth(model: nn.Module) -> Iterator[None]:
    """Within the block, every ReLU module is a SiLU; both have the one attribute ``inplace``."""
    switched: list[nn.Module] = [module for module in model.modules() if type(module) is nn.ReLU]
    for module in switched:
        module.__class__ = nn.SiLU
    try:
        yield
    finally:
        for module in switched:
            module.__class__ = nn.ReLU


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients, joined by kind, so that those of a small part are not lost among the others."""
    joined: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            raise RuntimeError(f"{name} got no gradient")
        kind = next((kind for kind in ("basis", "branch") if kind in name), "network")
        joined.setdefault(f"the gradient of the {kind}", []).append(parameter.grad.flatten())
    return {kind: torch.cat(pieces) for kind, pieces in joined.items()}

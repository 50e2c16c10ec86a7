"""Batch normalisation of two domains: whose statistics normalise whom, and which running statistics are kept."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynconv.models.moments import Moments, Reached

NormalisationPolicy = Literal["joint", "separate", "source-only", "frozen", "domain-specific", "adabn"]
DomainName = Literal["source", "target"]


class DomainBatchNorm(nn.Module):
    """Two batch normalisations in the place of one: `source` for source images, `target` for target images.

    `domain` says which of them the next pass takes; without a word it is the target's, for that is what an adapted
    network is for. Both are ordinary layers, so that `SyncBatchNorm.convert_sync_batchnorm` finds them.

    Args:
        norm: The layer to replace. It becomes `source`, and `target` begins as its copy.
        shared_affine: Whether both have one weight and bias, so that they differ in their statistics alone (AdaBN, Li
            et al. 2016), or each its own (domain-specific batch normalisation, Chang et al., CVPR 2019).
    """

    domain: DomainName

    def __init__(self, norm: _BatchNorm, *, shared_affine: bool) -> None:
        super().__init__()
        self.source = norm
        self.target = copy.deepcopy(norm)
        if shared_affine:
            self.target.weight, self.target.bias = norm.weight, norm.bias
        self.domain = "target"

    def forward(self, inputs: Tensor) -> Tensor:
        """`inputs` (B, C, ...) normalised by the layer of `domain`."""
        return self.source(inputs) if self.domain == "source" else self.target(inputs)


def split_by_domain(module: nn.Module, *, shared_affine: bool) -> None:
    """Put a `DomainBatchNorm` in the place of every batch normalisation within a module, in place.

    Args:
        module: What holds the layers; it cannot be such a layer itself.
        shared_affine: As of `DomainBatchNorm`.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, DomainBatchNorm(child, shared_affine=shared_affine))


def domain_norms(module: nn.Module) -> list[DomainBatchNorm]:
    """The `DomainBatchNorm` layers of a module, in module order.

    Args:
        module: Any module.
    """
    return [layer for layer in module.modules() if isinstance(layer, DomainBatchNorm)]


@contextlib.contextmanager
def normalised_as(module: nn.Module, domain: DomainName) -> Iterator[None]:
    """Within the context every `DomainBatchNorm` of a module takes its inputs for images of one domain.

    Args:
        module: Any module.
        domain: "source" or "target".

    Raises:
        ValueError: `domain` is neither "source" nor "target".
    """
    if domain not in ("source", "target"):
        raise ValueError(f"domain: expected 'source' or 'target', got {domain!r}")
    layers = domain_norms(module)
    before = [layer.domain for layer in layers]
    for layer in layers:
        layer.domain = domain
    try:
        yield
    finally:
        for layer, previous in zip(layers, before, strict=True):
            layer.domain = previous


@contextlib.contextmanager
def statistics_held(module: nn.Module) -> Iterator[None]:
    """Within the context every batch normalisation of a module takes its running statistics and leaves them as they
    are; dropout goes on as before, and gradients reach weights and biases.

    Args:
        module: Any module, in training mode or not.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


@torch.no_grad()
def set_target_statistics(
    module: nn.Module, batches: Callable[[], Iterable[Tensor]], *, layers: int | None = None
) -> None:
    """Make the target's running statistics in every `DomainBatchNorm` the mean and variance (with N, not N - 1) of what
    reaches the layer, over all images (AdaBN: Li et al. 2016, Algorithm 1).

    They are set layer by layer in the order of execution, each by a pass of its own that ends there: what reaches a
    layer depends on the statistics of all layers before it. The result is a property of the images alone, not of how
    they are divided into batches or among processes; sums are in float64.

    Args:
        module: A network of images, in evaluation mode.
        batches: Gives the target images, this process's share of them, anew at each call.
        layers: So many layers, the first that a pass comes to; those after them take the source's statistics. None for
            all layers.

    Raises:
        ValueError: There is no image.
    """
    with normalised_as(module, "target"):
        order = _in_order(module, batches())
        count = len(order) if layers is None else layers
        for layer in order[count:]:
            for name in ("running_mean", "running_var"):
                layer.target.get_buffer(name).copy_(layer.source.get_buffer(name))
        for layer in order[:count]:
            moments = Moments()

            def take(_layer: nn.Module, inputs: tuple[Tensor, ...], moments: Moments = moments) -> None:
                moments.add(inputs[0])
                raise Reached

            with _hooked([layer], take):
                for images in batches():
                    with contextlib.suppress(Reached):
                        # Not called as a module, so that a compiled one runs eagerly: no graph ends halfway.
                        module.forward(images)
            mean, variance = moments.pooled()
            layer.target.get_buffer("running_mean").copy_(mean)
            layer.target.get_buffer("running_var").copy_(variance)


def _in_order(module: nn.Module, batches: Iterable[Tensor]) -> list[DomainBatchNorm]:
    """The layers in the order in which a pass comes to them."""
    order: list[DomainBatchNorm] = []

    def note(layer: nn.Module, _inputs: object) -> None:
        if isinstance(layer, DomainBatchNorm) and layer not in order:
            order.append(layer)

    with _hooked(domain_norms(module), note):
        images = next(iter(batches), None)
        if images is None:
            raise ValueError("batches: expected at least one target image in every process, got none")
        module.forward(images)
    return order


@contextlib.contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Callable[[nn.Module, tuple[Tensor, ...]], None]) -> Iterator[None]:
    """`hook` before every pass of `layers` within the context."""
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

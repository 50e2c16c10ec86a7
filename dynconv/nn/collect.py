"""``collect_coefficients``: what the branches of a model say about each sample (DRT, section 4.5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynconv.nn.dynamic_conv2d import DynamicConv2d


class CollectedCoefficients:
    """Filled by the forward passes inside :func:`collect_coefficients`, which makes it.

    Args:
        layers: The layers to collect from, by their names in the model.
    """

    def __init__(self, layers: dict[str, DynamicConv2d]) -> None:
        self._layers = layers
        self._passes: list[dict[str, list[Tensor]]] = []
        self._open: dict[str, list[Tensor]] | None = None

    @property
    def dimensions(self) -> dict[str, int]:
        """Entries that each layer has in a vector, in the vector's order: where to split it (Fig. 5: low and high)."""
        return {name: sum(pi.shape[1] for pi in calls) for name, calls in self._complete()[0].items()}

    def vectors(self) -> Tensor:
        """(N, D): for each sample, in the order seen, pi of all layers in module order (Pi of DRT's Fig. 4).

        N is the number of samples of all forward passes. ResNet-101 with K = 4 has D = 33 * 4 = 132.

        Raises:
            RuntimeError: No forward pass was seen, or the passes did not run the same layers equally often.
        """
        return torch.cat([torch.cat([pi for calls in one.values() for pi in calls], dim=1) for one in self._complete()])

    def _complete(self) -> list[dict[str, list[Tensor]]]:
        if not self._passes:
            raise RuntimeError(
                "collect_coefficients: no forward pass was seen. Call the model itself (not its forward method), "
                "and not in a compiled form made before: that one runs no new hooks."
            )
        calls = [{name: len(pis) for name, pis in one.items()} for one in self._passes]
        for number, other in enumerate(calls):
            if other != calls[0]:
                raise RuntimeError(
                    "collect_coefficients: the forward passes ran different layers, so their vectors differ in "
                    f"meaning: calls per layer in pass 0: {calls[0]}, in pass {number}: {other}."
                )
        return self._passes

    def _begin(self, *_: Any) -> None:
        self._open = {}

    def _end(self, *_: Any) -> None:
        if self._open is not None:
            self._passes.append({name: self._open[name] for name in self._layers if name in self._open})
        self._open = None

    def _record(self, name: str, pi: Tensor) -> None:
        if self._open is None:
            raise RuntimeError(
                f"collect_coefficients: layer {name!r} ran outside a forward pass of the collected model; "
                "collect from the module that you call."
            )
        # A copy, for coefficients given from outside may be changed in place later.
        self._open.setdefault(name, []).append(pi.detach().clone())

    def _given(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("coefficients", args[2] if len(args) > 2 else None)
        if given is not None:
            self._record(name, given if isinstance(given, Tensor) else given[0])

    def _computed(self, name: str, branch: nn.Module, args: Any, output: tuple[Tensor, Tensor | None]) -> None:
        self._record(name, output[0])


@contextmanager
def collect_coefficients(model: nn.Module) -> Iterator[CollectedCoefficients]:
    """Collect the coefficients pi of every dynamic layer of ``model`` for each sample that passes through::

        with collect_coefficients(model) as collected:
            for images in loader:
                model(images)
        vectors = collected.vectors()  # (N, 132) for DRT's ResNet-101

    Any number of forward passes; the hooks are gone when the block ends, by an exception too. Vectors carry no gradient
    and stay on the device. A pass that raises is left out.

    Args:
        model: The module that is called; its dynamic layers may be anywhere within it.

    Raises:
        ValueError: ``model`` has no ``DynamicConv2d`` with a basis.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, DynamicConv2d) and module.num_bases
    }
    if not layers:
        raise ValueError("collect_coefficients: model has no DynamicConv2d with a basis (residual='channel' has none).")
    collected = CollectedCoefficients(layers)
    handles = [model.register_forward_pre_hook(collected._begin)]
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(partial(collected._given, name), with_kwargs=True))
            handles.append(layer.branch.register_forward_hook(partial(collected._computed, name)))
        handles.append(model.register_forward_hook(collected._end))
        yield collected
    finally:
        for handle in handles:
            handle.remove()

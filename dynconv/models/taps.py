"""Activations of chosen layers, on their way through a network."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from dynconv.models.features import Features

# The last layer, which is not the features' but the classifier's.
SCORES = "scores"


def layer_names(features: Features) -> tuple[str, ...]:
    """The layers of a network that is `features` and a classifier, from the images to the scores: the taps, and
    "scores" as the last."""
    return (*features.taps, SCORES)


def resolve_layer(features: Features, layer: str) -> str:
    """The name of the layer that `layer` names: a place among `layer_names`, counted from 1 as in GAM ("4th/17"), one
    of these names, or any other module of `features`.

    Raises:
        ValueError: There is no such layer.
    """
    names = layer_names(features)
    if layer.isdecimal():
        if not 1 <= int(layer) <= len(names):
            raise ValueError(f"expected 1 to {len(names)}, the layers of a {type(features).__name__}, got {layer}")
        return names[int(layer) - 1]
    if layer in names:
        return layer
    if not layer or layer not in dict(features.named_modules()):
        raise ValueError(
            f"expected a number from 1 to {len(names)}, one of {', '.join(names)}, or another module of a "
            f"{type(features).__name__}, got {layer!r}"
        )
    return layer


def quarters(names: Sequence[str]) -> tuple[str, ...]:
    """Those in four even steps up to the last: of ERFNet's 17 layers GAM's 4, 8, 12 and 17."""
    return tuple(names[place - 1] for place in (len(names) * part // 4 for part in range(1, 5)) if place)


def resolve_layers(features: Features, layers: Sequence[str]) -> tuple[str, ...]:
    """The names of several layers, as `resolve_layer` finds each.

    Raises:
        ValueError: An unknown layer, or one twice.
    """
    try:
        found = tuple(resolve_layer(features, layer) for layer in layers)
    except ValueError as error:
        raise ValueError(f"taps: {error}") from error
    if twice := [layer for layer, count in Counter(found).items() if count > 1]:
        raise ValueError(f"taps: {', '.join(twice)} is named twice in {' '.join(layers)}; name each layer once")
    return found


class Tapped(dict[str, Tensor]):
    """What layers gave in a pass, by their names: references, not copies."""

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[str, int] = {}

    def note(self, name: str, output: Any) -> None:
        """Keep what the layer `name` gave.

        Raises:
            ValueError: It is neither maps (B, C, h, w) nor features (B, C), the layer has given something before, or
                another layer has given the same.
        """
        if name in self:
            raise ValueError(
                f"taps: {name} runs several times in a pass, and gives something else each time; name a layer around it"
            )
        if same := [other for other, given in self.items() if given is output]:
            raise ValueError(f"taps: {name} gives the same as {same[0]}; name one of both")
        if not isinstance(output, Tensor) or output.dim() not in (2, 4):
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"taps: expected a layer that gives maps (B, C, h, w) or features (B, C), and {name} gives {given}"
            )
        self[name] = output
        self._versions[name] = output._version

    def check(self) -> None:
        """Raise a ValueError where an output was changed in place since: by a ReLU, say, right behind its layer."""
        for name, output in self.items():
            if output._version != self._versions[name]:
                raise ValueError(
                    f"taps: what {name} gives is changed in place by what comes behind it; choose the layer behind it"
                )


@contextlib.contextmanager
def tapped(features: Features, names: Sequence[str]) -> Iterator[Tapped]:
    """Within the context one pass of `features` leaves there what the layers of `names`, modules of `features`, give.

    Raises:
        ValueError: A layer gives something else than maps or features, runs twice or gives what another gives, or (at
            the end of the context) its output was changed in place.
    """
    found = Tapped()

    def hook(name: str) -> Any:
        return lambda _layer, _inputs, output: found.note(name, output)

    modules: dict[str, nn.Module] = dict(features.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        yield found
        found.check()
    finally:
        for handle in handles:
            handle.remove()

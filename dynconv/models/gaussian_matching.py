"""Gaussian matching (GAM: Huang, Huang and Kraehenbuehl, ECCV 2018, section 4.1): a network's activations on the target
are given the source's mean and variance, layer by layer, in closed form."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dynconv.distributed import all_sum
from dynconv.models.folding import FOLDABLE, NORMS, channel_axis, check_foldable, fold
from dynconv.models.moments import Moments, Reached

Batches = Callable[[], Iterable[Tensor]]
Layers = Literal["hidden", "all"] | Collection[str]


class MatchedLayer(NamedTuple):
    """What was found at a layer, and what was folded into it; tensors are float64 (C,), of its output channels."""

    name: str
    """Of the module, as in `get_submodule`."""
    source_mean: Tensor
    """Of each channel over the source's images and places, in the source's network."""
    source_deviation: Tensor
    """The standard deviation likewise."""
    target_mean: Tensor
    """Over the target's images, with the layers before it matched."""
    target_deviation: Tensor
    """The standard deviation likewise."""
    scale: Tensor
    """What the target's channels are multiplied by."""
    shift: Tensor
    """What is added to them then."""
    unscaled: int
    """Channels with no variance in the target, whose scale is 1."""


@torch.no_grad()
def match_gaussian(
    source: nn.Module,
    target: nn.Module | None,
    source_batches: Batches,
    target_batches: Batches,
    *,
    layers: Layers = "hidden",
) -> tuple[MatchedLayer, ...]:
    """Give every channel of every layer of `target`, on the target's images, the mean and variance that it has in
    `source` on the source's (eq. 2): A <- sigma_s / sigma_t (A - mu_t) + mu_s.

    A layer is a convolution or a linear layer, where a batch normalisation follows directly with that, and what is
    matched is its output, before the nonlinearity. Every place of an activation map is a sample. The layers are matched
    in the order of execution, each with those before it matched, so that at the end all are at once: a property of the
    images alone, not of how they are divided into batches or among processes. With the network's batch normalisations
    at the exact statistics of the source it is AdaBN.

    Scale and shift are folded into the layer's own weights (one without a bias gets one): the network has no more
    layers than before and costs no more. A channel without variance in the target keeps its scale and is shifted; one
    without variance in the source becomes constant, as eq. 2 says. A sum of several layers' outputs (in a residual
    block) is matched in each of its parts, not in itself.

    Of the source all statistics come from one pass. Of the target every layer has a pass of its own, which ends there:
    for L layers about L / 2 whole ones.

    Args:
        source: The network that was trained on the source, in evaluation mode; of images (B, ...).
        target: The network to adapt, with the same layers; it is changed in place. None to adapt `source` itself.
        source_batches, target_batches: Give the images of a domain, this process's share of them, anew at each call. No
            label is asked for.
        layers: "hidden": those whose output meets a nonlinearity on its way to the network's output; whether it does is
            measured. "all": the last ones too, whose output is the scores (the paper numbers all L layers; whether its
            scores are among those matched it does not say). Or names, as in `named_modules`.

    Raises:
        ValueError: A network in training mode, no image, an unknown name, a layer that runs twice or shares its weights
            with another, one that nothing can be folded into (`check_foldable`), or networks that differ.
    """
    adapted = source if target is None else target
    for role, network in (("source", source), ("target", adapted)):
        if any(module.training for module in network.modules()):
            raise ValueError(f"{role}: the network is in training mode, where dropout is measured too; call eval()")
    # A network that was compiled runs eagerly here: in its graphs there are no hooks.
    with torch.compiler.set_stance("force_eager"):
        images = next(iter(target_batches()), None)
        if images is None:
            raise ValueError("target_batches: expected at least one image in every process, got none")
        chosen = matched_layers(adapted, images, layers)
        wanted = _source_moments(source, chosen, source_batches)
        matched = []
        for name, layer in chosen.items():
            moments = Moments()
            _take_moments(adapted, {layer: moments}, target_batches, last=layer)
            (mean, variance), (source_mean, source_variance) = moments.pooled(), wanted[name]
            deviation, source_deviation = variance.sqrt(), source_variance.sqrt()
            # Below the rounding of the values themselves there is no variance, but for the order of a sum.
            still = deviation <= torch.finfo(_weight(layer).dtype).eps * mean.abs()
            scale = torch.where(still, 1.0, source_deviation / deviation)
            shift = source_mean - scale * mean
            fold(layer, scale, shift)
            # Autocast keeps the weights that it has rounded, those of before.
            torch.clear_autocast_cache()
            found = (source_mean, source_deviation, mean, deviation, scale, shift)
            matched.append(MatchedLayer(name, *found, int(still.sum())))
    return tuple(matched)


@torch.no_grad()
def matched_layers(network: nn.Module, images: Tensor, layers: Layers = "hidden") -> dict[str, nn.Module]:
    """The layers of `network`, by name and in the order of execution, that `match_gaussian` matches.

    Args:
        network: In evaluation mode.
        images: (B, ...); the first one is looked at.
        layers: As in `match_gaussian`.

    Raises:
        ValueError: As `match_gaussian`.
    """
    images = images[:1]
    order = _in_order(network, images)
    names = {layer: name for name, layer in network.named_modules()}
    if isinstance(layers, str):
        if layers not in ("hidden", "all"):
            raise ValueError(f"layers: expected 'hidden', 'all' or names of layers, got {layers!r}")
        chosen = list(dict.fromkeys(order))
        if layers == "hidden":
            # In low precision rounding looks like a bend.
            with torch.autocast(images.device.type, enabled=False):
                output = _flat(network(images))
                bent = [_is_bent(network, layer, images, output) for layer in chosen]
            # Each process looked at an image of its own, and all are to match the same layers.
            anywhere = all_sum(torch.tensor(bent, dtype=torch.float64, device=images.device)).tolist()
            chosen = [layer for layer, found in zip(chosen, anywhere, strict=True) if found]
    else:
        known = {names[layer] for layer in order}
        if unknown := sorted(set(layers) - known):
            raise ValueError(
                f"layers: {', '.join(unknown)} is none of the layers that can be matched: {', '.join(sorted(known))} "
                "(of a layer with a batch normalisation behind it, that)"
            )
        chosen = [layer for layer in dict.fromkeys(order) if names[layer] in set(layers)]
    if not chosen:
        raise ValueError("layers: the network has no layer to match; give 'all', or the names of some")
    _check_own(network, chosen, order, names)
    return {names[layer]: layer for layer in chosen}


def _check_own(
    network: nn.Module, chosen: list[nn.Module], order: list[nn.Module], names: Mapping[nn.Module, str]
) -> None:
    """Raise a ValueError where changing a layer of `chosen` would change more than its one output."""
    runs = Counter(order)
    users = Counter(id(parameter) for module in network.modules() for parameter in module.parameters(recurse=False))
    for layer in chosen:
        check_foldable(layer, names[layer])
        if runs[layer] > 1:
            raise ValueError(
                f"layers: {names[layer]} runs {runs[layer]} times in a pass, and has one scale and shift for all; "
                "leave it out, or give the network a copy of it for each"
            )
        if any(users[id(parameter)] > 1 for parameter in layer.parameters(recurse=False)):
            raise ValueError(
                f"layers: {names[layer]} shares its weights with another module, which would change with it; leave it "
                "out, or give each its own"
            )


def _in_order(network: nn.Module, images: Tensor) -> list[nn.Module]:
    """The layers in the order in which a pass comes to them, as often as it does. One whose output goes into a batch
    normalisation as it is stands aside for that."""
    outputs: list[tuple[nn.Module, weakref.ref[Tensor], int]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, NORMS):
            for place, (_, given, version) in enumerate(outputs):
                # The same object may have gone through a nonlinearity in place meanwhile.
                if given() is inputs[0] and version == inputs[0]._version:
                    del outputs[place]
                    break
        outputs.append((layer, weakref.ref(output), output._version))

    with _hooked([module for module in network.modules() if isinstance(module, FOLDABLE)], note):
        network(images)
    return [layer for layer, _, _ in outputs]


def _is_bent(network: nn.Module, layer: nn.Module, images: Tensor, output: Tensor) -> bool:
    """Whether `output` f(y), all that the network gives of `images`, is no affine function of what `layer` gives: of an
    affine one f(y + d) + f(y - d) = 2 f(y)."""

    def moved(by: int) -> Tensor:
        def move(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            # As wide as the values, and at least as wide as where the usual nonlinearities bend.
            size = max(float(output.std(correction=0)), 1.0)
            noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype)
            return output + by * size * noise.to(output.device)

        with _hooked([layer], move):
            return _flat(network(images))

    up, down = moved(1), moved(-1)
    bend, slope = (up + down - 2 * output).abs().max(), (up - down).abs().max()
    rounding = 100 * torch.finfo(_weight(layer).dtype).eps * output.abs().max()
    # What does not reach the output at all is not the last layer.
    return bool(bend > 1e-3 * slope + rounding) or bool(slope == 0)


def _flat(output: Any) -> Tensor:
    """All values in what a network gives: a tensor, or tensors in tuples, lists and mappings."""
    if isinstance(output, Tensor):
        return output.flatten().double()
    if isinstance(output, Mapping):
        return _flat(list(output.values()))
    if isinstance(output, tuple | list):
        return torch.cat([_flat(each) for each in output])
    raise ValueError(
        f"layers: 'hidden' is measured at what the network gives, and that holds a {type(output).__name__}; give "
        "'all', or the names of layers"
    )


def _source_moments(
    source: nn.Module, chosen: Mapping[str, nn.Module], batches: Batches
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of what the layers of `source` with the names of `chosen` give."""
    own = dict(source.named_modules())
    for name, layer in chosen.items():
        if name not in own or type(own[name]) is not type(layer) or _weight(own[name]).shape != _weight(layer).shape:
            raise ValueError(
                f"target: its layer {name} is {layer}, and the source's network has {own.get(name, 'none')} of this "
                "name; give two networks of one kind"
            )
    moments = {own[name]: Moments() for name in chosen}
    _take_moments(source, moments, batches)
    for name in chosen:
        if moments[own[name]].count == 0:
            raise ValueError(f"source_batches: no image came to the layer {name} of the source's network")
    return {name: moments[own[name]].pooled() for name in chosen}


def _take_moments(
    network: nn.Module, moments: Mapping[nn.Module, Moments], batches: Batches, last: nn.Module | None = None
) -> None:
    """Add what the layers of `moments` give in passes of all images, which end behind the layer `last`."""

    def take(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        moments[layer].add(output, channel_axis(layer, output))
        if layer is last:
            raise Reached

    with _hooked(moments, take):
        for images in batches():
            with contextlib.suppress(Reached):
                network(images)


def _weight(layer: nn.Module) -> Tensor:
    """The weight of a layer, or the running mean of a batch normalisation that has none."""
    own = dict(layer.named_parameters(recurse=False))
    return own["weight"] if "weight" in own else layer.get_buffer("running_mean")


@contextlib.contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """`hook` after every pass of `layers` within the context."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

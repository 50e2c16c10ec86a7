"""What ``feature_gradient_norms`` works on: M multilayer perceptrons with stacked weights on one batch of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv.ops import checks
from dynconv.ops.problem import accumulation_dtype, autocast_is_on


@dataclass(frozen=True)
class Discriminators:
    """The arguments of one call, checked; shapes as in :func:`dynconv.functional.feature_gradient_norms`.

    Layer l takes h_l to h_{l+1}; h_0 are the features. ``masks[l]`` belongs to h_{l+1}.
    """

    features: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    masks: tuple[Tensor | None, ...]
    negative_slope: float

    @classmethod
    def of(
        cls,
        features: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        masks: Sequence[Tensor],
        negative_slope: float,
    ) -> Discriminators:
        """From an operator's arguments, in whose lists an absent tensor is an empty one of dimension 1."""
        present, factors = (tuple(None if t.dim() == 1 else t for t in tensors) for tensors in (biases, masks))
        return cls(features, tuple(weights), present, factors, negative_slope)

    @property
    def num(self) -> int:
        """M."""
        return self.weights[-1].shape[0]

    @property
    def batch(self) -> int:
        """N."""
        return self.features.shape[0]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.weights)

    @property
    def widths(self) -> list[int]:
        """Widths of h_0 (the features) to the last hidden layer."""
        return [weight.shape[2] for weight in self.weights]

    @property
    def accumulation_dtype(self) -> torch.dtype:
        return accumulation_dtype(self.features.dtype)

    @property
    def num_shared(self) -> int:
        """Number of first layers whose result is the same for all discriminators."""
        if self.num == 1:
            return 0
        for layer in range(self.depth):
            of_layer = (self.weights[layer], self.biases[layer], (*self.masks, None)[layer])
            if any(t is not None and t.shape[0] != 1 for t in of_layer):
                return layer
        return self.depth - 1

    def tensors(self) -> list[Tensor]:
        """Every tensor that is given."""
        return [t for t in (self.features, *self.weights, *self.biases, *self.masks) if t is not None]


def check(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    targets: Tensor,
    sample_weights: Tensor,
    dropout_masks: Sequence[Tensor | None] | None,
) -> None:
    """Types, devices, shapes and, on the CPU, values of the arguments; TypeError or ValueError in words.

    Values of masks are not looked at: a pass over them took 3 % of a step of 79 discriminators.
    """
    masks = () if dropout_masks is None else dropout_masks
    for name, given in (("weights", weights), ("biases", biases), ("dropout_masks", masks)):
        if isinstance(given, Tensor) or not isinstance(given, Sequence):
            raise TypeError(f"{name} must be a sequence with one entry per layer; got {type(given).__name__}.")
    if not isinstance(sample_weights, Tensor):
        raise TypeError(f"sample_weights must be a Tensor; got {type(sample_weights).__name__}.")
    if not weights:
        raise ValueError("weights must hold at least one layer; got none.")
    if len(biases) != len(weights):
        raise ValueError(f"biases must have one entry per layer, {len(weights)}; got {len(biases)}. None is no bias.")
    if dropout_masks is not None and len(dropout_masks) != len(weights) - 1:
        raise ValueError(
            f"dropout_masks must have one entry per hidden layer, {len(weights) - 1}; got {len(dropout_masks)}. "
            "None is no dropout."
        )
    named: dict[str, tuple[Tensor | None, int]] = {"features": (features, 2), "sample_weights": (sample_weights, 2)}
    named |= {f"weights[{i}]": (t, 3) for i, t in enumerate(weights)}
    for i, t in enumerate(weights):
        if not isinstance(t, Tensor):
            raise TypeError(f"weights[{i}] must be a Tensor; got {type(t).__name__}.")
    named |= {f"biases[{i}]": (t, 2) for i, t in enumerate(biases)}
    named |= {f"dropout_masks[{i}]": (t, 3) for i, t in enumerate(masks)}
    checks.tensors(named, like="features")
    if not autocast_is_on(features.device):
        parameters = {name: t for name, (t, _) in named.items() if name.startswith(("weights", "biases"))}
        checks.same_dtype({"features": features, **parameters}, like="features")
    _check_shapes(features, weights, biases, masks)
    _check_samples(features, weights[-1].shape[0], targets, sample_weights)


def _values_are_readable(tensor: Tensor) -> bool:
    """Whether looking at values costs neither a synchronisation nor a break of a graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_shapes(
    features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], masks: Sequence[Tensor | None]
) -> None:
    num, width = weights[-1].shape[0], features.shape[1]
    if num < 1 or width < 1:
        raise ValueError(
            f"there must be a discriminator and a feature at least; got weights[{len(weights) - 1}] of shape "
            f"{tuple(weights[-1].shape)} and features of shape {tuple(features.shape)}."
        )
    below = "features"
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        is_last = i == len(weights) - 1
        if weight.shape[0] not in (1, num):
            raise ValueError(
                f"weights[{i}] must have the leading dimension M = {num} of the last layer, or 1 where all "
                f"discriminators share it; got shape {tuple(weight.shape)}."
            )
        if weight.shape[2] != width or weight.shape[1] < 1:
            raise ValueError(
                f"weights[{i}] must have shape (M, outputs, inputs) with the {width} inputs that {below} gives it; got "
                f"{tuple(weight.shape)}."
            )
        if is_last and weight.shape[1] != 1:
            raise ValueError(f"weights[{i}], the last, must have shape (M, 1, {width}); got {tuple(weight.shape)}.")
        if bias is not None:
            checks.shape(f"biases[{i}]", bias, (weight.shape[0], weight.shape[1]), f"weights[{i}].shape[:2]")
        width, below = weight.shape[1], f"weights[{i}]"
    for i, mask in enumerate(masks):
        expected = (num, features.shape[0], weights[i].shape[1])
        if mask is not None and tuple(mask.shape) not in (expected, (1, *expected[1:])):
            raise ValueError(
                f"dropout_masks[{i}] must have shape (M, N, H) = {expected}, or 1 for M where all discriminators share "
                f"it; got {tuple(mask.shape)}."
            )
        if mask is not None and mask.requires_grad:
            raise ValueError(f"dropout_masks[{i}] requires a gradient, and masks have none; detach it.")


def _check_samples(features: Tensor, num: int, targets: Tensor, sample_weights: Tensor) -> None:
    batch = features.shape[0]
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a Tensor; got {type(targets).__name__}.")
    checks.shape("targets", targets, (batch,), "(N,)")
    checks.shape("sample_weights", sample_weights, (batch, num), "(N, M)")
    if targets.device != features.device:
        raise ValueError(f"targets is on {targets.device}, features on {features.device}; move them to one device.")
    if targets.is_complex():
        raise TypeError(f"targets must hold 0 and 1 in a real dtype; got {targets.dtype}.")
    if not _values_are_readable(features) or batch == 0:
        return
    if not ((targets == 0) | (targets == 1)).all():
        raise ValueError(
            f"targets must be 1 (source) or 0 (target); got values in [{targets.min().item()}, {targets.max().item()}]."
        )
    # Not a number where any value is.
    least, most = (bound.item() for bound in sample_weights.detach().aminmax())
    if not 0 <= least <= most < float("inf"):
        raise ValueError(f"sample_weights must hold finite numbers of at least 0; got values in [{least:g}, {most:g}].")

"""Logits and gains of perceptrons with any activation: torch.func's gradient, batched over the discriminators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynconv.ops.problem import accumulation_dtype


def forward(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    activation: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Logits (M, N) and gains ||dz/df|| (M, N), differentiable by autograd."""
    num = weights[-1].shape[0]
    given = {
        f"{kind} {layer}": t
        for kind, tensors in (("weight", weights), ("bias", biases), ("mask", masks))
        for layer, t in enumerate(tensors)
        if t is not None
    }
    is_shared = {name: t.shape[0] < num for name, t in given.items()}
    stacked = {name: t[0] if is_shared[name] else t for name, t in given.items()}

    def logits(features: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        h = features
        for layer in range(len(weights)):
            h = torch.nn.functional.linear(h, parameters[f"weight {layer}"], parameters.get(f"bias {layer}"))
            if layer < len(weights) - 1:
                h = activation(h)
                mask = parameters.get(f"mask {layer}")
                h = h if mask is None else h * mask
        z = h[:, 0]
        return z.sum(), z

    gradient = torch.func.grad(logits, has_aux=True)
    dims = {name: None if shared else 0 for name, shared in is_shared.items()}
    directions, z = torch.func.vmap(gradient, in_dims=(None, dims))(features, stacked)
    dtype = accumulation_dtype(features.dtype)
    return z.to(dtype), torch.linalg.vector_norm(directions, dim=2, dtype=dtype)

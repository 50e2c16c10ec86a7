"""The oracle of ``feature_gradient_norms``: one discriminator after the other, its loss differentiated by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def feature_gradient_norms(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    targets: Tensor,
    sample_weights: Tensor,
    *,
    activation: str | Callable[[Tensor], Tensor] = "relu",
    negative_slope: float = 0.01,
    dropout_masks: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Norms (N, M), logits (N, M) and losses (M,) as in :func:`dynconv.functional.feature_gradient_norms` (GSDA, eq. 6
    to 12), in the inputs' dtype, differentiable any number of times where no norm is zero.

    Args:
        features, weights, biases, targets, sample_weights, activation, negative_slope, dropout_masks: As in
            :func:`dynconv.functional.feature_gradient_norms`, of one floating dtype, float64 too, and not checked.

    Returns:
        (norms, logits, losses).
    """
    if isinstance(activation, str):
        slope = 0.0 if activation == "relu" else negative_slope

        def activation(x: Tensor) -> Tensor:
            return torch.nn.functional.leaky_relu(x, slope)

    sign = 1 - 2 * targets.to(features.dtype)
    columns: list[tuple[Tensor, ...]] = []
    with torch.enable_grad():
        for m in range(sample_weights.shape[1]):
            h = x = features if features.requires_grad else features.detach().requires_grad_()
            for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                # A leading dimension of one is shared by all discriminators.
                if layer > 0:
                    h = activation(h)
                    mask = dropout_masks[layer - 1] if dropout_masks is not None else None
                    h = h if mask is None else h * mask[min(m, len(mask) - 1)]
                h = torch.nn.functional.linear(h, weight[min(m, len(weight) - 1)])
                h = h if bias is None else h + bias[min(m, len(bias) - 1)]
            z = h[:, 0]
            # Cross entropy with logits as -log sigmoid(-sign z), whose derivative does not vanish where |z| is large.
            loss = -(sample_weights[:, m].detach() * torch.nn.functional.logsigmoid(-sign * z)).sum()
            (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
            columns.append((torch.linalg.vector_norm(gradient, dim=1), z, loss))
    if not torch.is_grad_enabled():
        columns = [tuple(t.detach() for t in column) for column in columns]
    norms, logits, losses = zip(*columns, strict=True)
    return torch.stack(norms, dim=1), torch.stack(logits, dim=1), torch.stack(losses)

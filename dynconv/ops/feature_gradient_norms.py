"""The function ``feature_gradient_norms``: its arguments, and the norms and losses that it makes of logits and gains.

These come from an operator (`dynconv.ops.feature_gradient_norms_operator`) or, for an activation of the caller's own,
from torch.func.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from dynconv import reference
from dynconv.ops import discriminators
from dynconv.ops.discriminators import Discriminators
from dynconv.ops.eager import feature_gradient_norms_by_vmap as by_vmap
from dynconv.ops.feature_gradient_norms_operator import logits_and_gains
from dynconv.ops.problem import accumulation_dtype, autocast_is_on

BACKENDS = ("auto", "eager", "triton", "reference")
ACTIVATIONS = ("relu", "leaky_relu")


class FeatureGradientNorms(NamedTuple):
    """What :func:`feature_gradient_norms` returns, in float32 (float64 for float64 features)."""

    norms: Tensor
    """(N, M), n[i, m] = ||dL_m / df_i||."""
    logits: Tensor
    """(N, M)."""
    losses: Tensor
    """(M,), L_m."""


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
    workspace_bytes: int | None = None,
    logits_everywhere: bool = True,
    backend: str = "auto",
) -> FeatureGradientNorms:
    """Norms of the gradients of M discriminators' losses with respect to each sample's features (GSDA, eq. 6 to 12).

    For a discriminator with logit z_m, a multilayer perceptron, and p = ``sample_weights``, d = ``targets``::

        losses[m] = sum_i p[i, m] * BCE(z_m(f_i), d_i)
        norms[i, m] = ||d losses[m] / d f_i|| = p[i, m] * sigmoid((1 - 2 d_i) z_m(f_i)) * ||d z_m / d f_i||

    written so that neither loses its value where a discriminator is sure. All three results are differentiable with
    respect to features, weights and biases; p is a constant. Where ||d z / d f|| is zero, so is its subgradient.

    Args:
        features: (N, D), float64, float32, bfloat16 or float16; N may be 0.
        weights: One per layer, of ``features``' dtype: (M, H_l, H_{l-1}) with H_0 = D, the last (M, 1, H). Layers but
            the last may have a leading dimension of 1, which all discriminators share (a shared trunk).
        biases: One per layer, (M, H_l), or (1, H_l) where the layer is shared, or None.
        targets: (N,), 1 for source samples and 0 for target ones, any real dtype.
        sample_weights: (N, M), finite and at least 0, any floating dtype; it gets no gradient. Pairs of weight 0 have
            norm 0; on the CPU they cost nothing but their logits.
        activation: ``"relu"``, ``"leaky_relu"``, or an elementwise function of torch operations, for which torch.func
            takes the gradients: slower, and without a bound on memory.
        negative_slope: Of ``"leaky_relu"``, at least 0; its derivative at exactly 0, too.
        dropout_masks: One per hidden layer: factors (M, N, H_l) of at least 0, 0 or 1 / (1 - rate), or (1, N, H_l), or
            None. None is no dropout. Their values are not looked at.
        workspace_bytes: Bound on what a call holds beyond its inputs and results: intermediate results while it runs
            and those it keeps for the backward; in the backward, beyond the gradients of inputs, likewise. What does
            not fit is computed again. Not counted: a few numbers for each pair, and under autocast the copies of
            ``weights``. None stands for 1 GiB, or for one discriminator where that takes more. On a CPU the memory of a
            weight's gradient of 32 MiB or more is kept for its next gradient when no one holds it any more.
        logits_everywhere: False returns 0 for the logits of pairs of weight 0, which saves work on the CPU.
        backend: ``"eager"`` is the closed form in batched products, ``"triton"`` the Triton kernels (GPU; float32,
            bfloat16 and float16), ``"reference"`` one discriminator after the other by autograd, the only one that can
            be differentiated twice, and no use within ``torch.inference_mode``. ``"auto"`` takes ``"eager"`` on every
            device: the kernels have not been measured.

    Returns:
        ``(norms (N, M), logits (N, M), losses (M,))`` in float32, float64 for float64 features. Under autocast the
        products are taken in its dtype.

    Raises:
        TypeError: An argument is no tensor, of no floating dtype or of another one.
        ValueError: Shapes, devices or options do not fit, values are out of range (looked at on the CPU alone, where it
            costs no synchronisation), or the chosen backend cannot run these tensors.
        RuntimeError: The gradient is differentiated again, or forward-mode derivatives are taken, on any backend but
            ``"reference"``.
    """
    _check_options(activation, negative_slope, workspace_bytes, backend)
    discriminators.check(features, weights, biases, targets, sample_weights, dropout_masks)
    features, weights, biases, masks = _cast(features, weights, biases, dropout_masks or [None] * (len(weights) - 1))
    dtype = accumulation_dtype(features.dtype)
    p = sample_weights.detach().to(dtype)
    sign = (1 - 2 * targets.to(dtype))[:, None]
    # Cast by hand above: torch would take the logits' product, too, in the lower precision.
    with torch.autocast(features.device.type, enabled=False) if autocast_is_on(features.device) else nullcontext():
        if backend == "reference":
            found = reference.feature_gradient_norms(
                features,
                weights,
                biases,
                targets,
                p.to(features.dtype),
                activation=activation,
                negative_slope=negative_slope,
                dropout_masks=masks,
            )
            norms, logits, losses = (t.to(dtype) for t in found)
        else:
            if isinstance(activation, str):
                slope = 0.0 if activation == "relu" else negative_slope
                problem = Discriminators(features, tuple(weights), tuple(biases), tuple(masks), slope)
                logits, gains = logits_and_gains(problem, p, logits_everywhere, workspace_bytes, backend)
            else:
                logits, gains = by_vmap.forward(features, weights, biases, masks, activation)
            logits, gains = logits.t(), gains.t()
            norms = p * torch.sigmoid(sign * logits) * gains
            losses = -(p * torch.nn.functional.logsigmoid(-sign * logits)).sum(dim=0)
        if not logits_everywhere:
            logits = logits.masked_fill(p == 0, 0.0)
    return FeatureGradientNorms(norms, logits, losses)


def _check_options(
    activation: str | Callable[[Tensor], Tensor], negative_slope: float, workspace_bytes: int | None, backend: str
) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)} or a function; got {activation!r}.")
        # Looked at where it is used alone: torch.compile would make a graph of its own for it.
        if activation == "leaky_relu" and not isinstance(negative_slope, (int, float)):
            raise TypeError(f"negative_slope must be a number; got {negative_slope!r}.")
        if activation == "leaky_relu" and not 0 <= negative_slope < float("inf"):
            raise ValueError(f"negative_slope must be at least 0 and finite; got {negative_slope!r}.")
    elif not callable(activation):
        raise TypeError(f"activation must be one of {', '.join(ACTIVATIONS)} or a function; got {activation!r}.")
    elif backend == "triton":
        raise ValueError('backend="triton" cannot run these norms: its kernels know relu and leaky_relu alone.')
    if workspace_bytes is None:
        return
    if not isinstance(workspace_bytes, int) or isinstance(workspace_bytes, bool):
        raise TypeError(f"workspace_bytes must be an int or None; got {workspace_bytes!r}.")
    if not 0 <= workspace_bytes < 2**63:
        raise ValueError(f"workspace_bytes must be at least 0 and less than 2 ** 63; got {workspace_bytes}.")
    if not isinstance(activation, str) or backend == "reference":
        raise ValueError(
            'workspace_bytes bounds the closed form of "relu" and "leaky_relu"; leave it None for an activation of '
            'your own and for backend="reference".'
        )


def _cast(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
) -> tuple[Tensor, list[Tensor], list[Tensor | None], list[Tensor | None]]:
    """The tensors as autocast wants them; masks always in the features' dtype."""
    dtype = features.dtype
    if autocast_is_on(features.device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(features.device.type)

    def cast(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [None if t is None else t.to(dtype) for t in tensors]

    return features.to(dtype), [t.to(dtype) for t in weights], cast(biases), cast(masks)

"""The operator ``dynconv::feature_gradient_norms``: schema, shape function, autograd and choice of backend.

The operator itself gives logits z and gains ||dz/df||; the norms and losses that :func:`feature_gradient_norms` returns
are plain autograd on these (M, N) numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynconv import backends, reference
from dynconv.ops import discriminators
from dynconv.ops._library import LIBRARY, no_double_backward, refuse_forward_mode
from dynconv.ops.discriminators import Discriminators
from dynconv.ops.eager import feature_gradient_norms as eager
from dynconv.ops.eager import feature_gradient_norms_by_vmap as by_vmap
from dynconv.ops.problem import accumulation_dtype, autocast_is_on

BACKENDS = ("auto", "eager", "triton", "reference")
ACTIVATIONS = ("relu", "leaky_relu")

# An absent bias or mask is an empty tensor of dimension 1: autograd takes lists of tensors alone.
_ARGUMENTS = (
    "Tensor features, Tensor[] weights, Tensor[] biases, Tensor[] masks, Tensor? active, float negative_slope, "
    "str keep, bool logits_everywhere, SymInt? workspace, str backend"
)
LIBRARY.define(f"feature_gradient_norms({_ARGUMENTS}) -> (Tensor logits, Tensor gains, Tensor[] kept)")
LIBRARY.define(
    "feature_gradient_norms_backward(Tensor grad_logits, Tensor? grad_gains, Tensor gains, Tensor[] kept, "
    f"{_ARGUMENTS}, bool needs_features, bool[] needs_weights, bool[] needs_biases) "
    "-> (Tensor features, Tensor[] weights, Tensor[] biases)"
)


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
            ``weights``. None stands for 1 GiB, or for one discriminator where that takes more.
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
                logits, gains = _operator(problem, p, logits_everywhere, workspace_bytes, backend)
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


def _operator(
    problem: Discriminators, p: Tensor, logits_everywhere: bool, workspace_bytes: int | None, backend: str
) -> tuple[Tensor, Tensor]:
    """Logits and gains (M, N), differentiable; undefined for void pairs where work can be saved."""
    # Which pairs are void is looked at where it costs no synchronisation.
    active = (p != 0).t() if p.device.type == "cpu" and backend != "triton" else None
    refuse_forward_mode("feature_gradient_norms", *problem.tensors())
    # Asked here and not in the operator, which autograd always runs without gradients.
    keep = "nothing"
    if torch.is_grad_enabled():
        if any(t is not None and t.requires_grad for t in (*problem.weights, *problem.biases)):
            keep = "all"
        elif problem.features.requires_grad:
            keep = "features"
    absent = problem.features.new_empty(0)
    biases, masks = ([absent if t is None else t for t in tensors] for tensors in (problem.biases, problem.masks))
    logits, gains, _ = torch.ops.dynconv.feature_gradient_norms(
        problem.features,
        list(problem.weights),
        biases,
        masks,
        active,
        float(problem.negative_slope),
        keep,
        logits_everywhere,
        workspace_bytes,
        "eager" if backend == "auto" else backend,
    )
    return logits, gains


def _of_kernels(workspace: int | None) -> int:
    """What the Triton kernels, which take any bound, are told."""
    return eager.WORKSPACE_BYTES if workspace is None else workspace


def _triton_reasons(problem: Discriminators) -> list[str]:
    """Why the Triton kernels cannot run this problem; empty where they can."""
    missing = backends.triton_missing(problem.features.device)
    if missing is not None:
        return [missing]
    from dynconv.kernels import feature_gradient_norms as kernels

    return kernels.reasons(problem.features, problem.weights, problem.biases, problem.masks)


@torch.library.impl("dynconv::feature_gradient_norms", "CompositeExplicitAutograd", lib=LIBRARY)
def _forward(
    features: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    masks: list[Tensor],
    active: Tensor | None,
    negative_slope: float,
    keep: str,
    logits_everywhere: bool,
    workspace: int | None,
    backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    problem = Discriminators.of(features, weights, biases, masks, negative_slope)
    if backend == "eager":
        return eager.forward(problem, active, keep, logits_everywhere, workspace)
    if reasons := _triton_reasons(problem):
        raise ValueError(f'backend="{backend}" cannot run these feature_gradient_norms: ' + "; ".join(reasons) + ".")
    from dynconv.kernels import feature_gradient_norms as kernels

    return kernels.forward(
        features,
        weights,
        problem.biases,
        problem.masks,
        negative_slope,
        keep=keep,
        workspace_bytes=_of_kernels(workspace),
    )


@torch.library.register_fake("dynconv::feature_gradient_norms", lib=LIBRARY)
def _forward_fake(
    features: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    masks: list[Tensor],
    active: Tensor | None,
    negative_slope: float,
    keep: str,
    logits_everywhere: bool,
    workspace: int | None,
    backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    problem = Discriminators.of(features, weights, biases, masks, negative_slope)
    logits = features.new_empty((problem.num, problem.batch), dtype=problem.accumulation_dtype)
    if backend == "eager":
        return logits, torch.empty_like(logits), eager.kept_like(problem, keep, workspace)
    from dynconv.kernels import feature_gradient_norms as kernels

    return logits, torch.empty_like(logits), kernels.kept_like(features, weights, keep, _of_kernels(workspace))


@torch.library.impl("dynconv::feature_gradient_norms_backward", "CompositeExplicitAutograd", lib=LIBRARY)
def _backward(
    grad_logits: Tensor,
    grad_gains: Tensor | None,
    gains: Tensor,
    kept: list[Tensor],
    features: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    masks: list[Tensor],
    active: Tensor | None,
    negative_slope: float,
    keep: str,
    logits_everywhere: bool,
    workspace: int | None,
    backend: str,
    needs_features: bool,
    needs_weights: list[bool],
    needs_biases: list[bool],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    problem = Discriminators.of(features, weights, biases, masks, negative_slope)
    if backend == "eager":
        of_features, of_weights, of_biases = eager.backward(
            problem,
            active,
            kept,
            gains,
            grad_logits,
            grad_gains,
            keep=keep,
            workspace=workspace,
            needs_features=needs_features,
            needs_weights=needs_weights,
            needs_biases=needs_biases,
        )
    else:
        from dynconv.kernels import feature_gradient_norms as kernels

        of_features, of_weights, of_biases = kernels.backward(
            grad_logits.contiguous(),
            torch.zeros_like(gains) if grad_gains is None else grad_gains.contiguous(),
            gains,
            features,
            weights,
            problem.biases,
            problem.masks,
            negative_slope,
            kept,
            keep=keep,
            workspace_bytes=_of_kernels(workspace),
            needs_features=needs_features,
            needs_weights=needs_weights,
            needs_biases=needs_biases,
        )

    def given(gradient: Tensor | None, tensor: Tensor) -> Tensor:
        return tensor.new_empty(0) if gradient is None else gradient.to(tensor.dtype)

    return (
        given(of_features, features),
        [given(gradient, tensor) for gradient, tensor in zip(of_weights, weights, strict=True)],
        [given(gradient, tensor) for gradient, tensor in zip(of_biases, biases, strict=True)],
    )


@torch.library.register_fake("dynconv::feature_gradient_norms_backward", lib=LIBRARY)
def _backward_fake(
    grad_logits: Tensor,
    grad_gains: Tensor | None,
    gains: Tensor,
    kept: list[Tensor],
    features: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    *unused: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    needs_features, needs_weights, needs_biases = unused[-3:]

    def given(tensor: Tensor, needed: bool) -> Tensor:
        return tensor.new_empty(tensor.shape if needed and tensor.dim() > 1 else (0,))

    return (
        given(features, needs_features),
        [given(tensor, needed) for tensor, needed in zip(weights, needs_weights, strict=True)],
        [given(tensor, needed) for tensor, needed in zip(biases, needs_biases, strict=True)],
    )


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    features, weights, biases, masks, active, *options = inputs
    _, gains, kept = output
    ctx.save_for_backward(gains, features, active, *weights, *biases, *masks, *kept)
    ctx.depth = len(weights)
    ctx.options = options
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_logits: Tensor | None, grad_gains: Tensor | None, _: Any) -> tuple:
    gains, features, active, *rest = ctx.saved_tensors
    depth, options = ctx.depth, ctx.options
    bounds = (0, depth, 2 * depth, 3 * depth - 1, len(rest))
    weights, biases, masks, kept = (list(rest[low:high]) for low, high in zip(bounds, bounds[1:], strict=False))
    unused = (None,) * (1 + len(options))
    if grad_logits is None and grad_gains is None:
        return None, [None] * depth, [None] * depth, [None] * len(masks), *unused
    grad_logits = torch.zeros_like(gains) if grad_logits is None else grad_logits
    needs = ctx.needs_input_grad
    found = torch.ops.dynconv.feature_gradient_norms_backward(
        grad_logits,
        grad_gains,
        gains,
        kept,
        features,
        weights,
        biases,
        masks,
        active,
        *options,
        *map(_plain, needs[:3]),
    )
    of_features, *of_parameters = found
    parameters = [
        [gradient if needed else None for gradient, needed in zip(gradients, needed_of, strict=True)]
        for gradients, needed_of in zip(of_parameters, needs[1:3], strict=True)
    ]
    return of_features if needs[0] else None, *parameters, [None] * len(masks), *unused


def _plain(needs: Any) -> Any:
    return list(needs) if isinstance(needs, (list, tuple)) else needs


torch.library.register_autograd("dynconv::feature_gradient_norms", _autograd, setup_context=_setup_context, lib=LIBRARY)
no_double_backward("feature_gradient_norms_backward", "feature_gradient_norms")

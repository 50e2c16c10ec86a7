"""The operator ``dynconv::feature_gradient_norms``: schema, shape function, autograd and choice of backend.

It gives logits z and gains ||dz/df||; the norms and losses that `dynconv.functional.feature_gradient_norms` returns are
plain autograd on these (M, N) numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynconv import backends
from dynconv.ops._library import LIBRARY, no_double_backward, refuse_forward_mode
from dynconv.ops.discriminators import Discriminators
from dynconv.ops.eager import feature_gradient_norms as eager
from dynconv.ops.eager.discriminator_groups import WORKSPACE_BYTES, kept_like

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


def logits_and_gains(
    problem: Discriminators, p: Tensor, logits_everywhere: bool, workspace_bytes: int | None, backend: str
) -> tuple[Tensor, Tensor]:
    """Logits z and gains ||dz/df||, (M, N) each, differentiable.

    ``p`` (N, M) is each sample's weight: of pairs of weight 0 both are undefined where that saves work, logits only
    without ``logits_everywhere``. The other arguments are those of `dynconv.functional.feature_gradient_norms`.
    """
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
    return WORKSPACE_BYTES if workspace is None else workspace


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
        return logits, torch.empty_like(logits), kept_like(problem, keep, workspace)
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

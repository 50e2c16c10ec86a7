"""The Triton backend of `dynamic_conv2d`: which kernels make up a forward and a backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from dynconv.ops.cost_model_cuda import choose_forward, choose_gradient
from dynconv.ops.problem import Gradients, Mask, Problem, channel_sum, scaled

if TYPE_CHECKING:
    from dynconv.kernels.tuning import Choice


def forward(problem: Problem) -> Tensor:
    """y (B, Cout, Hout, Wout), for a problem that `dynconv.kernels.layout.reasons` finds nothing against."""
    # Imported here: `import dynconv` must not need triton.
    from dynconv.kernels import dynamic_conv2d as kernels

    def run(choice: Choice) -> Tensor:
        arguments = (*problem.tensors(), *problem.geometry())
        return kernels.forward(*arguments, variant=choice.variant, tile=choice.tile)

    y = run(_choose(problem, problem.x, problem.out_channels, run, choose_forward))
    return y.contiguous(memory_format=problem.memory_format)


def backward(problem: Problem, grad: Tensor, mask: Mask) -> Gradients:
    """Gradients for ``grad`` (B, Cout, Hout, Wout), each where ``mask`` asks for it."""
    gradients = _parameter_gradients(problem, grad, mask)
    if mask.bias:
        gradients = gradients._replace(bias=channel_sum(grad))
    if mask.x:
        gradients = gradients._replace(x=_input_gradient(problem, grad))
    return gradients


def _input_gradient(problem: Problem, grad: Tensor) -> Tensor:
    from dynconv.kernels import dynamic_conv2d as kernels

    def run(choice: Choice) -> Tensor:
        parts = (problem.weight, problem.scale, problem.basis, problem.coefficients)
        arguments = (grad, *parts, tuple(problem.x.shape), *problem.geometry())
        return kernels.input_gradient(*arguments, variant=choice.variant, tile=choice.tile)

    return run(_choose(problem, grad, problem.x.shape[1], run, choose_gradient))


def _choose(
    problem: Problem,
    source: Tensor,
    columns: int,
    run: Callable[[Choice], Tensor],
    by_cost: Callable[[Problem], str],
) -> Choice:
    """The variant that is forced, or else the one that was timed where tuning is on, or else the cost model's."""
    from dynconv.kernels import layout, tuning, variants

    forced = variants.forced_variant()
    if forced is not None:
        return tuning.Choice(forced)
    default = tuning.Choice(by_cost(problem))
    if tuning.active() is None:
        return default
    groups = problem.groups
    kind = layout.kind(layout.channels_innermost(source), source.shape[1] // groups, columns // groups)
    sizes = (layout.size(problem.weight), layout.size(problem.basis), problem.scale is not None, problem.num_bases)
    kernels = [tensor.stride() for tensor in (problem.weight, problem.basis) if tensor is not None]
    description = (
        f"{by_cost.__name__} {source.dtype} {kind} x {tuple(problem.x.shape)} source {source.stride()} "
        f"W {problem.out_channels} {sizes} kernels {kernels} {problem.geometry()}"
    )
    capability = layout.capability(source)
    return tuning.choose(
        source.device,
        description,
        default,
        lambda: tuning.candidates(kind, columns // groups, source.shape[1] // groups, capability, *sizes),
        run,
    )


def _parameter_gradients(problem: Problem, grad: Tensor, mask: Mask) -> Gradients:
    """Gradients of W0, s, Phi and pi."""
    from dynconv.kernels.dynamic_conv2d_parameters import parameter_gradients

    weight = None
    if mask.weight and problem.weight is not None and not _forms_every_product(problem, mask):
        # All that is left of W0's part is a static convolution's gradient, which the vendor's kernels compute best.
        _, weight = problem.convolve_backward(scaled(grad, problem.scale), problem.x, problem.weight, (False, True))
        mask = mask._replace(weight=False)
    wanted = (mask.weight, mask.scale, mask.basis, mask.coefficients)
    if not any(wanted):
        return Gradients(weight=weight)
    parts = (problem.weight, problem.scale, problem.basis, problem.coefficients)
    found = parameter_gradients(grad, problem.x, *parts, *problem.geometry(), wanted=wanted)
    return Gradients(None, weight if found[0] is None else found[0], None, *found[1:])


def _forms_every_product(problem: Problem, mask: Mask) -> bool:
    """Whether s, or Phi and pi on all of the kernel's taps, need dy_b x_b^T sample by sample anyway."""
    if mask.scale:
        return True
    is_full = problem.basis is not None and problem.basis.shape[2:] == problem.kernel_size
    return is_full and (mask.basis or mask.coefficients)

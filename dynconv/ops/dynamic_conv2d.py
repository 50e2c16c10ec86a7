"""The operator ``dynconv::dynamic_conv2d``: checks, schema, shape function, autograd and choice of backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dynconv import backends, reference
from dynconv.ops import checks, native, triton
from dynconv.ops._library import LIBRARY, is_plain, no_double_backward, refuse_forward_mode
from dynconv.ops.cost_model import choose_strategy, prefers_split
from dynconv.ops.eager import aggregate, linear, split
from dynconv.ops.problem import Gradients, Mask, Problem, autocast_is_on, is_channels_last

STRATEGIES = ("split", "aggregate", "linear", "loop")
BACKENDS = ("auto", "eager", *STRATEGIES, "native", "triton", "reference")

_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups, str backend"
LIBRARY.define(
    "dynamic_conv2d(Tensor x, Tensor? weight, Tensor? bias, Tensor? scale, Tensor? basis, Tensor? coefficients, "
    f"{_GEOMETRY}, bool keep_static) -> (Tensor y, Tensor static)"
)
LIBRARY.define(
    "dynamic_conv2d_backward(Tensor grad, Tensor? static, Tensor x, Tensor? weight, Tensor? bias, Tensor? scale, "
    f"Tensor? basis, Tensor? coefficients, {_GEOMETRY}, bool[6] mask) "
    "-> (Tensor x, Tensor weight, Tensor bias, Tensor scale, Tensor basis, Tensor coefficients)"
)


def dynamic_conv2d(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    basis: Tensor | None = None,
    coefficients: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Convolve every sample with a kernel of its own (dynamic residual transfer, DRT, eq. 2 to 5).

    For sample b, with Phi_i = ``basis.view(K, Cout, ...)[i]``::

        y_b = scale_b * conv(x_b, weight) + conv(x_b, sum_i coefficients_bi Phi_i) + bias

    ``scale`` alone is channel attention (eq. 3, scale = 1 + Lambda), ``basis`` alone subspace routing (eq. 4), both are
    the combination (eq. 5); ``weight=None`` is the plain mixture of kernels (CondConv, Dynamic Convolution).

    Args:
        x: Input of shape (B, Cin, H, W), float64, float32, bfloat16 or float16; B may be 0.
        weight: Static kernel W0 of shape (Cout, Cin / groups, kh, kw) and of ``x``'s dtype, or None.
        bias: (Cout,), of ``x``'s dtype, or None.
        scale: (B, Cout), of ``x``'s dtype or float32, or None; needs ``weight``.
        basis: (K * Cout, Cin / groups, kb, kb): kb = 1, placed at the centre tap of an odd kernel, or the kernel's
            size.
        coefficients: (B, K), of ``x``'s dtype or float32; goes with ``basis``.
        stride, dilation, groups: As in :func:`torch.nn.functional.conv2d`.
        padding: An int, a pair, ``"valid"`` or ``"same"`` (stride 1), with zeros.
        backend: ``"auto"`` chooses by a cost model from shapes, dtype, memory format and device; ``"eager"`` does so
            among the strategies ``"split"``, ``"aggregate"``, ``"linear"`` and ``"loop"`` in the framework's operators;
            ``"native"`` runs the C++ kernels (CPU, float32 and bfloat16), ``"triton"`` the Triton kernels (GPU, both
            and float16), ``"reference"`` the oracle, the only one that can be differentiated twice.

    Returns:
        (B, Cout, Hout, Wout) of ``x``'s dtype, channels_last where ``x`` or the static kernel is. Sums are taken in
        float32 (float64 for float64). Under autocast, ``x``, the kernels and the bias are cast to its dtype, ``scale``
        and ``coefficients`` to float32.

    Raises:
        TypeError: An argument is no tensor, no floating-point tensor or of another dtype.
        ValueError: Shapes, devices or geometry do not fit, or the chosen backend cannot run these tensors; the message
            names the argument, what it got and what it expected.
        RuntimeError: The gradient is differentiated again, or forward-mode derivatives are taken, on any backend but
            ``"reference"``.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
    problem = Problem(
        x,
        weight,
        bias,
        scale,
        basis,
        coefficients,
        checks.pair("stride", stride, 1),
        (0, 0) if isinstance(padding, str) else checks.pair("padding", padding, 0),
        checks.pair("dilation", dilation, 1),
        groups,
    )
    checks.tensor_arguments(problem)
    problem = _autocast(problem)
    if isinstance(padding, str):
        problem = _padded(problem, padding)
    checks.dynamic_convolution(problem)
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]  # missing in torch's stubs
        # An exported program holds the framework's operators only, with a dynamic batch: the linear form.
        return linear.forward(problem)
    if backend == "reference":
        return reference.dynamic_conv2d(
            problem.x,
            problem.weight,
            problem.bias,
            scale=problem.scale,
            basis=problem.basis,
            coefficients=problem.coefficients,
            stride=problem.stride,
            padding=problem.padding,
            dilation=problem.dilation,
            groups=problem.groups,
        )
    refuse_forward_mode("dynamic_conv2d", *problem.tensors())
    tensors = problem.tensors()
    # Asked here and not in the operator, which autograd always runs without gradients.
    tracked = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if backend in ("auto", "eager"):
        backend = _chosen(problem, backend, tracked)
    keep_static = backend == "split" and scale is not None and tracked and scale.requires_grad
    arguments = (*tensors, *problem.geometry(), backend, keep_static)
    if not is_plain(*tensors):
        return torch.ops.dynconv.dynamic_conv2d(*arguments)[0]
    return _DynamicConv2d.apply(*arguments) if tracked else _forward(*arguments)[0]


def _chosen(problem: Problem, backend: str, tracked: bool) -> str:
    """The backend that ``"auto"`` or ``"eager"`` stands for. Under torch.compile, where the batch may be symbolic, only
    what does not depend on it is decided; the operator decides the rest when it runs."""
    if not torch.compiler.is_compiling():
        return choose_strategy(problem, eager=backend == "eager", inference=not tracked)
    is_split = problem.x.shape[0] != 1 and prefers_split(problem, eager=backend == "eager")
    return "split" if is_split else backend


def _autocast(problem: Problem) -> Problem:
    """The problem as autocast wants it: x, the kernels and the bias in its dtype, scale and coefficients in float32."""
    if not autocast_is_on(problem.x.device):
        return problem
    dtype = torch.get_autocast_dtype(problem.x.device.type)

    def cast(tensor: Tensor | None, to: torch.dtype) -> Any:
        return tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(to)

    return replace(
        problem,
        x=cast(problem.x, dtype),
        weight=cast(problem.weight, dtype),
        bias=cast(problem.bias, dtype),
        basis=cast(problem.basis, dtype),
        scale=cast(problem.scale, torch.float32),
        coefficients=cast(problem.coefficients, torch.float32),
    )


def _padded(problem: Problem, padding: str) -> Problem:
    """The problem with ``"valid"`` or ``"same"`` padding; where "same" is uneven, x itself is padded."""
    if padding == "valid":
        return problem
    if padding != "same":
        raise ValueError(f'padding must be an int, a pair of ints, "valid" or "same"; got {padding!r}.')
    if problem.stride != (1, 1):
        raise ValueError(f'padding="same" needs stride 1; got stride {problem.stride}.')
    totals = [problem.dilation[i] * (problem.kernel_size[i] - 1) for i in (0, 1)]
    half = (totals[0] // 2, totals[1] // 2)
    if totals == [2 * half[0], 2 * half[1]]:
        return replace(problem, padding=half)
    extra = (half[1], totals[1] - half[1], half[0], totals[0] - half[0])
    return replace(problem, x=torch.nn.functional.pad(problem.x, extra))


def _problem(arguments: Sequence[Any]) -> Problem:
    """The problem of an operator's arguments, from x to groups in the schema's order."""
    x, weight, bias, scale, basis, coefficients, stride, padding, dilation, groups = arguments
    by_axis = ((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]))
    return Problem(x, weight, bias, scale, basis, coefficients, *by_axis, groups)


def _reasons(problem: Problem, backend: str) -> list[str]:
    """Why ``backend`` cannot run this problem; empty where it can."""
    if backend == "split" and not problem.residual_is_pointwise:
        return [f"its residual is one matrix product, so the basis must be 1x1; got {tuple(problem.static.shape[2:])}"]
    if backend == "native":
        return native.reasons(problem)
    if backend == "triton":
        missing = backends.triton_missing(problem.x.device)
        if missing is not None:
            return [missing]
        from dynconv.kernels import layout

        return layout.reasons(
            problem.x, problem.weight, problem.basis, problem.scale, problem.coefficients, problem.groups
        )
    return []


def _run(problem: Problem, backend: str, keep_static: bool) -> tuple[Tensor, Tensor | None]:
    if problem.x.shape[0] == 0:
        shape = (0, problem.out_channels, *problem.output_size)
        empty = problem.x.new_empty(shape).contiguous(memory_format=problem.memory_format)
        return empty, torch.empty_like(empty) if keep_static else None
    if backend in ("auto", "eager"):
        backend = choose_strategy(problem, eager=backend == "eager")
    if backend == "split":
        return split.forward(problem, keep_static)
    if backend == "aggregate":
        return aggregate.aggregate_forward(problem), None
    if backend == "loop":
        return aggregate.loop_forward(problem), None
    if backend == "linear":
        return linear.forward(problem), None
    if backend == "native":
        return native.forward(problem), None
    return triton.forward(problem), None


def _run_backward(problem: Problem, grad: Tensor, static: Tensor | None, backend: str, mask: Mask) -> Gradients:
    if problem.x.shape[0] == 0:
        return Gradients(*(torch.zeros_like(t) if t is not None else None for t in problem.tensors()))
    if backend in ("auto", "eager"):
        backend = choose_strategy(problem, eager=backend == "eager")
    if backend == "native":
        return native.backward(problem, grad, mask)
    if backend == "triton":
        return triton.backward(problem, grad, mask)
    if backend == "split":
        return split.backward(problem, grad, static, mask)
    if backend == "aggregate":
        return aggregate.aggregate_backward(problem, grad, mask)
    if backend == "loop":
        return aggregate.loop_backward(problem, grad, mask)
    return linear.backward(problem, grad, mask)


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *described, backend, keep_static = arguments
    problem = _problem(described)
    reasons = _reasons(problem, backend)
    if reasons:
        raise ValueError(f'backend="{backend}" cannot run this dynamic_conv2d: ' + "; ".join(reasons) + ".")
    y, static = _run(problem, backend, keep_static)
    return y, y.new_empty(0) if static is None else static


@torch.library.register_fake("dynconv::dynamic_conv2d", lib=LIBRARY)
def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    *described, _, keep_static = arguments
    problem = _problem(described)
    shape = (problem.x.shape[0], problem.out_channels, *problem.output_size)
    y = problem.x.new_empty(shape).contiguous(memory_format=problem.memory_format)
    return y, torch.empty_like(y) if keep_static else y.new_empty(0)


def _backward(grad: Tensor, static: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *described, backend, mask = arguments
    problem = _problem(described)
    gradients = _run_backward(problem, grad, static, backend, Mask(*mask))
    return tuple(
        _like(gradient, tensor) if wanted and gradient is not None and tensor is not None else grad.new_empty(0)
        for gradient, tensor, wanted in zip(gradients, problem.tensors(), mask, strict=True)
    )


def _like(gradient: Tensor, tensor: Tensor) -> Tensor:
    """A gradient in its tensor's dtype and memory format, whichever way it was computed."""
    return gradient.to(tensor.dtype).contiguous(memory_format=_format(tensor))


def _format(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 and is_channels_last(tensor) else torch.contiguous_format


@torch.library.register_fake("dynconv::dynamic_conv2d_backward", lib=LIBRARY)
def _backward_fake(grad: Tensor, static: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, mask = arguments[: len(Mask._fields)], arguments[-1]
    return tuple(
        tensor.new_empty(tensor.shape).contiguous(memory_format=_format(tensor))
        if wanted and tensor is not None
        else grad.new_empty(0)
        for tensor, wanted in zip(tensors, mask, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, stride, padding, dilation, groups, backend, keep_static = inputs
    ctx.save_for_backward(*tensors, output[1] if keep_static else None)
    ctx.geometry = (stride, padding, dilation, groups, backend)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple:
    count = len(Mask._fields)
    *tensors, static = ctx.saved_tensors
    unused = (None,) * (len(ctx.geometry) + 1)
    if grad is None:
        return (*(None,) * count, *unused)
    mask = list(ctx.needs_input_grad[:count])
    # A gradient that is itself differentiated belongs to the operator, which says that it cannot be.
    direct = not torch.is_grad_enabled() and is_plain(grad, *tensors)
    run = _backward if direct else torch.ops.dynconv.dynamic_conv2d_backward
    gradients = run(grad, static, *tensors, *ctx.geometry, mask)
    return (*(g if wanted else None for g, wanted in zip(gradients, mask, strict=True)), *unused)


torch.library.impl("dynconv::dynamic_conv2d", "CompositeExplicitAutograd", _forward, lib=LIBRARY)
torch.library.impl("dynconv::dynamic_conv2d_backward", "CompositeExplicitAutograd", _backward, lib=LIBRARY)
torch.library.register_autograd("dynconv::dynamic_conv2d", _autograd, setup_context=_setup_context, lib=LIBRARY)
no_double_backward("dynamic_conv2d_backward", "dynamic_conv2d")


class _DynamicConv2d(torch.autograd.Function):
    """The operator without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        output = _forward(*arguments)
        _setup_context(ctx, arguments, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        return _autograd(ctx, grad, None)

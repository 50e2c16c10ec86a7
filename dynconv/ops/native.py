"""The C++ operators behind ``backend="native"``: on a CPU, forward and every gradient without a per-sample kernel in
memory. Results go into tensors that are allocated here, so that their memory format is decided in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from dynconv import backends
from dynconv.ops._library import LIBRARY
from dynconv.ops.gradient_memory import gradient_like
from dynconv.ops.problem import Gradients, Mask, Problem, channel_sum

DTYPES = (torch.float32, torch.bfloat16)
# Offsets within a block of one sample are 32-bit: those of its pixels times 32 channels, and those of the padded rows
# that a kernel reaches over, times up to 640 channels.
MOST_PIXELS, MOST_REACH = 2**25, 2**20

_PARAMETERS = "Tensor? weight, {bias}Tensor? scale, Tensor? basis, Tensor? coefficients"
_GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups"
LIBRARY.define(
    f"dynamic_conv2d_native_forward(Tensor(a!) y, Tensor x, {_PARAMETERS.format(bias='Tensor? bias, ')}, {_GEOMETRY}) "
    "-> ()"
)
LIBRARY.define(
    "dynamic_conv2d_native_backward(Tensor(a!)? dx, Tensor(b!)? dweight, Tensor(c!)? dscale, Tensor(d!)? dbasis, "
    f"Tensor(e!)? dcoefficients, Tensor grad, Tensor x, {_PARAMETERS.format(bias='')}, {_GEOMETRY}) -> ()"
)


@torch.library.register_fake("dynconv::dynamic_conv2d_native_forward", lib=LIBRARY)
@torch.library.register_fake("dynconv::dynamic_conv2d_native_backward", lib=LIBRARY)
def _fake(*arguments: object) -> None:
    """Nothing is returned: the results' shapes are those of the tensors given for them."""


def reasons(problem: Problem) -> list[str]:
    """Why the native operators cannot run this problem; empty where they can."""
    found = []
    if problem.x.device.type != "cpu":
        found.append(f"it runs on the CPU, and x is on {problem.x.device}")
    elif missing := backends.native_missing("cpu"):
        found.append(missing)
    if problem.x.dtype not in DTYPES:
        found.append(f"x has dtype {problem.x.dtype}; it takes {' and '.join(map(str, DTYPES))} and sums in float32")
    pixels = max(problem.x.shape[2] * problem.x.shape[3], problem.output_size[0] * problem.output_size[1])
    rows = problem.dilation[0] * (problem.kernel_size[0] - 1) + 1
    reach = rows * max(problem.x.shape[3] + 2 * problem.padding[1], problem.output_size[1])
    if pixels >= MOST_PIXELS or reach >= MOST_REACH:
        found.append(
            f"an image has {pixels} pixels and the rows of one kernel span {reach} of them, padding included; it takes "
            f"fewer than {MOST_PIXELS} and {MOST_REACH}"
        )
    return found


def forward(problem: Problem) -> Tensor:
    """y (B, Cout, Hout, Wout)."""
    shape = (problem.x.shape[0], problem.out_channels, *problem.output_size)
    y = torch.empty(shape, dtype=problem.x.dtype, memory_format=problem.memory_format)
    weight, scale, basis, coefficients = _parameters(problem)
    bias = None if problem.bias is None else problem.bias.float().contiguous()
    torch.ops.dynconv.dynamic_conv2d_native_forward(
        y, problem.x, weight, bias, scale, basis, coefficients, *problem.geometry()
    )
    return y


def backward(problem: Problem, grad: Tensor, mask: Mask) -> Gradients:
    """Gradients for ``grad`` (B, Cout, Hout, Wout); those of parameters in float32."""
    parameters = _parameters(problem)
    wanted = (mask.weight, mask.scale, mask.basis, mask.coefficients)
    dx = torch.empty_like(problem.x, memory_format=problem.memory_format) if mask.x else None
    dweight, dscale, dbasis, dcoefficients = (
        _gradient_for(tensor) if wants and tensor is not None else None
        for wants, tensor in zip(wanted, parameters, strict=True)
    )
    torch.ops.dynconv.dynamic_conv2d_native_backward(
        dx, dweight, dscale, dbasis, dcoefficients, grad, problem.x, *parameters, *problem.geometry()
    )
    dbias = channel_sum(grad) if mask.bias else None
    return Gradients(dx, dweight, dbias, dscale, dbasis, dcoefficients)


def _gradient_for(parameter: Tensor) -> Tensor:
    if parameter.dtype == torch.float32:
        return gradient_like(parameter)
    return torch.empty_like(parameter, dtype=torch.float32)


def _parameters(problem: Problem) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """W0, s, Phi and pi as the operators take them: kernels whose taps lie at one stride, the rest dense float32."""
    scale, coefficients = (None if t is None else t.float().contiguous() for t in (problem.scale, problem.coefficients))
    return _one_stride(problem.weight), scale, _one_stride(problem.basis), coefficients


def _one_stride(kernel: Tensor | None) -> Tensor | None:
    if kernel is None or 1 in kernel.shape[2:] or kernel.stride(2) == kernel.shape[3] * kernel.stride(3):
        return kernel
    return kernel.contiguous()

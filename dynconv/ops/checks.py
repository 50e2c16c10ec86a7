"""Arguments of the operators, checked at the door: what was given, what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dynconv.ops.problem import Pair, Problem


def pair(name: str, value: int | Sequence[int], minimum: int) -> Pair:
    """``value`` as (height, width); ValueError below ``minimum``, TypeError if it is no int or pair of ints."""
    values = (value, value) if isinstance(value, (int, torch.SymInt)) else value
    if not isinstance(values, Sequence):
        raise TypeError(f"{name} must be an int or a pair of ints; got {value!r}.")
    if len(values) != 2 or not all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{name} must be an int or a pair of ints; got {value!r}.")
    if any(v < minimum for v in values):
        raise ValueError(f"{name} must be at least {minimum}; got {value!r}.")
    return values[0], values[1]


def tensors(named: Mapping[str, tuple[Tensor | None, int]], like: str) -> None:
    """Each given tensor of ``named`` has its rank and a floating dtype, and lies where ``like`` lies."""
    first = named[like][0]
    for name, (tensor, rank) in named.items():
        if tensor is None and name != like:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a Tensor; got {type(tensor).__name__}.")
        if tensor.dim() != rank:
            raise ValueError(f"{name} must have {rank} dimensions; got shape {tuple(tensor.shape)}.")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor; got {tensor.dtype}.")
        if first is not None and tensor.device != first.device:
            raise ValueError(f"{name} is on {tensor.device}, {like} on {first.device}; move them to one device.")


def same_dtype(named: Mapping[str, Tensor | None], like: str, *, or_float32: bool = False) -> None:
    """Each given tensor has ``like``'s dtype, or float32 where that is allowed."""
    expected = named[like]
    for name, tensor in named.items():
        if tensor is None or expected is None or tensor.dtype == expected.dtype:
            continue
        if or_float32 and tensor.dtype == torch.float32 and expected.dtype != torch.float64:
            continue
        either = or_float32 and expected.dtype != torch.float64
        allowed = f"{expected.dtype} or torch.float32" if either else f"{expected.dtype}"
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected {allowed}, for {like} has {expected.dtype}.")


def shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """``tensor`` has the ``expected`` shape, whose axes are named by ``meaning``."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} must have shape {meaning} = {expected}; got {tuple(tensor.shape)}.")


def tensor_arguments(problem: Problem) -> None:
    """Each argument of a dynamic convolution is a floating-point tensor of its rank, all on one device."""
    named = {
        "x": (problem.x, 4),
        "weight": (problem.weight, 4),
        "bias": (problem.bias, 1),
        "scale": (problem.scale, 2),
        "basis": (problem.basis, 4),
        "coefficients": (problem.coefficients, 2),
    }
    tensors(named, like="x")


def dynamic_convolution(problem: Problem) -> None:
    """How the tensors and the geometry of a dynamic convolution must fit; :func:`tensor_arguments` went before."""
    x, weight, basis, groups = problem.x, problem.weight, problem.basis, problem.groups
    same_dtype({"x": x, "weight": weight, "bias": problem.bias, "basis": basis}, like="x")
    mixing = {"x": x, "scale": problem.scale, "coefficients": problem.coefficients}
    same_dtype(mixing, like="x", or_float32=True)
    if weight is None and basis is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    if (basis is None) != (problem.coefficients is None):
        given, missing = ("basis", "coefficients") if basis is not None else ("coefficients", "basis")
        raise ValueError(f"basis and coefficients belong together; got {given} without {missing}.")
    if problem.scale is not None and weight is None:
        raise ValueError("scale multiplies the static weight, but weight is None.")
    if not isinstance(groups, (int, torch.SymInt)) or isinstance(groups, bool):
        raise TypeError(f"groups must be an int; got {groups!r}.")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups must divide x's {x.shape[1]} channels; got groups = {groups}.")
    _check_weights(problem)
    batch, outputs = x.shape[0], problem.out_channels
    if problem.bias is not None:
        shape("bias", problem.bias, (outputs,), "(Cout,)")
    if problem.scale is not None:
        shape("scale", problem.scale, (batch, outputs), "(B, Cout)")
    if problem.coefficients is not None and problem.coefficients.shape[0] != batch:
        raise ValueError(
            f"coefficients must have one row per sample of x, (B, K) with B = {batch}; "
            f"got {tuple(problem.coefficients.shape)}."
        )
    if any(size < 1 for size in problem.output_size):
        reach = [problem.dilation[i] * (problem.kernel_size[i] - 1) + 1 for i in (0, 1)]
        raise ValueError(
            f"x of height and width {tuple(x.shape[2:])}, padded by {problem.padding}, is smaller than the kernel's "
            f"reach {tuple(reach)}; pad more or use a smaller kernel or dilation."
        )


def _check_weights(problem: Problem) -> None:
    x, weight, basis, groups = problem.x, problem.weight, problem.basis, problem.groups
    inputs = x.shape[1] // groups
    for name, tensor in (("weight", weight), ("basis", basis)):
        if tensor is not None and tensor.shape[1] != inputs:
            raise ValueError(
                f"{name} must have Cin / groups = {x.shape[1]} / {groups} = {inputs} input channels; "
                f"got shape {tuple(tensor.shape)}."
            )
        if tensor is not None and 0 in tensor.shape:
            raise ValueError(f"{name} must not have an empty dimension; got shape {tuple(tensor.shape)}.")
    if basis is not None:
        num_bases = problem.num_bases
        if num_bases < 1:
            raise ValueError(f"coefficients must have at least one column; got shape ({x.shape[0]}, {num_bases}).")
        if weight is None and basis.shape[0] % num_bases:
            raise ValueError(
                f"basis has {basis.shape[0]} rows, which {num_bases} columns of coefficients do not divide; "
                "expected K * Cout rows."
            )
        if weight is not None and basis.shape[0] != num_bases * weight.shape[0]:
            raise ValueError(
                f"basis must have K * Cout = {num_bases} * {weight.shape[0]} rows, K columns of coefficients and Cout "
                f"rows of weight; got shape {tuple(basis.shape)}."
            )
    if weight is not None and basis is not None and basis.shape[2:] != weight.shape[2:]:
        if basis.shape[2:] != (1, 1):
            raise ValueError(
                f"basis must be 1x1 or of weight's kernel size {tuple(weight.shape[2:])}; got {tuple(basis.shape[2:])}."
            )
        if any(size % 2 == 0 for size in weight.shape[2:]):
            raise ValueError(
                "a 1x1 basis stands at the kernel's centre, and a kernel of even size "
                f"{tuple(weight.shape[2:])} has none; use an odd kernel or a basis of the kernel's size."
            )
    if problem.out_channels % groups:
        raise ValueError(f"groups must divide the {problem.out_channels} output channels; got groups = {groups}.")

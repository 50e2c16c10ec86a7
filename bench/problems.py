"""The dynamic convolutions that are measured: shapes, tensors, and the work that no program can do without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dynconv import reference
from dynconv.bench.machine import DTYPES

Mode = Literal["forward", "forward+backward"]
Basis = Literal["1x1", "full"]
Residual = Literal["subspace", "combined", "mixture"]
Layout = Literal["nchw", "nhwc"]

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Samples for which the oracle forms its float64 kernels at a time: 8 of 512 x 512 x 3 x 3 are 150 MB.
_ORACLE_SAMPLES = 8


@dataclass(frozen=True)
class Shape:
    """A convolution without its batch: stride 1 unless said, padded to keep the size."""

    name: str
    in_channels: int
    out_channels: int
    size: int
    kernel: int
    stride: int = 1
    groups: int = 1
    cpu_batch: int = 16
    cuda_batch: int = 64


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("r64", 64, 64, 56, 3),
        Shape("r128", 128, 128, 28, 3),
        Shape("r256", 256, 256, 14, 3),
        Shape("r512", 512, 512, 7, 3),
        Shape("l64", 64, 64, 16, 5, cpu_batch=128, cuda_batch=128),
        Shape("l128", 64, 128, 8, 5, cpu_batch=128, cuda_batch=128),
        Shape("m192", 192, 192, 28, 3, groups=192),
    )
}


def shape_of(text: str) -> Shape:
    """A shape by name, or one's own as CIN-COUT@SIZEkKERNEL[sSTRIDE][gGROUPS] ("64-128@28k3s2").

    Raises:
        ValueError: It is neither.
    """
    if text in SHAPES:
        return SHAPES[text]
    found = re.fullmatch(r"(\d+)-(\d+)@(\d+)k(\d+)(?:s(\d+))?(?:g(\d+))?", text)
    if found is None:
        raise ValueError(
            f"--shapes: expected one of {', '.join(SHAPES)}, or CIN-COUT@SIZEkKERNEL[sSTRIDE][gGROUPS]; got {text!r}"
        )
    inputs, outputs, size, kernel, stride, groups = (int(word) if word else 1 for word in found.groups())
    if min(inputs, outputs, size, kernel, stride, groups) < 1 or kernel % 2 == 0:
        raise ValueError(f"--shapes: {text!r}: the sizes must be positive and the kernel odd")
    if inputs % groups or outputs % groups:
        raise ValueError(f"--shapes: {text!r}: {groups} groups do not divide {inputs} and {outputs} channels")
    return Shape(text, inputs, outputs, size, kernel, stride, groups)


def own_batch(shape: Shape, device: torch.device, quick: bool) -> int:
    """The shape's usual batch on the device, a quarter of it for a quick look."""
    own = shape.cpu_batch if device.type == "cpu" else shape.cuda_batch
    return own // 4 if quick else own


@dataclass(frozen=True)
class Spec:
    """One problem: everything but the memory layout and the program that computes it."""

    shape: Shape
    batch: int
    dtype: str
    mode: Mode
    basis: Basis
    residual: Residual
    num_bases: int = 4

    @property
    def padding(self) -> int:
        return self.shape.kernel // 2

    @property
    def out_size(self) -> int:
        return (self.shape.size - 1) // self.shape.stride + 1

    @property
    def basis_kernel(self) -> int:
        return 1 if self.basis == "1x1" else self.shape.kernel

    @property
    def parts(self) -> frozenset[str]:
        """Which of weight, scale, basis and coefficients the problem has."""
        return {
            "subspace": frozenset({"weight", "basis", "coefficients"}),
            "combined": frozenset({"weight", "scale", "basis", "coefficients"}),
            "mixture": frozenset({"basis", "coefficients"}),
        }[self.residual]

    @property
    def geometry(self) -> dict[str, int]:
        return {"stride": self.shape.stride, "padding": self.padding, "groups": self.shape.groups}

    def columns(self) -> dict[str, Any]:
        """The columns that identify the problem; :func:`from_row` reads them."""
        shape = self.shape
        return {
            "shape": shape.name,
            "batch": self.batch,
            "in_channels": shape.in_channels,
            "out_channels": shape.out_channels,
            "size": shape.size,
            "kernel": shape.kernel,
            "stride": shape.stride,
            "groups": shape.groups,
            "num_bases": self.num_bases,
            "dtype": self.dtype,
            "mode": self.mode,
            "basis": self.basis,
            "residual": self.residual,
        }


def from_row(row: Mapping[str, Any]) -> Spec:
    """The problem of a CSV's row of ``dynamic_conv2d``."""
    sizes = ("in_channels", "out_channels", "size", "kernel", "stride", "groups")
    shape = Shape(row["shape"], *(int(row[name]) for name in sizes))
    named = {name: row[name] for name in ("dtype", "mode", "basis", "residual")}
    return Spec(shape, int(row["batch"]), **named, num_bases=int(row["num_bases"]))


Tensors = dict[str, Tensor]


def tensors(spec: Spec, layout: Layout, device: torch.device, *, seed: int = 0) -> Tensors:
    """Leaves x, weight, scale, basis and coefficients, and an incoming gradient ``dy``; the same in both layouts.

    ``weight`` is there for a mixture too: the static convolution needs one. ``scale`` and ``coefficients`` are float32,
    as a branch gives them.
    """
    shape, generator = spec.shape, torch.Generator(device).manual_seed(seed)
    per_group = shape.in_channels // shape.groups

    def draw(*sizes: int, fan: int = 1) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device) / fan**0.5

    def image(tensor: Tensor) -> Tensor:
        return tensor.to(DTYPES[spec.dtype]).contiguous(memory_format=FORMATS[layout])

    kernel, basis_kernel = shape.kernel, spec.basis_kernel
    rows = spec.num_bases * shape.out_channels
    found = {
        "x": image(draw(spec.batch, shape.in_channels, shape.size, shape.size)),
        "weight": image(draw(shape.out_channels, per_group, kernel, kernel, fan=per_group * kernel**2)),
        "scale": 1 + torch.rand(spec.batch, shape.out_channels, generator=generator, device=device),
        "basis": image(draw(rows, per_group, basis_kernel, basis_kernel, fan=per_group * basis_kernel**2)),
        "coefficients": torch.softmax(draw(spec.batch, spec.num_bases), dim=1),
    }
    dy = image(draw(spec.batch, shape.out_channels, spec.out_size, spec.out_size))
    leaves = {name: tensor.requires_grad_() for name, tensor in found.items()}
    return {**leaves, "dy": dy}


def oracle(spec: Spec, given: Tensors, parts: frozenset[str]) -> Tensors:
    """y and, where the mode asks for it, the gradients of x and ``parts``, by the reference in float64.

    Samples are taken a few at a time: the reference forms a kernel for each.
    """
    wanted = ("x", *(name for name in ("weight", "scale", "basis", "coefficients") if name in parts))
    double = {name: given[name].detach().double() for name in wanted}
    dy, batched = given["dy"].double(), ("x", "scale", "coefficients")
    geometry: dict[str, Any] = {name: (spec.geometry[name],) * 2 for name in ("stride", "padding")}
    geometry["groups"] = spec.geometry["groups"]
    ys: list[Tensor] = []
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for start in range(0, spec.batch, _ORACLE_SAMPLES):
        samples = slice(start, start + _ORACLE_SAMPLES)
        chunk = {name: t[samples] if name in batched else t for name, t in double.items()}
        chunk = {name: t.detach().requires_grad_() for name, t in chunk.items()}
        named: dict[str, Any] = {name: chunk.get(name) for name in ("scale", "basis", "coefficients")}
        with torch.set_grad_enabled(spec.mode != "forward"):
            y = reference.dynamic_conv2d(chunk["x"], chunk.get("weight"), **named, **geometry)
        ys.append(y.detach())
        if spec.mode != "forward":
            for name, gradient in zip(wanted, torch.autograd.grad(y, list(chunk.values()), dy[samples]), strict=True):
                found[name].append(gradient)
    result = {"y": torch.cat(ys)}
    if spec.mode != "forward":
        for name, pieces in found.items():
            result[name] = torch.cat(pieces) if name in batched else torch.stack(pieces).sum(0)
    return result


@dataclass(frozen=True)
class Work:
    """Floating-point operations and compulsory bytes of the forward and of the backward pass."""

    forward_flops: int
    backward_flops: int
    forward_bytes: int
    backward_bytes: int

    @property
    def flops(self) -> int:
        return self.forward_flops + self.backward_flops

    @property
    def bytes(self) -> int:
        return self.forward_bytes + self.backward_bytes


def work(spec: Spec, parts: frozenset[str]) -> Work:
    """The least work known for the problem, whoever computes it.

    Forward: every pixel meets one aggregated kernel (k x k; a 1x1 residual beside a static kernel is a product of its
    own), and that kernel, or residual, is mixed once per sample from K bases. Backward: twice each of the products, the
    two products of dPhi and dpi with G_b, and the mixing again. Bytes: every input is read once and every output
    written once; the backward pass reads dy and all inputs and writes all gradients.
    """
    shape = spec.shape
    pixels = spec.batch * spec.out_size**2
    static = shape.out_channels * (shape.in_channels // shape.groups) * shape.kernel**2
    phi = static // shape.kernel**2 * spec.basis_kernel**2 if "basis" in parts else 0
    product = 2 * pixels * static
    if phi and "weight" in parts and phi != static:
        product += 2 * pixels * phi
    mixing = 2 * spec.batch * spec.num_bases * phi
    itemsize = DTYPES[spec.dtype].itemsize
    x = spec.batch * shape.in_channels * shape.size**2 * itemsize
    y = pixels * shape.out_channels * itemsize
    weights = ((static if "weight" in parts else 0) + spec.num_bases * phi) * itemsize
    small = 4 * spec.batch * ((spec.num_bases if phi else 0) + (shape.out_channels if "scale" in parts else 0))
    inputs = x + weights + small
    backward = spec.mode != "forward"
    return Work(product + mixing, (2 * product + 3 * mixing) * backward, inputs + y, (y + 2 * inputs) * backward)

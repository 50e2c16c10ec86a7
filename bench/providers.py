"""Who computes a dynamic convolution: our backends, and the ways of doing it elsewhere, in plain PyTorch."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv import backends
from dynconv.bench.harness import CannotRun
from dynconv.bench.problems import Spec, Tensors
from dynconv.functional import dynamic_conv2d
from dynconv.ops.dynamic_conv2d import BACKENDS

Forward = Callable[[], Tensor]
# "eager" only chooses among the others, "reference" is the oracle.
OUR_BACKENDS = tuple(name for name in BACKENDS if name not in ("auto", "eager", "reference"))


@dataclass(frozen=True)
class Call:
    """A prepared call, and the leaves whose gradients it gives, by the names of the oracle's."""

    forward: Forward
    leaves: dict[str, Tensor]


@dataclass(frozen=True)
class Provider:
    """``build`` prepares the call, or raises :class:`CannotRun`; ``parts`` are those that it computes with."""

    name: str
    build: Callable[[Spec, Tensors], Call]
    parts: Callable[[Spec], frozenset[str]] = field(default=lambda spec: spec.parts)
    is_ours: bool = False
    is_compiled: bool = False
    kernels_per_sample: bool = False


def _leaves(spec: Spec, t: Tensors) -> dict[str, Tensor]:
    return {name: t[name] for name in ("x", "weight", "scale", "basis", "coefficients") if name in spec.parts | {"x"}}


def _static(spec: Spec, t: Tensors) -> Call:
    x, weight = t["x"], t["weight"]
    stride, padding, groups = spec.shape.stride, spec.padding, spec.shape.groups
    return Call(lambda: F.conv2d(x, weight, None, stride, padding, 1, groups), {"x": x, "weight": weight})


def _ours(backend: str, spec: Spec, t: Tensors) -> Call:
    device = t["x"].device
    if backend == "triton" and device.type == "cpu":
        if os.environ.get("TRITON_INTERPRET") == "1":
            raise CannotRun("Triton's interpreter tells nothing about speed")
        raise CannotRun(str(backends.triton_missing(device)))
    leaves = _leaves(spec, t)
    named: dict[str, Any] = {name: leaves.get(name) for name in ("scale", "basis", "coefficients")}
    geometry: dict[str, Any] = spec.geometry
    refusal = f'backend="{backend}" cannot run'

    def forward() -> Tensor:
        try:
            return dynamic_conv2d(t["x"], leaves.get("weight"), **named, **geometry, backend=backend)
        except ValueError as error:
            if str(error).startswith(refusal):
                raise CannotRun(str(error)) from error
            raise

    return Call(forward, leaves)


def sample_kernels(spec: Spec, t: Tensors) -> Tensor:
    """(B, Cout, Cin/groups, k, k): every sample's kernel, in x's dtype and by autograd's operators."""
    shape, dtype = spec.shape, t["x"].dtype
    kernels = t["coefficients"].to(dtype) @ t["basis"].reshape(spec.num_bases, -1)
    kernel = spec.basis_kernel
    kernels = kernels.view(-1, shape.out_channels, shape.in_channels // shape.groups, kernel, kernel)
    if kernel != shape.kernel:
        kernels = F.pad(kernels, (shape.kernel // 2,) * 4)
    if "scale" in spec.parts:
        return kernels + t["scale"].to(dtype)[:, :, None, None, None] * t["weight"]
    return kernels + t["weight"] if "weight" in spec.parts else kernels


def grouped_convolution(x: Tensor, kernels: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """One convolution with B * groups groups: the peers' way."""
    batch, outputs = kernels.shape[:2]
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1), None, stride, padding, 1, batch * groups)
    return y.view(batch, outputs, *y.shape[2:])


def _grouped_forward(spec: Spec, t: Tensors) -> Tensor:
    return grouped_convolution(t["x"], sample_kernels(spec, t), spec.shape.stride, spec.padding, spec.shape.groups)


def _released_forward(spec: Spec, t: Tensors) -> Tensor:
    """DRT's release: a convolution per basis, its output weighted and added."""
    x, coefficients = t["x"], t["coefficients"].to(t["x"].dtype)
    stride, groups = spec.shape.stride, spec.shape.groups
    y: Tensor | None = None
    if "weight" in spec.parts:
        y = F.conv2d(x, t["weight"], None, stride, spec.padding, 1, groups)
        if "scale" in spec.parts:
            y = y * t["scale"].to(x.dtype)[:, :, None, None]
    for phi, share in zip(t["basis"].chunk(spec.num_bases), coefficients.unbind(1), strict=True):
        part = share[:, None, None, None] * F.conv2d(x, phi, None, stride, spec.basis_kernel // 2, 1, groups)
        y = part if y is None else y + part
    if y is None:
        raise CannotRun("a problem without weight and basis")
    return y


def _vmap_forward(spec: Spec, t: Tensors) -> Tensor:
    def one(x: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(x[None], kernel, None, spec.shape.stride, spec.padding, 1, spec.shape.groups)[0]

    return torch.func.vmap(one)(t["x"], sample_kernels(spec, t))


def _plain(function: Callable[[Spec, Tensors], Tensor], spec: Spec, t: Tensors) -> Call:
    return Call(functools.partial(function, spec, t), _leaves(spec, t))


def _compiled(function: Callable[[Spec, Tensors], Tensor], spec: Spec, t: Tensors) -> Call:
    leaves = _leaves(spec, t)
    compiled = torch.compile(function, fullgraph=True, dynamic=False)
    return Call(lambda: compiled(spec, leaves), leaves)


def _timm(spec: Spec, t: Tensors) -> Call:
    if importlib.util.find_spec("timm") is None:
        raise CannotRun("timm is not installed: pip install 'dynconv[bench]'")
    if spec.basis != "full" or spec.residual == "combined":
        raise CannotRun("CondConv2d has neither a 1x1 basis nor a scale")
    from timm.layers.cond_conv2d import CondConv2d

    shape, x = spec.shape, t["x"]
    layer = CondConv2d(
        shape.in_channels,
        shape.out_channels,
        shape.kernel,
        stride=shape.stride,
        padding=spec.padding,
        groups=shape.groups,
        num_experts=spec.num_bases,
        device=x.device,
        dtype=x.dtype,
    )
    with torch.no_grad():
        layer.weight.copy_(t["basis"].reshape(layer.weight.shape))
    leaves = {"x": x, "basis": layer.weight, "coefficients": t["coefficients"]}
    return Call(lambda: layer(x, t["coefficients"].to(x.dtype)), leaves)


STATIC, GROUPED = "static", "grouped"
PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(STATIC, _static, parts=lambda spec: frozenset({"weight"})),
        Provider("dynconv", functools.partial(_ours, "auto"), is_ours=True),
        *(Provider(f"dynconv:{name}", functools.partial(_ours, name), is_ours=True) for name in OUR_BACKENDS),
        Provider(GROUPED, functools.partial(_plain, _grouped_forward), kernels_per_sample=True),
        Provider("released", functools.partial(_plain, _released_forward)),
        Provider("vmap", functools.partial(_plain, _vmap_forward), kernels_per_sample=True),
        # Its own mathematics: no static part, so its work is less and its oracle another.
        Provider("timm", _timm, parts=lambda spec: frozenset({"basis", "coefficients"}), kernels_per_sample=True),
        Provider(
            "compiled grouped",
            functools.partial(_compiled, _grouped_forward),
            is_compiled=True,
            kernels_per_sample=True,
        ),
        Provider("compiled released", functools.partial(_compiled, _released_forward), is_compiled=True),
    )
}


def memory_reason(provider: Provider, spec: Spec, free: int) -> str | None:
    """Why the problem does not fit into ``free`` bytes with this provider, by a rough count; None where it does."""
    shape = spec.shape
    itemsize = 2 if spec.dtype == "bf16" else 4
    images = spec.batch * itemsize * (shape.in_channels * shape.size**2 + shape.out_channels * spec.out_size**2)
    kernels = spec.batch * shape.out_channels * (shape.in_channels // shape.groups) * shape.kernel**2 * itemsize
    backward = spec.mode != "forward"
    need = images * (2 + 2 * spec.num_bases * backward)
    if provider.kernels_per_sample or "aggregate" in provider.name:
        need += kernels * (5 if backward else 3)
    return f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free" if need > free else None

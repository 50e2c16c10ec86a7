"""Problems for the dynamic convolution: every option in small, odd sizes, from slices of bigger, poisoned buffers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("x", "weight", "bias", "scale", "basis", "coefficients")


@dataclass(frozen=True)
class Case:
    """Shapes and options of one problem; ``basis`` is the basis' kernel size, 0 for none."""

    batch: int = 3
    inputs: int = 4
    outputs: int = 6
    height: int = 9
    width: int = 7
    kernel: int = 3
    basis: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    scale: bool = False
    static: bool = True
    bias: bool = True
    channels_last: bool = False

    @property
    def geometry(self) -> dict:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


CASES = {
    "subspace": Case(),
    "subspace channels_last": Case(channels_last=True),
    "channel": Case(basis=0, scale=True),
    "combined": Case(scale=True),
    "combined channels_last": Case(scale=True, channels_last=True),
    "static only": Case(basis=0),
    "full basis": Case(basis=3),
    "full basis channels_last": Case(basis=3, scale=True, channels_last=True),
    "no static part": Case(basis=3, static=False),
    "no static part, 1x1": Case(kernel=1, basis=1, static=False, padding=(0, 0)),
    "batch 1": Case(batch=1, scale=True),
    "batch 1 channels_last": Case(batch=1, scale=True, channels_last=True, groups=2),
    "empty batch": Case(batch=0, scale=True),
    "empty batch, full": Case(batch=0, basis=3),
    "stride": Case(stride=(2, 3), scale=True),
    "stride, full": Case(stride=(2, 1), basis=3),
    "valid": Case(padding=(0, 0)),
    "padding beyond the centre": Case(padding=(3, 2), stride=(2, 1), scale=True),
    "padding beyond the centre channels_last": Case(padding=(3, 2), channels_last=True),
    "dilation": Case(dilation=(2, 1), padding=(2, 1), scale=True),
    "dilation, valid": Case(dilation=(2, 2), padding=(0, 1)),
    "kernel 5": Case(kernel=5, padding=(2, 2)),
    "kernel 1": Case(kernel=1, padding=(0, 0), scale=True),
    "even kernel, full": Case(kernel=4, basis=4, scale=True),
    "groups": Case(groups=2, scale=True),
    "groups channels_last": Case(groups=2, channels_last=True),
    "groups, full": Case(groups=2, basis=3, scale=True),
    "depthwise": Case(inputs=6, groups=6),
    "no bias": Case(bias=False, scale=True),
    "one pixel": Case(height=1, width=1),
    "one channel": Case(inputs=1, outputs=1, channels_last=True),
}


def tensors(case: Case, dtype: torch.dtype = torch.float64, *, seed: int = 0, num_bases: int = 3) -> dict:
    """The six tensors of a case (None where it has none), each a slice of a larger buffer of NaN."""
    generator = torch.Generator().manual_seed(seed)

    def slice_of(shape: tuple[int, ...], fan: int = 1, wide: bool = False) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) / fan**0.5
        holder = torch.full([size + 2 for size in shape], float("nan"), dtype=torch.float64)
        view = holder[tuple(slice(1, 1 + size) for size in shape)]
        view.copy_(values)
        to = torch.float32 if wide and dtype in (torch.bfloat16, torch.float16) else dtype
        view = holder.to(to)[tuple(slice(1, 1 + size) for size in shape)]
        return view

    def image(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if case.channels_last else tensor

    per_group = case.inputs // case.groups
    fan = per_group * case.kernel**2
    static = (case.outputs, per_group, case.kernel, case.kernel)
    basis = (num_bases * case.outputs, per_group, case.basis, case.basis)
    found = {
        "x": image(slice_of((case.batch, case.inputs, case.height, case.width))),
        "weight": image(slice_of(static, fan)) if case.static else None,
        "bias": slice_of((case.outputs,)) if case.bias else None,
        "scale": slice_of((case.batch, case.outputs), wide=True) if case.scale else None,
        "basis": image(slice_of(basis, per_group * case.basis**2)) if case.basis else None,
        "coefficients": slice_of((case.batch, num_bases), wide=True) if case.basis else None,
    }
    return {name: found[name].requires_grad_() if found[name] is not None else None for name in NAMES}


def in_double(given: dict) -> dict:
    """The same tensors in float64, as fresh leaves."""
    return {k: None if t is None else t.detach().double().contiguous().requires_grad_() for k, t in given.items()}


def on_device(given: dict, device: str) -> dict:
    """The same tensors on another device, with their strides; the tensors themselves where they are there already."""
    if device == "cpu":
        return given
    moved = {}
    for name, tensor in given.items():
        if tensor is not None:
            strided = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            tensor = strided.copy_(tensor.detach()).requires_grad_()
        moved[name] = tensor
    return moved


def run(function, given: dict, case: Case, **options) -> Tensor:
    positional = (given["x"], given["weight"], given["bias"])
    named = {name: given[name] for name in ("scale", "basis", "coefficients")}
    return function(*positional, **named, **case.geometry, **options)


def gradients(y: Tensor, given: dict, dy: Tensor) -> dict[str, Tensor]:
    leaves = {name: tensor for name, tensor in given.items() if tensor is not None}
    return dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), dy), strict=True))


def strategies_for(case: Case) -> list[str]:
    pointwise = case.basis in (0, 1)
    return ["auto", "eager", "aggregate", "linear", "loop", *(["split"] if pointwise else [])]

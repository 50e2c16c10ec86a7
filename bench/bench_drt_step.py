"""A whole training step, dynamic beside static: forward, cross entropy, backward and SGD with momentum.

ResNets are torchvision's, with the 3x3 of every bottleneck made dynamic and its branch reading the block's input, as in
DRT; of LeNet every convolution. Before a network is timed, its logits and all its gradients are held against the same
network in float64 whose dynamic convolutions are the reference's. bench/README.md explains the rows.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynconv.bench.harness import (
    CommonOptions,
    Entry,
    attempt,
    chosen,
    memory_columns,
    parse,
    roofline_columns,
    time_entries,
)
from dynconv.bench.machine import DTYPES
from dynconv.bench.problems import FORMATS
from dynconv.bench.rows import Row
from dynconv.bench.session import Plan, Session, run
from dynconv.bench.supervised_step import GroupedConv2d, ReferenceConv2d, Training, allowed_beside, distance
from dynconv.bench.timing import STATIC
from dynconv.nn import DynamicConv2d, to_dynamic

MODELS = ("resnet50", "resnet101", "lenet-small", "lenet-m3sda")
GROUPED, REFERENCE = "grouped", "reference"
NUM_CLASSES = 345


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure training steps. Every selection left out takes a default that suits the device."""

    models: tuple[str, ...] = ()
    """resnet50, resnet101, lenet-small, lenet-m3sda. Default: resnet50 and lenet-m3sda on a CPU, all on a GPU."""
    batch: int | None = None
    """Images per step. Default: 128 (DRT's 64 source and 64 target images), on a CPU 16 for a ResNet."""
    image_size: int | None = None
    """Side of a ResNet's images. Default: 224, on a CPU 64."""
    dtype: tuple[str, ...] = ()
    """fp32, or bf16 by autocast. Default: fp32 on a CPU, bf16 on a GPU."""
    layout: tuple[str, ...] = ()
    """nchw, nhwc, of a ResNet's weights and images; LeNets are always nhwc. Default: nhwc."""
    residual: Literal["subspace", "combined"] = "subspace"
    """Pi alone, or pi and a scale."""
    basis: Literal["1x1", "full"] = "1x1"
    """Size of the bases."""
    num_bases: int = 4
    """K."""
    providers: tuple[str, ...] = ()
    """static (always), dynconv, grouped (B groups on aggregated kernels). Default: all."""
    graphs: tyro.conf.FlagCreatePairsOff[bool] = False
    """CUDA: also time each step as a CUDA graph."""


@dataclass(frozen=True)
class Step:
    """What one row's step is."""

    model: str
    batch: int
    image_size: int
    dtype: str
    layout: str
    residual: Literal["subspace", "combined"]
    basis: Literal["1x1", "full"]
    num_bases: int
    device: str

    def columns(self) -> Row:
        return {
            "op": "drt-step",
            "shape": self.model,
            "batch": self.batch,
            "in_channels": 3,
            "size": self.image_size,
            "num_bases": self.num_bases,
            "dtype": self.dtype,
            "mode": "training step",
            "basis": self.basis,
            "residual": self.residual,
            "layout": self.layout,
        }


_CLASSES = {GROUPED: GroupedConv2d, REFERENCE: ReferenceConv2d}


def static_model(step: Step) -> nn.Module:
    """The static network with its classifier, from seed 0, without dropout (the twins must agree)."""
    torch.manual_seed(0)
    if step.model.startswith("resnet"):
        from torchvision import models

        return getattr(models, step.model)(num_classes=NUM_CLASSES)
    from dynconv.models import build

    network = build(step.model, num_classes=10)
    model = nn.Sequential(network.features, network.make_head())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def model_of(step: Step, provider: str) -> nn.Module:
    """The provider's network on the step's device, in training mode."""
    model = static_model(step)
    if provider != STATIC:
        options: dict[str, Any] = {"residual": step.residual, "num_bases": step.num_bases}
        to_dynamic(model, start="random", basis_kernel_size=1 if step.basis == "1x1" else None, **options)
        for module in model.modules():
            if isinstance(module, DynamicConv2d):
                module.__class__ = _CLASSES.get(provider, DynamicConv2d)
    return model.to(step.device).to(memory_format=FORMATS[step.layout]).train()


def training(step: Step, provider: str) -> Training:
    """The provider's training, before its first step; the batch is the same for all."""
    model = model_of(step, provider)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(step.batch, 3, step.image_size, step.image_size, generator=generator)
    classes = NUM_CLASSES if step.model.startswith("resnet") else 10
    labels = torch.randint(classes, (step.batch,), generator=generator)
    # Small enough that no number of steps on random labels diverges.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    on_device = images.to(step.device, memory_format=FORMATS[step.layout]), labels.to(step.device)
    return Training(model, *on_device, optimiser, step.dtype)


def prepare(step: Mapping[str, Any], provider: str) -> Callable[[], Any]:
    """A step, for the process that measures memory; momentum is there from the first one on."""
    return training(Step(**step), provider)


def steps(options: Options, device: torch.device) -> list[Step]:
    """The steps that the options describe; ValueError for unknown words or sizes."""
    on_cpu = device.type == "cpu"
    default = ["resnet50", "lenet-small"] if options.quick else ["resnet50", "lenet-m3sda"] if on_cpu else MODELS
    models = chosen("--models", options.models, default, MODELS)
    dtypes = chosen("--dtype", options.dtype, ["fp32" if on_cpu else "bf16"], DTYPES)
    layouts = chosen("--layout", options.layout, ["nhwc"], FORMATS)
    if options.batch is not None and options.batch < 2:
        raise ValueError(f"--batch: batch normalisation needs at least 2 images, got {options.batch}")
    if options.num_bases < 1:
        raise ValueError(f"--num-bases: expected at least 1, got {options.num_bases}")
    if options.image_size is not None and options.image_size < 32:
        raise ValueError(f"--image-size: expected at least 32, got {options.image_size}")
    found = []
    for model in models:
        is_lenet = model.startswith("lenet")
        batch, size = options.batch, 32 if is_lenet else options.image_size
        if batch is None:
            batch = 128 if is_lenet or not on_cpu else 4 if options.quick else 16
        if size is None:
            size = 64 if on_cpu else 224
        for dtype in dtypes:
            for layout in ["nhwc"] if is_lenet else layouts:
                words = (options.residual, options.basis, options.num_bases, device.type)
                found.append(Step(model, batch, size, dtype, layout, *words))
    return found


def measure(names: Sequence[str], options: Options, step: Step, session: Session) -> None:
    """Check, time and record the step of every provider."""
    device, rates = session.device, session.rates
    entries: list[Entry] = []
    standing: dict[str, float] = {}
    errors: dict[str, tuple[float, str]] = {}

    def build(name: str) -> Callable[[], Any]:
        own = training(step, name)
        oracle = training(step, STATIC if name == STATIC else REFERENCE)
        standing[name], errors[name] = own.standing_mb, distance(own, oracle)
        return own

    allowed = allowed_beside(None)
    for name in (STATIC, *names):
        row = step.columns() | {"provider": name}
        check = functools.partial(_recorded, errors, name)
        kind: dict[str, Any] = {"is_ours": name != GROUPED, "allowed": allowed, "graphs": options.graphs}
        entries += attempt(row, functools.partial(build, name), check, device, **kind)
        if name == STATIC and name in errors:
            allowed = allowed_beside(errors[name][0])
    time_entries(entries, device, options, peer=GROUPED)
    flops, moved = static_work(step)
    floor = rates.floor_ms(flops, moved, step.dtype)
    for entry in entries:
        if entry.run is not None:
            name = entry.row["provider"]
            entry.row |= roofline_columns(flops, moved, floor, entry.row["p50_ms"], rates, step.dtype)
            if session.meter is not None:
                arguments = {"step": asdict(step), "provider": name}
                entry.row |= memory_columns(
                    session.meter, "dynconv.bench.bench_drt_step:prepare", arguments, standing[name]
                )
        session.recorder.add(entry.row)


def static_work(step: Step) -> tuple[float, float]:
    """FLOPs of the static network's products in one step, and the bytes of its weights, read and written by SGD.

    A floor for every provider: a dynamic step does this and more. Activations are left out, for how often they must
    pass through memory depends on the program.
    """
    own = training(step, STATIC)
    with FlopCounterMode(display=False) as counter:
        own.loss()[1].backward()
    weights = sum(p.numel() * p.element_size() for p in own.model.parameters())
    # Read by the forward and the backward pass; gradient, momentum and weight read, momentum and weight written.
    return float(counter.get_total_flops()), 7.0 * weights


def _recorded(errors: Mapping[str, tuple[float, str]], name: str, _: Any) -> tuple[float, str]:
    return errors[name]


def plan(options: Options, device: torch.device) -> Plan[Step]:
    """What the options describe; ValueError for an unknown word or a size out of range."""
    found = steps(options, device)
    names = chosen("--providers", options.providers, ["dynconv", GROUPED], [STATIC, "dynconv", GROUPED])
    selected = [name for name in ("dynconv", GROUPED) if name in names]

    def label(step: Step) -> str:
        return f"{step.model} batch {step.batch} @{step.image_size} {step.dtype} {step.layout}"

    return Plan(found, [step.dtype for step in found], label, functools.partial(measure, selected, options))


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = parse(Options, "drt-step", __doc__, args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())

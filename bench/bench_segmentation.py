"""The segmentation networks on a driving scene, dynamic beside static: a training step, and inference.

A step is forward, cross entropy of every pixel, backward and SGD with momentum. Before a network is timed, its scores
and, for a step, all its gradients are held against the same network in float64 whose dynamic convolutions are the
reference's, on one small image. bench/README.md explains the rows.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn
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
from dynconv.bench.rows import Row
from dynconv.bench.session import Plan, Session, run
from dynconv.bench.supervised_step import ReferenceConv2d, Training, allowed_beside, distance
from dynconv.models import SEGMENTATION, DynamicSpec, build, input_of
from dynconv.nn import DynamicConv2d

STATIC, OURS, REFERENCE = "static", "dynconv", "reference"
TRAINING, INFERENCE = "training step", "inference"
# Of Cityscapes.
NUM_CLASSES = 19
CHECKED_SIZE = (32, 64)


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure segmentation networks. Every selection left out takes a default that suits the device."""

    models: tuple[str, ...] = ()
    """erfnet-encoder, erfnet, drn26, fcn8s. Default: all; with --quick the first."""
    mode: tuple[str, ...] = ()
    """"training step", "inference". Default: both."""
    batch: int = 1
    """Images per call."""
    image_size: Annotated[tuple[int, int], tyro.conf.arg(metavar="H W")] = (512, 1024)
    """Height and width of the images."""
    dtype: tuple[str, ...] = ()
    """fp32, or bf16 by autocast. Default: fp32 on a CPU, bf16 on a GPU."""
    num_bases: int = 4
    """K of the dynamic networks (subspace routing, 1x1 bases)."""
    providers: tuple[str, ...] = ()
    """static (always), dynconv. Default: both."""


@dataclass(frozen=True)
class Problem:
    """What one row measures."""

    model: str
    mode: str
    batch: int
    image_size: tuple[int, int]
    dtype: str
    num_bases: int
    device: str

    def columns(self) -> Row:
        return {
            "op": "segmentation",
            "shape": self.model,
            "batch": self.batch,
            "in_channels": 3,
            "out_channels": NUM_CLASSES,
            "size": "{}x{}".format(*self.image_size),
            "num_bases": self.num_bases,
            "dtype": self.dtype,
            "mode": self.mode,
            "basis": "1x1",
            "residual": "subspace",
            "layout": "nhwc",
        }


@dataclass
class Inference(Training):
    """A call gives the scores."""

    def __call__(self) -> Tensor:
        with torch.inference_mode(), torch.autocast(self.images.device.type, torch.bfloat16, self.dtype == "bf16"):
            return self.model(self.images)

    @property
    def standing_mb(self) -> float:
        """MB that lie there between two calls: parameters, buffers and the batch."""
        lying = (*self.model.parameters(), *self.model.buffers(), self.images)
        return sum(each.numel() * each.element_size() for each in lying) / 1e6


def prepared(problem: Problem, provider: str) -> Training:
    """The provider's network and one batch, the same for all; a call is what is timed."""
    torch.manual_seed(0)
    dynamic = None if provider == STATIC else DynamicSpec(num_bases=problem.num_bases)
    network = build(problem.model, num_classes=NUM_CLASSES, dynamic=dynamic, weights="none")
    model = nn.Sequential(network.features, network.make_head())
    if provider == REFERENCE:
        for module in model.modules():
            if isinstance(module, DynamicConv2d):
                module.__class__ = ReferenceConv2d
    model.to(problem.device)
    images, labels = (each.to(problem.device) for each in batch_of(problem.batch, problem.image_size))
    # Small enough that no number of steps on random labels diverges.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    if problem.mode == INFERENCE:
        return Inference(model.eval(), images, labels, optimiser, problem.dtype)
    return Training(model.train(), images, labels, optimiser, problem.dtype)


def batch_of(batch: int, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, H, W) and labels (B, H, W)."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, *image_size, generator=generator).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(NUM_CLASSES, (batch, *image_size), generator=generator)


def prepare(problem: Mapping[str, Any], provider: str) -> Callable[[], Any]:
    """A call, for the process that measures memory; momentum is there from the first step on."""
    return prepared(Problem(**problem), provider)


def check(problem: Problem, provider: str, own: Training) -> tuple[float, str]:
    """How far scores, and for a step gradients, are off the oracle's on a small image, and whose it is.

    In evaluation mode: without dropout, and with the running statistics in batch normalisation.
    """
    oracle = prepared(problem, STATIC if provider == STATIC else REFERENCE)
    images, labels = (each.to(problem.device) for each in batch_of(1, CHECKED_SIZE))
    pair = (dataclasses.replace(each, images=images, labels=labels) for each in (own, oracle))
    return distance(*pair, gradients=problem.mode == TRAINING)


def problems(options: Options, device: torch.device) -> list[Problem]:
    """What the options describe; ValueError for unknown words or sizes."""
    models = chosen("--models", options.models, SEGMENTATION[:1] if options.quick else SEGMENTATION, SEGMENTATION)
    modes = chosen("--mode", options.mode, [TRAINING, INFERENCE], [TRAINING, INFERENCE])
    dtypes = chosen("--dtype", options.dtype, ["fp32" if device.type == "cpu" else "bf16"], DTYPES)
    for name in ("batch", "num_bases"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}")
    for model in models:
        multiple = input_of(model).multiple
        if any(side < 1 or side % multiple for side in options.image_size):
            given = " ".join(map(str, options.image_size))
            raise ValueError(f"--image-size: expected multiples of {multiple} for {model}, got {given}")
    return [
        Problem(model, mode, options.batch, options.image_size, dtype, options.num_bases, device.type)
        for model in models
        for mode in modes
        for dtype in dtypes
    ]


def measure(names: Sequence[str], options: Options, problem: Problem, session: Session) -> None:
    """Check, time and record the call of every provider."""
    device, rates = session.device, session.rates
    entries: list[Entry] = []
    standing: dict[str, float] = {}
    errors: dict[str, tuple[float, str]] = {}

    def made(name: str) -> Callable[[], Any]:
        own = prepared(problem, name)
        # Before the first step, which changes the weights.
        standing[name], errors[name] = own.standing_mb, check(problem, name, own)
        return own

    def found_before(name: str, _result: Any) -> tuple[float, str]:
        return errors[name]

    allowed = allowed_beside(None)
    for name in (STATIC, *names):
        row = problem.columns() | {"provider": name}
        is_off = functools.partial(found_before, name)
        entries += attempt(row, functools.partial(made, name), is_off, device, is_ours=True, allowed=allowed)
        if name == STATIC and name in errors:
            allowed = allowed_beside(errors[name][0])
    time_entries(entries, device, options)
    flops, moved = static_work(problem)
    floor = rates.floor_ms(flops, moved, problem.dtype)
    for entry in entries:
        if entry.run is not None:
            name = entry.row["provider"]
            entry.row |= roofline_columns(flops, moved, floor, entry.row["p50_ms"], rates, problem.dtype)
            if session.meter is not None:
                arguments = {"problem": asdict(problem), "provider": name}
                function = "dynconv.bench.bench_segmentation:prepare"
                entry.row |= memory_columns(session.meter, function, arguments, standing[name])
        session.recorder.add(entry.row)


def static_work(problem: Problem) -> tuple[float, float]:
    """FLOPs of the static network's products in one call, and the bytes of its weights, as in `bench_drt_step`.

    Counted on the meta device.
    """
    with torch.device("meta"):
        own = prepared(dataclasses.replace(problem, device="meta"), STATIC)
    with FlopCounterMode(display=False) as counter:
        scores = own.model(own.images)
        if problem.mode == TRAINING:
            scores.sum().backward()
    weights = sum(p.numel() * p.element_size() for p in own.model.parameters())
    # Of a step: read by the forward and the backward pass; gradient, momentum and weight read, the last two written.
    return float(counter.get_total_flops()), (7.0 if problem.mode == TRAINING else 1.0) * weights


def plan(options: Options, device: torch.device) -> Plan[Problem]:
    """What the options describe; ValueError for an unknown word or a size out of range."""
    found = problems(options, device)
    names = chosen("--providers", options.providers, [OURS], [STATIC, OURS])
    selected = [name for name in names if name != STATIC]

    def label(problem: Problem) -> str:
        size = problem.columns()["size"]
        return f"{problem.model} {problem.mode} batch {problem.batch} @{size} {problem.dtype}"

    return Plan(found, [each.dtype for each in found], label, functools.partial(measure, selected, options))


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = parse(Options, "segmentation", __doc__, args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())

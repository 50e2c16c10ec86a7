"""The operator dynamic_conv2d beside the static convolution and the ways of doing it elsewhere.

Each problem's providers run interleaved, after each was held against the float64 oracle. bench/README.md explains the
rows. Equal commands: `dynconv bench`, `python -m dynconv.bench.bench_dynamic_conv2d`.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor

from dynconv.bench.harness import (
    CannotRun,
    CommonOptions,
    Entry,
    attempt,
    chosen,
    megabytes,
    memory_columns,
    parse,
    relative_error,
    roofline_columns,
    time_entries,
)
from dynconv.bench.machine import DTYPES, Rates, free_bytes
from dynconv.bench.problems import (
    FORMATS,
    SHAPES,
    Shape,
    Spec,
    Tensors,
    from_row,
    oracle,
    own_batch,
    shape_of,
    tensors,
    work,
)
from dynconv.bench.providers import GROUPED, PROVIDERS, STATIC, Call, Provider, memory_reason
from dynconv.bench.rows import Row
from dynconv.bench.session import Plan, Session, run

MODES, BASES = ("forward", "forward+backward"), ("1x1", "full")
RESIDUALS = ("subspace", "combined", "mixture")
QUICK_SHAPES = ("r64", "r512", "l128")
_MODULE = "dynconv.bench.bench_dynamic_conv2d"
# What a CPU's default measures besides each shape's own batch in fp32: these at batch 1, those in bf16.
RESNET_SHAPES, BF16_SHAPES = ("r64", "r128", "r256", "r512"), ("r64", "r512")


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure dynamic_conv2d. Every selection left out takes a default that suits the device."""

    shapes: tuple[str, ...] = ()
    """r64, r128, r256, r512 (ResNet's 3x3), l64, l128 (LeNet's 5x5), m192 (a MobileNet depthwise 3x3), or your own as
    CIN-COUT@SIZEkKERNEL[sSTRIDE][gGROUPS]. Default: all named ones."""
    batch: tuple[int, ...] = ()
    """Default: 16 on a CPU and also 1 for ResNet's, 64 on a GPU, 128 for LeNet's; a quarter of the larger with
    --quick."""
    dtype: tuple[str, ...] = ()
    """fp32, bf16. Default: both on a GPU; on a CPU fp32, and bf16 for r64 and r512 at batch 16."""
    mode: tuple[str, ...] = ()
    """forward, forward+backward. Default: both."""
    basis: tuple[str, ...] = ()
    """1x1, full. Default: both."""
    residual: tuple[str, ...] = ()
    """subspace (weight and basis), combined (and a scale), mixture (basis alone, CondConv's). Default: subspace on a
    CPU, combined on a GPU."""
    layout: tuple[str, ...] = ()
    """nchw, nhwc. Default: both; nchw with --quick."""
    providers: tuple[str, ...] = ()
    """static is always there. Default: all, on a CPU without the compiled ones (about 20 s of compilation per row).
    "all" takes all."""
    num_bases: int = 4
    """K."""
    graphs: tyro.conf.FlagCreatePairsOff[bool] = False
    """CUDA: also time each provider as a CUDA graph."""


def grid(options: Options, device: torch.device) -> list[Spec]:
    """The problems that the options describe.

    Raises:
        ValueError: An unknown word, a batch below 1, or nothing left to measure.
    """
    shapes = [
        shape_of(name) for name in chosen("--shapes", options.shapes, QUICK_SHAPES if options.quick else tuple(SHAPES))
    ]
    for flag, size in (*(("--batch", size) for size in options.batch), ("--num-bases", options.num_bases)):
        if size < 1:
            raise ValueError(f"{flag}: expected at least 1, got {size}")
    on_cpu = device.type == "cpu"
    chosen("--dtype", options.dtype, (), DTYPES)
    modes = chosen("--mode", options.mode, MODES, MODES)
    bases = chosen("--basis", options.basis, BASES, BASES)
    residuals = chosen("--residual", options.residual, ["subspace" if on_cpu else "combined"], RESIDUALS)
    specs = [
        Spec(shape, batch, dtype, mode, basis, residual, options.num_bases)
        for shape in shapes
        for batch, dtype in sizes(shape, options, device)
        for basis, residual, mode in itertools.product(bases, residuals, modes)
        # The mixture has no static kernel whose centre a 1x1 basis could stand at.
        if not (residual == "mixture" and basis == "1x1")
    ]
    if not specs:
        raise ValueError("--residual mixture has no static kernel, so it needs --basis full")
    return specs


def sizes(shape: Shape, options: Options, device: torch.device) -> list[tuple[int, str]]:
    """The batches and dtypes to measure one shape in: those given, or what the options' docstrings say.

    The whole product would take a CPU an hour: batch 1 is a question of ResNet's inference, and two shapes, one of many
    pixels and one of many channels, show what bf16 does.
    """
    on_cpu = device.type == "cpu"
    thorough = on_cpu and not options.quick
    own = own_batch(shape, device, options.quick)
    batches = chosen("--batch", options.batch, [own, 1] if thorough and shape.name in RESNET_SHAPES else [own])
    default = [*DTYPES] if not on_cpu or (thorough and shape.name in BF16_SHAPES) else ["fp32"]
    dtypes = chosen("--dtype", options.dtype, default)
    return [
        (batch, dtype)
        for dtype, batch in itertools.product(dtypes, batches)
        if not on_cpu or options.dtype or dtype == "fp32" or batch == own
    ]


def chosen_providers(options: Options, device: torch.device) -> list[Provider]:
    """The providers in their order, the static convolution among them."""
    default = [name for name, p in PROVIDERS.items() if device.type == "cuda" or not p.is_compiled]
    if options.quick:
        default = [name for name in default if name != "vmap"]
    names = chosen("--providers", options.providers, default, [*PROVIDERS, "all"])
    return [p for name, p in PROVIDERS.items() if name in names or "all" in names or name == STATIC]


def timed(spec: Spec, given: Tensors, call: Call) -> Callable[[], Any]:
    """What is timed: the forward pass without autograd, or the forward pass and all gradients."""
    if spec.mode == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return call.forward()

        return forward
    leaves, dy = list(call.leaves.values()), given["dy"]

    def step() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = call.forward()
        return y, torch.autograd.grad(y, leaves, dy)

    return step


def worst_error(spec: Spec, result: Any, call: Call, expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest relative error among y and the gradients, and whose it is."""
    y, gradients = (result, ()) if spec.mode == "forward" else result
    found = {"y": relative_error(y, expected["y"])}
    for name, gradient in zip(call.leaves, gradients, strict=spec.mode != "forward"):
        # A gradient has its leaf's shape; timm keeps the basis flat.
        found[f"the gradient of {name}"] = relative_error(gradient.reshape(expected[name].shape), expected[name])
    worst = max(found, key=lambda name: found[name])
    return found[worst], worst


def prepare(problem: Mapping[str, Any], layout: Any, provider: str, device: str = "cpu") -> Callable[[], Any]:
    """The timed call of a row, for the process that measures memory."""
    spec = from_row(problem)
    given = tensors(spec, layout, torch.device(device))
    return timed(spec, given, PROVIDERS[provider].build(spec, given))


class Bench:
    """Measures one problem after another."""

    def __init__(self, options: Options, providers: Sequence[Provider], layouts: Sequence[str]) -> None:
        self.options, self.providers, self.layouts = options, providers, layouts
        self._oracles: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def group(self, spec: Spec, session: Session) -> None:
        """Check, time and record every provider in every layout on one problem."""
        if any(provider.is_compiled for provider in self.providers):
            torch._dynamo.reset()
        entries: list[Entry] = []
        for layout in self.layouts:
            given = tensors(spec, layout, session.device)  # type: ignore[arg-type]  # one of FORMATS
            for provider in self.providers:
                entries += self._prepare(spec, layout, given, provider, session.device)
        time_entries(entries, session.device, self.options, peer=GROUPED)
        for entry in entries:
            if entry.run is not None:
                parts = PROVIDERS[entry.row["provider"]].parts(spec)
                entry.row |= roofline(spec, parts, entry.row["p50_ms"], session.rates)
                if session.meter is not None:
                    arguments = {"problem": spec.columns(), "device": session.device.type}
                    arguments |= {name: entry.row[name] for name in ("layout", "provider")}
                    inputs = inputs_mb(spec, given, parts)
                    entry.row |= memory_columns(session.meter, f"{_MODULE}:prepare", arguments, inputs)
            session.recorder.add(entry.row)

    def _prepare(
        self, spec: Spec, layout: str, given: Tensors, provider: Provider, device: torch.device
    ) -> list[Entry]:
        calls: list[Call] = []

        def build() -> Callable[[], Any]:
            if reason := memory_reason(provider, spec, free_bytes(device)):
                raise CannotRun(reason)
            calls.append(provider.build(spec, given))
            return timed(spec, given, calls[0])

        def check(result: Any) -> tuple[float, str]:
            return worst_error(spec, result, calls[0], self._oracle(spec, given, provider.parts(spec)))

        row = {"op": "dynamic_conv2d", **spec.columns(), "layout": layout, "provider": provider.name}
        kind = {"is_ours": provider.is_ours, "is_compiled": provider.is_compiled, "graphs": self.options.graphs}
        return attempt(row, build, check, device, **kind)

    def _oracle(self, spec: Spec, given: Tensors, parts: frozenset[str]) -> dict[str, Tensor]:
        key = (spec, parts)
        if key not in self._oracles:
            # Only this problem's: those of all would fill the memory.
            self._oracles = {k: v for k, v in self._oracles.items() if k[0] == spec}
            self._oracles[key] = oracle(spec, given, parts)
        return self._oracles[key]


def roofline(spec: Spec, parts: frozenset[str], p50_ms: float, rates: Rates) -> Row:
    """The cells of a provider that computes with ``parts``; forward and backward each have a floor."""
    least = work(spec, parts)
    floor = rates.floor_ms(least.forward_flops, least.forward_bytes, spec.dtype)
    floor += rates.floor_ms(least.backward_flops, least.backward_bytes, spec.dtype)
    return roofline_columns(least.flops, least.bytes, floor, p50_ms, rates, spec.dtype)


def inputs_mb(spec: Spec, given: Tensors, parts: frozenset[str]) -> float:
    """MB of what the call reads: x and ``parts``, for a backward pass the incoming gradient."""
    names = parts | {"x"} | ({"dy"} if spec.mode != "forward" else set())
    return megabytes(given[name] for name in names)


def plan(options: Options, device: torch.device) -> Plan[Spec]:
    """What the options describe; ValueError for an unknown word or a size out of range."""
    specs, selected = grid(options, device), chosen_providers(options, device)
    layouts = chosen("--layout", options.layout, ["nchw"] if options.quick else list(FORMATS), FORMATS)
    bench = Bench(options, selected, layouts)

    def label(spec: Spec) -> str:
        return f"{spec.shape.name} batch {spec.batch} {spec.dtype} {spec.mode} {spec.basis} {spec.residual}"

    return Plan(specs, [spec.dtype for spec in specs], label, bench.group)


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = parse(Options, "dynamic_conv2d", __doc__, args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())

"""The operator dynamic_conv2d beside the static convolution and the ways of doing it elsewhere.

Each problem's providers run interleaved, after each was held against the float64 oracle. bench/README.md explains the
rows. Equal commands: `dynconv bench`, `python bench/bench_dynamic_conv2d.py`.
"""

from __future__ import annotations

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
    Recorder,
    Row,
    attempt,
    chosen,
    free_bytes,
    memory_columns,
    relative_error,
    roofline_columns,
    time_entries,
)
from dynconv.bench.machine import DTYPES, Rates, identity, measure_rates
from dynconv.bench.memory import MemoryMeter
from dynconv.bench.problems import FORMATS, SHAPES, Spec, Tensors, batches, from_row, oracle, shape_of, tensors, work
from dynconv.bench.providers import GROUPED, PROVIDERS, STATIC, Call, Provider, memory_reason
from dynconv.bench.report import print_results

MODES, BASES = ("forward", "forward+backward"), ("1x1", "full")
RESIDUALS = ("subspace", "combined", "mixture")
QUICK_SHAPES = ("r64", "r512", "l128")


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure dynamic_conv2d. Every selection left out takes a default that suits the device."""

    shapes: tuple[str, ...] = ()
    """r64, r128, r256, r512 (ResNet's 3x3), l64, l128 (LeNet's 5x5), m192 (a MobileNet depthwise 3x3), or your own as
    CIN-COUT@SIZEkKERNEL[sSTRIDE][gGROUPS]. Default: all named ones."""
    batch: tuple[int, ...] = ()
    """Default: 16 on a CPU, 64 on a GPU, 128 for LeNet's; a quarter of that with --quick."""
    dtype: tuple[str, ...] = ()
    """fp32, bf16. Default: fp32 on a CPU, both on a GPU."""
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
    memory: bool = True
    """Measure peak memory (on the CPU in a second process)."""


def grid(options: Options, device: torch.device) -> list[Spec]:
    """The problems that the options describe.

    Raises:
        ValueError: An unknown word, a batch below 1, or nothing left to measure.
    """
    shapes = [
        shape_of(name) for name in chosen("--shapes", options.shapes, QUICK_SHAPES if options.quick else tuple(SHAPES))
    ]
    if any(size < 1 for size in options.batch) or options.num_bases < 1:
        raise ValueError("--batch, --num-bases: expected at least 1")
    on_cpu = device.type == "cpu"
    dtypes = chosen("--dtype", options.dtype, ["fp32"] if on_cpu else list(DTYPES), DTYPES)
    modes = chosen("--mode", options.mode, MODES, MODES)
    bases = chosen("--basis", options.basis, BASES, BASES)
    residuals = chosen("--residual", options.residual, ["subspace" if on_cpu else "combined"], RESIDUALS)
    specs = [
        Spec(shape, batch, dtype, mode, basis, residual, options.num_bases)
        for shape in shapes
        for batch in batches(shape, options.batch, device, options.quick)
        for dtype, basis, residual, mode in itertools.product(dtypes, bases, residuals, modes)
        # The mixture has no static kernel whose centre a 1x1 basis could stand at.
        if not (residual == "mixture" and basis == "1x1")
    ]
    if not specs:
        raise ValueError("--residual mixture has no static kernel, so it needs --basis full")
    return specs


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
        found[f"the gradient of {name}"] = relative_error(gradient, expected[name])
    worst = max(found, key=lambda name: found[name])
    return found[worst], worst


def prepare(problem: Mapping[str, Any], layout: Any, provider: str, device: str = "cpu") -> Callable[[], Any]:
    """The timed call of a row, for the process that measures memory."""
    spec = from_row(problem)
    given = tensors(spec, layout, torch.device(device))
    return timed(spec, given, PROVIDERS[provider].build(spec, given))


class Bench:
    """Measures one problem after another."""

    def __init__(
        self, options: Options, device: torch.device, chosen: Sequence[Provider], rates: Rates, recorder: Recorder
    ) -> None:
        self.options, self.device, self.providers = options, device, chosen
        self.rates, self.recorder = rates, recorder
        default = ["nchw"] if options.quick else list(FORMATS)
        self.layouts = [name for name in FORMATS if name in (options.layout or default)]
        self._oracles: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def group(self, spec: Spec, meter: MemoryMeter | None) -> None:
        """Check, time and record every provider in every layout on one problem."""
        if any(provider.is_compiled for provider in self.providers):
            torch._dynamo.reset()
        entries: list[Entry] = []
        for layout in self.layouts:
            given = tensors(spec, layout, self.device)  # type: ignore[arg-type]  # one of FORMATS
            for provider in self.providers:
                entries += self._prepare(spec, layout, given, provider)
        time_entries(entries, self.device, self.options, peer=GROUPED)
        for entry in entries:
            if entry.run is not None:
                entry.row |= self._roofline(spec, entry.row)
                if meter is not None:
                    entry.row |= self._memory(spec, entry.row, given, meter)
            self.recorder.add(entry.row)

    def _prepare(self, spec: Spec, layout: str, given: Tensors, provider: Provider) -> list[Entry]:
        calls: list[Call] = []

        def build() -> Callable[[], Any]:
            if reason := memory_reason(provider, spec, free_bytes(self.device)):
                raise CannotRun(reason)
            calls.append(provider.build(spec, given))
            return timed(spec, given, calls[0])

        def check(result: Any) -> tuple[float, str]:
            return worst_error(spec, result, calls[0], self._oracle(spec, given, provider.parts(spec)))

        row = {"op": "dynamic_conv2d", **spec.columns(), "layout": layout, "provider": provider.name}
        kind = {"is_ours": provider.is_ours, "is_compiled": provider.is_compiled, "graphs": self.options.graphs}
        return attempt(row, build, check, self.device, **kind)

    def _oracle(self, spec: Spec, given: Tensors, parts: frozenset[str]) -> dict[str, Tensor]:
        key = (spec, parts)
        if key not in self._oracles:
            # Only this problem's: those of all would fill the memory.
            self._oracles = {k: v for k, v in self._oracles.items() if k[0] == spec}
            self._oracles[key] = oracle(spec, given, parts)
        return self._oracles[key]

    def _roofline(self, spec: Spec, row: Row) -> Row:
        least = work(spec, PROVIDERS[row["provider"]].parts(spec))
        floor = self.rates.floor_ms(least.forward_flops, least.forward_bytes, spec.dtype)
        floor += self.rates.floor_ms(least.backward_flops, least.backward_bytes, spec.dtype)
        return roofline_columns(least.flops, least.bytes, floor, row["p50_ms"], self.rates, spec.dtype)

    def _memory(self, spec: Spec, row: Row, given: Tensors, meter: MemoryMeter) -> Row:
        arguments = {"problem": spec.columns(), "layout": row["layout"], "provider": row["provider"]}
        arguments["device"] = self.device.type
        inputs = sum(t.numel() * t.element_size() for name, t in given.items() if name != "dy") / 1e6
        return memory_columns(meter, "dynconv.bench.bench_dynamic_conv2d:prepare", arguments, inputs)


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = tyro.cli(Options, prog="dynconv bench dynamic_conv2d", description=__doc__, args=args)
    try:
        device = options.torch_device()
        specs, selected = grid(options, device), chosen_providers(options, device)
        chosen("--layout", options.layout, (), FORMATS)
    except ValueError as error:
        print(f"dynconv: error: {error}", file=sys.stderr)
        return 2
    rates = measure_rates(device, tuple(dict.fromkeys(spec.dtype for spec in specs)))
    machine = identity(device) | {"gbytes_per_s": rates.bytes_per_second / 1e9}
    with Recorder(options.out, len(specs), machine) as recorder, MemoryMeter(device, machine["threads"]) as meter:
        bench = Bench(options, device, selected, rates, recorder)
        try:
            for spec in specs:
                words = (spec.shape.name, f"batch {spec.batch}", spec.dtype, spec.mode, spec.basis, spec.residual)
                recorder.group(" ".join(words))
                bench.group(spec, meter if options.memory else None)
        except KeyboardInterrupt:
            return recorder.interrupted()
    print_results(recorder.rows)
    return recorder.exit_code()


if __name__ == "__main__":
    sys.exit(main())

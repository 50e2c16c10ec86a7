"""The operator coefficients (pool, two layers, softmax and scale) beside the static convolution that it serves.

The context is the input of ResNet's bottleneck (four times the convolution's channels), for LeNet and MobileNet the
convolution's own. `pool` is the mean over the pixels alone: the least that anyone reads. bench/README.md explains rows.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from dynconv import reference
from dynconv.bench import bench_dynamic_conv2d as conv
from dynconv.bench import problems
from dynconv.bench.bench_dynamic_conv2d import MODES, QUICK_SHAPES
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
from dynconv.bench.machine import DTYPES, Rates
from dynconv.bench.problems import FORMATS, SHAPES, Shape, Spec, Tensors, from_row, own_batch, shape_of
from dynconv.bench.providers import PROVIDERS as CONVOLUTIONS
from dynconv.bench.providers import STATIC
from dynconv.bench.rows import Row
from dynconv.bench.session import Plan, Session, run
from dynconv.functional import coefficients
from dynconv.ops.coefficients import BACKENDS

# The bottleneck's input has four times the channels of its 3x3.
EXPANSION, REDUCTION = 4, 16
RESIDUALS = ("subspace", "combined")
POOL = "pool"
Function = Callable[[Spec, Tensors], tuple[Tensor | None, ...]]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure coefficients. Every selection left out takes a default that suits the device."""

    shapes: tuple[str, ...] = ()
    """The convolutions that the coefficients serve, as for dynamic_conv2d. Default: all named ones."""
    batch: tuple[int, ...] = ()
    """Default: 16 on a CPU, 64 on a GPU, 128 for LeNet's; a quarter of that with --quick."""
    dtype: tuple[str, ...] = ()
    """fp32, bf16. Default: fp32 on a CPU, both on a GPU."""
    mode: tuple[str, ...] = ()
    """forward, forward+backward. Default: both."""
    residual: tuple[str, ...] = ()
    """subspace (pi alone), combined (pi and a scale per output channel). Default: both."""
    layout: tuple[str, ...] = ()
    """nchw, nhwc. Default: both; nchw with --quick."""
    providers: tuple[str, ...] = ()
    """Default: all, on a CPU without the compiled one. "all" takes all."""
    num_bases: int = 4
    """K."""
    graphs: tyro.conf.FlagCreatePairsOff[bool] = False
    """CUDA: also time each provider as a CUDA graph."""


def context_channels(shape: Shape) -> int:
    return shape.in_channels * (EXPANSION if shape.name in ("r64", "r128", "r256", "r512") else 1)


def num_scales(spec: Spec) -> int:
    return spec.shape.out_channels if spec.residual == "combined" else 0


def tensors(spec: Spec, layout: str, device: torch.device) -> Tensors:
    """Leaves x, w1 and w2 and the incoming gradients dpi and ds; float32 weights, as a branch keeps them."""
    generator = torch.Generator(device).manual_seed(0)
    channels, size, scales = context_channels(spec.shape), spec.shape.size, num_scales(spec)
    hidden = max(channels // REDUCTION, 4)

    def draw(*sizes: int, fan: int = 1) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device) / fan**0.5

    # Pixels with a mean: pooled noise alone would be so small that every softmax came out uniform.
    x = (1 + draw(spec.batch, channels, 1, 1) + draw(spec.batch, channels, size, size)).to(DTYPES[spec.dtype])
    leaves = {
        "x": x.contiguous(memory_format=FORMATS[layout]),
        "w1": draw(hidden, channels, fan=channels),
        "w2": draw(spec.num_bases + scales, hidden, fan=hidden),
    }
    given = {name: tensor.requires_grad_() for name, tensor in leaves.items()}
    given["dpi"] = draw(spec.batch, spec.num_bases)
    return given | ({"ds": draw(spec.batch, scales)} if scales else {})


def _ours(backend: str, spec: Spec, t: Tensors) -> tuple[Tensor | None, ...]:
    refusal = f'backend="{backend}" cannot run'
    try:
        counts: dict[str, Any] = {"num_bases": spec.num_bases, "num_scales": num_scales(spec)}
        return coefficients(t["x"], t["w1"], t["w2"], **counts, backend=backend)
    except ValueError as error:
        if str(error).startswith(refusal):
            raise CannotRun(str(error)) from error
        raise


def _plain(spec: Spec, t: Tensors) -> tuple[Tensor | None, ...]:
    """The branch as everyone writes it: one operator after the other."""
    pooled = F.adaptive_avg_pool2d(t["x"], 1).flatten(1).float()
    z = F.linear(F.relu(F.linear(pooled, t["w1"])), t["w2"])
    pi = torch.softmax(z[:, : spec.num_bases], dim=1)
    return pi, 1 + torch.sigmoid(z[:, spec.num_bases :]) if num_scales(spec) else None


def _pool(spec: Spec, t: Tensors) -> tuple[Tensor | None, ...]:
    return (t["x"].mean(dim=(2, 3), dtype=torch.float32),)


@functools.cache
def _compile_plain() -> Function:
    return torch.compile(_plain, fullgraph=True, dynamic=False)


def _compiled(spec: Spec, t: Tensors) -> tuple[Tensor | None, ...]:
    return _compile_plain()(spec, t)


_OUR_BACKENDS = tuple(name for name in BACKENDS if name not in ("auto", "reference"))
PROVIDERS: dict[str, Function] = {
    POOL: _pool,
    "dynconv": functools.partial(_ours, "auto"),
    **{f"dynconv:{name}": functools.partial(_ours, name) for name in _OUR_BACKENDS},
    "plain": _plain,
    "compiled plain": _compiled,
}


def timed(spec: Spec, given: Tensors, function: Function) -> Callable[[], Any]:
    """The forward pass without autograd, or the forward pass and all gradients."""
    if spec.mode == "forward":

        def forward() -> tuple[Tensor | None, ...]:
            with torch.no_grad():
                return function(spec, given)

        return forward

    def step() -> tuple[list[Tensor], tuple[Tensor, ...]]:
        results = [tensor for tensor in function(spec, given) if tensor is not None]
        if function is _pool:
            return results, torch.autograd.grad(results, [given["x"]], [torch.ones_like(results[0])])
        incoming = [given[name] for name in ("dpi", "ds") if name in given]
        return results, torch.autograd.grad(results, [given[name] for name in ("x", "w1", "w2")], incoming)

    return step


def oracle(spec: Spec, given: Tensors) -> dict[str, Tensor]:
    """pi, s and, where the mode asks for it, the gradients, by the reference in float64."""
    double = {name: t.detach().double().requires_grad_(name in ("x", "w1", "w2")) for name, t in given.items()}
    counts: dict[str, Any] = {"num_bases": spec.num_bases, "num_scales": num_scales(spec)}
    results = reference.coefficients(double["x"], double["w1"], double["w2"], **counts)
    named = {name: t for name, t in zip(("pi", "s"), results, strict=True) if t is not None}
    if spec.mode == "forward":
        return {name: t.detach() for name, t in named.items()}
    leaves = [double[name] for name in ("x", "w1", "w2")]
    gradients = torch.autograd.grad(list(named.values()), leaves, [double[f"d{name}"] for name in named])
    return {name: t.detach() for name, t in named.items()} | dict(zip(("x", "w1", "w2"), gradients, strict=True))


def inputs_of(spec: Spec, given: Tensors) -> list[Tensor]:
    """What the branch reads: x and its weights, for a backward pass the incoming gradients."""
    return [t for name, t in given.items() if spec.mode != "forward" or name in ("x", "w1", "w2")]


def pooled(spec: Spec, given: Tensors) -> dict[str, Tensor]:
    """The mean over the pixels in float64 and, where the mode asks for it, x's gradient for an incoming one of ones."""
    x = given["x"].detach().double()
    means = {"the mean": x.mean(dim=(2, 3))}
    return means if spec.mode == "forward" else means | {"x": torch.full_like(x, 1 / x.shape[2:].numel())}


def worst_error(spec: Spec, result: Any, expected: Mapping[str, Tensor]) -> tuple[float, str]:
    outputs, gradients = (result, ()) if spec.mode == "forward" else result
    tensors = [tensor for tensor in outputs if tensor is not None] + list(gradients)
    errors = {name: relative_error(t, expected[name]) for name, t in zip(expected, tensors, strict=True)}
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], f"the gradient of {worst}" if worst in ("x", "w1", "w2") else worst


def prepare(problem: Mapping[str, Any], layout: str, provider: str, device: str) -> Callable[[], Any]:
    """The timed call of a row, for the process that measures memory."""
    if provider == STATIC:
        return conv.prepare(problem, layout, STATIC, device)
    spec = from_row(problem)
    return timed(spec, tensors(spec, layout, torch.device(device)), PROVIDERS[provider])


def columns(spec: Spec) -> Row:
    """The identity of a row. ``in_channels`` is the context's; the basis has no part in it."""
    return spec.columns() | {"in_channels": context_channels(spec.shape), "basis": ""}


def floor(spec: Spec, rates: Rates) -> tuple[float, float, float]:
    """FLOPs, bytes and the floor in ms: x is read once, its gradient is one number per channel."""
    channels, hidden = context_channels(spec.shape), max(context_channels(spec.shape) // REDUCTION, 4)
    weights = hidden * (channels + spec.num_bases + num_scales(spec))
    pixels = spec.batch * channels * spec.shape.size**2
    forward = (pixels + 2 * spec.batch * weights, pixels * DTYPES[spec.dtype].itemsize + 4 * weights)
    backward = (4 * spec.batch * weights, 8 * weights) if spec.mode != "forward" else (0, 0)
    # Outside the pixels' sum the arithmetic is nothing; the sum runs at memory speed on any machine.
    milliseconds = sum(rates.floor_ms(flops, moved, "fp32") for flops, moved in (forward, backward))
    return forward[0] + backward[0], forward[1] + backward[1], milliseconds


def grid(options: Options, device: torch.device) -> list[Spec]:
    """The problems that the options describe; ValueError for an unknown word or a batch below 1."""
    shapes = [
        shape_of(name) for name in chosen("--shapes", options.shapes, QUICK_SHAPES if options.quick else tuple(SHAPES))
    ]
    for flag, size in (*(("--batch", size) for size in options.batch), ("--num-bases", options.num_bases)):
        if size < 1:
            raise ValueError(f"{flag}: expected at least 1, got {size}")
    on_cpu = device.type == "cpu"
    dtypes = chosen("--dtype", options.dtype, ["fp32"] if on_cpu else list(DTYPES), DTYPES)
    modes = chosen("--mode", options.mode, MODES, MODES)
    residuals = chosen("--residual", options.residual, RESIDUALS, RESIDUALS)
    return [
        Spec(shape, batch, dtype, mode, "1x1", residual, options.num_bases)
        for shape in shapes
        for batch in chosen("--batch", options.batch, [own_batch(shape, device, options.quick)])
        for dtype, residual, mode in itertools.product(dtypes, residuals, modes)
    ]


@dataclass(frozen=True)
class Candidate:
    """One provider on one problem: its call, what its first result is held against, and what it reads."""

    build: Callable[[], Callable[[], Any]]
    check: Callable[[Any], tuple[float, str]]
    inputs_mb: float


class Bench:
    """Measures one problem after another."""

    def __init__(self, options: Options, layouts: Sequence[str], names: Sequence[str]) -> None:
        self.options, self.layouts, self.names = options, layouts, names

    def group(self, spec: Spec, session: Session) -> None:
        """Check, time and record every provider in every layout on one problem."""
        if any(name.startswith("compiled") for name in self.names):
            torch._dynamo.reset()
        entries: list[Entry] = []
        inputs: dict[str, float] = {}
        expected: dict[str, dict[str, Tensor]] = {}
        for layout in self.layouts:
            for name, candidate in self._candidates(spec, layout, session.device, expected).items():
                row = {"op": "coefficients", **columns(spec), "layout": layout, "provider": name}
                kind = {"is_ours": name.startswith("dynconv"), "is_compiled": name.startswith("compiled")}
                kind["graphs"] = self.options.graphs
                entries += attempt(row, candidate.build, candidate.check, session.device, **kind)
                inputs[name] = candidate.inputs_mb
        time_entries(entries, session.device, self.options)
        for entry in entries:
            if entry.run is not None:
                name = entry.row["provider"]
                entry.row |= _roofline(spec, name, entry.row["p50_ms"], session.rates)
                if session.meter is not None:
                    arguments = {"problem": spec.columns(), "device": session.device.type, "provider": name}
                    arguments["layout"] = entry.row["layout"]
                    function = "dynconv.bench.bench_coefficients:prepare"
                    entry.row |= memory_columns(session.meter, function, arguments, inputs[name])
            session.recorder.add(entry.row)

    def _candidates(
        self, spec: Spec, layout: str, device: torch.device, expected: dict[str, dict[str, Tensor]]
    ) -> dict[str, Candidate]:
        """The providers in one layout; ``expected`` keeps the oracles' results, which no layout changes."""
        # The static convolution, with tensors and an oracle of its own.
        convolved = problems.tensors(spec, layout, device)  # type: ignore[arg-type]  # one of FORMATS
        call, parts = CONVOLUTIONS[STATIC].build(spec, convolved), CONVOLUTIONS[STATIC].parts(spec)
        given = tensors(spec, layout, device)
        if not expected:
            expected |= {STATIC: problems.oracle(spec, convolved, parts), POOL: pooled(spec, given)}
            expected["branch"] = oracle(spec, given)
        found = {
            STATIC: Candidate(
                functools.partial(conv.timed, spec, convolved, call),
                lambda result: conv.worst_error(spec, result, call, expected[STATIC]),
                conv.inputs_mb(spec, convolved, parts),
            )
        }
        for name in self.names:
            own = expected.get(name, expected["branch"])
            read = [given["x"]] if name == POOL else inputs_of(spec, given)
            build = functools.partial(timed, spec, given, PROVIDERS[name])
            found[name] = Candidate(build, functools.partial(_check, spec, own), megabytes(read))
        return found


def _check(spec: Spec, expected: Mapping[str, Tensor], result: Any) -> tuple[float, str]:
    return worst_error(spec, result, expected)


def _roofline(spec: Spec, name: str, p50_ms: float, rates: Rates) -> Row:
    """The work of the coefficients; of the static convolution its own."""
    if name == STATIC:
        return conv.roofline(spec, CONVOLUTIONS[STATIC].parts(spec), p50_ms, rates)
    flops, moved, least = floor(spec, rates)
    return roofline_columns(flops, moved, least, p50_ms, rates, "fp32")


def plan(options: Options, device: torch.device) -> Plan[Spec]:
    """What the options describe; ValueError for an unknown word or a size out of range."""
    specs = grid(options, device)
    layouts = chosen("--layout", options.layout, ["nchw"] if options.quick else list(FORMATS), FORMATS)
    default = [name for name in PROVIDERS if device.type == "cuda" or not name.startswith("compiled")]
    names = chosen("--providers", options.providers, default, [STATIC, *PROVIDERS, "all"])
    selected = [name for name in PROVIDERS if name in names or "all" in names]

    def label(spec: Spec) -> str:
        return f"{spec.shape.name} batch {spec.batch} {spec.dtype} {spec.mode} {spec.residual}"

    return Plan(specs, ["fp32", *(spec.dtype for spec in specs)], label, Bench(options, layouts, selected).group)


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = parse(Options, "coefficients", __doc__, args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())

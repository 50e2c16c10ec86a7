"""The operator feature_gradient_norms, through a bank of discriminators, beside the ways one would write it.

`static` is the bank's logits and losses without norms: what adversarial training costs without them. `loop` takes
`autograd.grad(create_graph=True)` of one discriminator after another, modules of their own; `vmap` is
`torch.func.vmap(grad)` over stacked weights. Before a provider is timed, its results and gradients are held against the
float64 reference, for the problem's first discriminators without dropout. bench/README.md explains the rows.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dynconv.bench.gradient_norms import (
    GROUPS,
    OURS,
    PROVIDERS,
    STATIC,
    Spec,
    distance,
    floor,
    least_bytes,
    tensors,
    timed,
)
from dynconv.bench.harness import (
    CannotRun,
    CommonOptions,
    Entry,
    attempt,
    chosen,
    megabytes,
    memory_columns,
    parse,
    roofline_columns,
    time_entries,
)
from dynconv.bench.machine import DTYPES, free_bytes
from dynconv.bench.rows import Row
from dynconv.bench.session import Plan, Session, run
from dynconv.ops import gradient_memory

MODES = ("forward", "forward+backward")
WEIGHTS = ("gsda", "dense")
# In bf16 a unit in 200 is on the other side.
ALLOWED = {"fp32": None, "bf16": 0.1}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure feature-gradient norms. Every selection left out takes a default that suits the device."""

    num: tuple[int, ...] = ()
    """Discriminators, of 38 (Office-31), 79 (Office-Home), 415 (DomainNet) or any number from 4 on. Default: all three;
    38 with --quick."""
    batch: int = 72
    """Samples, half of them of the source."""
    features: tuple[int, ...] = ()
    """Width of the features. Default: 256, 2048; 256 with --quick."""
    hidden: int = 1024
    """Width of the discriminators' hidden layers."""
    layers: int = 3
    """Linear layers of a discriminator."""
    dropout: float = 0.5
    """Rate, while timed."""
    weights: tuple[str, ...] = ()
    """gsda (a source sample counts for its class, its group and the domain), dense (no pair has weight 0). Default:
    both; gsda with --quick."""
    dtype: tuple[str, ...] = ()
    """fp32, bf16 (autocast). Default: fp32 on a CPU, both on a GPU."""
    mode: tuple[str, ...] = ()
    """forward, forward+backward (features and all parameters). Default: both."""
    providers: tuple[str, ...] = ()
    """static (always), dynconv, dynconv:triton, loop, vmap. Default: all, on a CPU without Triton."""


def prepare(spec: Mapping[str, Any], provider: str) -> Callable[[], Any]:
    """The timed call of a row, for the process that measures memory."""
    own = Spec(**spec)
    return timed(own, tensors(own), provider)


def grid(options: Options, device: torch.device) -> list[Spec]:
    """The problems that the options describe; ValueError for unknown words or sizes out of range."""
    numbers = chosen("--num", options.num, [38] if options.quick else list(GROUPS))
    features = chosen("--features", options.features, [256] if options.quick else [256, 2048])
    weights = chosen("--weights", options.weights, ["gsda"] if options.quick else WEIGHTS, WEIGHTS)
    dtypes = chosen("--dtype", options.dtype, ["fp32"] if device.type == "cpu" else list(DTYPES), DTYPES)
    modes = chosen("--mode", options.mode, MODES, MODES)
    for flag, values, least in (
        ("--num", numbers, 4),
        ("--batch", [options.batch], 2),
        ("--features", features, 1),
        ("--hidden", [options.hidden], 1),
        ("--layers", [options.layers], 1),
    ):
        if min(values) < least:
            raise ValueError(f"{flag}: expected at least {least}, got {min(values)}")
    if not 0 <= options.dropout < 1:
        raise ValueError(f"--dropout: expected at least 0 and less than 1, got {options.dropout}")
    return [
        Spec(
            num,
            options.batch,
            width,
            options.hidden,
            options.layers,
            options.dropout,
            kind,
            dtype,
            mode,
            device.type,
        )
        for num, width, kind, dtype, mode in itertools.product(numbers, features, weights, dtypes, modes)
    ]


def timed_rows(names: Sequence[str], options: Options, spec: Spec, session: Session) -> list[Row]:
    """Check and time every provider on one problem, whose tensors are gone when memory is measured in another process:
    the largest bank and its gradients take half of a machine of 24 GB."""
    given = tensors(spec)
    active, inputs = int((given.weights != 0).sum()), megabytes(given.leaves)
    entries: list[Entry] = []

    def build(name: str) -> Callable[[], Any]:
        # What ours, checked before, keeps for its next gradients.
        gradient_memory.release()
        needed, free = least_bytes(spec, name), free_bytes(session.device)
        if needed > free:
            raise CannotRun(f"needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
        return timed(spec, given, name)

    def check(name: str, _: Any) -> tuple[float, str]:
        return distance(spec, name)

    for name in (STATIC, *names):
        row = spec.columns() | {"provider": name}
        entries += attempt(
            row,
            functools.partial(build, name),
            functools.partial(check, name),
            session.device,
            is_ours=name.startswith(OURS),
            allowed=ALLOWED[spec.dtype],
        )
    time_entries(entries, session.device, options)
    for entry in entries:
        if entry.run is not None:
            row, name = entry.row, entry.row["provider"]
            work = floor(spec, name, active, session.rates)
            row |= roofline_columns(*work, row["p50_ms"], session.rates, spec.dtype)
            row["peak_mb"] = inputs
    return [entry.row for entry in entries]


def measure(names: Sequence[str], options: Options, spec: Spec, session: Session) -> None:
    """Check, time and record every provider on one problem."""
    for row in timed_rows(names, options, spec, session):
        inputs = row.pop("peak_mb", 0.0)
        if row["status"] == "ok" and session.meter is not None:
            arguments = {"spec": asdict(spec), "provider": row["provider"]}
            function = "dynconv.bench.bench_feature_gradient_norms:prepare"
            row |= memory_columns(session.meter, function, arguments, inputs)
        session.recorder.add(row)


def plan(options: Options, device: torch.device) -> Plan[Spec]:
    """What the options describe; ValueError for an unknown word or a size out of range."""
    specs = grid(options, device)
    default = [name for name in PROVIDERS if device.type == "cuda" or not name.endswith("triton")]
    names = chosen("--providers", options.providers, default, PROVIDERS)
    selected = [name for name in PROVIDERS if name in names and name != STATIC]

    def label(spec: Spec) -> str:
        return f"{spec.num} x {spec.features}-{spec.hidden} {spec.weights} {spec.dtype} {spec.mode}"

    return Plan(
        specs,
        ["fp32", *(spec.dtype for spec in specs)],
        label,
        functools.partial(measure, selected, options),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = parse(Options, "feature_gradient_norms", __doc__, args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())

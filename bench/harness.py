"""What every benchmark shares: its options, the check against an oracle, and what a row says of a call."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro
from torch import Tensor

from dynconv.bench.machine import Rates
from dynconv.bench.memory import MemoryMeter, MemoryUnknown
from dynconv.bench.rows import Row
from dynconv.bench.timing import STATIC, captured, ratio_columns, timing_columns
from dynconv.timing import interleave

Device = Literal["auto", "cpu", "cuda"]

# Relative L2 error against the float64 oracle beyond which a provider is refused: the rounding of float32 (or TF32,
# where torch allows it to a GPU's convolutions) and of bf16 products that autograd sums in bf16.
_ALLOWED = {"fp32": 1e-4, "bf16": 4e-2}
_ALLOWED_TF32 = 1e-2


@dataclass(frozen=True)
class CommonOptions:
    """What every benchmark can be told."""

    device: Device = "auto"
    """Where to measure; auto takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads. Default: torch's own choice."""
    out: Path | None = None
    """CSV to write, row by row. Default: none, only the table."""
    overwrite: bool = False
    """Replace an existing --out."""
    budget: float | None = None
    """Seconds of timing per row, within the rounds below. Default: 0.5, with --quick 0.15."""
    min_rounds: int = 3
    """At least as many rounds per row; a call that takes more than ten budgets has one."""
    quick: bool = False
    """A small selection with short timings: under two minutes on two cores."""
    memory: bool = True
    """Measure peak memory (on the CPU in a second process)."""

    def check(self) -> None:
        """Raise a ValueError for a value out of range, and for an `out` that stands in the way."""
        # Not in __post_init__, whose errors tyro would tell in its own way.
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads: expected at least 1, got {self.threads}")
        if self.budget is not None and not (0 < self.budget < math.inf):
            raise ValueError(f"--budget: expected a positive number of seconds, got {self.budget}")
        if self.min_rounds < 1:
            raise ValueError(f"--min-rounds: expected at least 1, got {self.min_rounds}")
        if self.out is not None and self.out.is_dir():
            raise ValueError(f"--out {self.out} is a folder; expected the name of a CSV, as {self.out / 'rows.csv'}")
        if self.out is not None and self.out.exists() and not self.overwrite:
            raise ValueError(f"--out {self.out} exists; give another name, or --overwrite to replace it")

    @property
    def seconds_per_row(self) -> float:
        return self.budget if self.budget is not None else 0.15 if self.quick else 0.5

    def torch_device(self) -> torch.device:
        """The device, with the threads set.

        Raises:
            ValueError: ``--device cuda`` where torch sees no GPU.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise ValueError("--device cuda: torch sees no GPU here (dynconv info); take --device cpu")
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")


AnyOptions = TypeVar("AnyOptions", bound=CommonOptions)


def parse(options: type[AnyOptions], operation: str, description: str | None, args: Sequence[str] | None) -> AnyOptions:
    """The options of an operation from its words, by default the process's; SystemExit(2) for others."""
    given = tyro.cli(options, prog=f"dynconv bench {operation}", description=description, args=args)
    try:
        given.check()
    except ValueError as error:
        print(f"dynconv: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    return given


def chosen(flag: str, given: Sequence[Any], default: Sequence[Any], known: Iterable[Any] | None = None) -> list[Any]:
    """``given`` without repetitions, or ``default`` where nothing was given; ValueError for what is not ``known``."""
    unknown = [value for value in given if known is not None and value not in known]
    if unknown:
        names = ", ".join(map(str, known or ()))
        raise ValueError(f"{flag}: unknown {', '.join(map(str, unknown))}; expected some of {names}")
    return list(dict.fromkeys(given or default))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| in float64; infinite where the shape differs or a value is not finite."""
    if actual.shape != expected.shape:
        return math.inf
    difference = (actual.detach().double() - expected).norm()
    error = (difference / expected.norm().clamp_min(1e-30)).item()
    return error if math.isfinite(error) else math.inf


def allowed_error(dtype: str, device: torch.device) -> float:
    """The relative L2 error that a provider may have against the oracle."""
    if dtype == "fp32" and device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        return _ALLOWED_TF32
    return _ALLOWED[dtype]


class CannotRun(Exception):  # noqa: N818 - reads as what happened
    """A provider cannot compute a problem here; the message says why."""


@dataclass
class Entry:
    """A row, and its call where there is one to time."""

    row: Row
    run: Callable[[], Any] | None = None

    @property
    def key(self) -> tuple[str, str, bool]:
        return self.row["provider"], self.row["layout"], self.row["graph"]


def attempt(
    row: Row,
    build: Callable[[], Callable[[], Any]],
    check: Callable[[Any], tuple[float, str]] | None,
    device: torch.device,
    *,
    is_ours: bool = False,
    is_compiled: bool = False,
    graphs: bool = False,
    allowed: float | None = None,
) -> list[Entry]:
    """The entries of one provider: timed where its first result passes ``check``, else a row that says why not.

    Args:
        row: The row's identity, with ``dtype``.
        build: Prepares the call; it, or the call, may raise :class:`CannotRun`.
        check: The largest relative error of a result, and whose it is; None for a yardstick of torch's own.
        is_ours: Ours must run or say why it cannot: any other error refuses it. What others raise skips them.
        is_compiled: The first call's time is its compilation's.
        graphs: Add the call as a CUDA graph, on a GPU.
        allowed: The error that ``check`` may find. Default: that of the row's dtype.
    """
    row = {"layout": "", **row, "graph": False, "status": "ok"}
    try:
        run = build()
        start = time.perf_counter()
        result = run()
        if is_compiled:
            row["compile_s"] = time.perf_counter() - start
        allowed = allowed_error(row["dtype"], device) if allowed is None else allowed
        if check is not None:
            row["error"], reason = _disagreement(check(result), allowed)
            if reason:
                return [Entry(row | {"status": "refused", "note": reason})]
        if not (graphs and device.type == "cuda"):
            return [Entry(row, run)]
        return [Entry(row, run), _graph(row, run, check, allowed, device, is_ours)]
    except CannotRun as refusal:
        return [Entry(row | {"status": "skipped", "note": one_line(refusal)})]
    except Exception as error:
        note = one_line(f"{type(error).__name__}: {error}")
        return [Entry(row | {"status": "refused" if is_ours else "skipped", "note": note})]


def _disagreement(found: tuple[float, str], allowed: float) -> tuple[float, str]:
    """The error, and why it refuses the provider; "" where it does not."""
    error, whose = found
    if error <= allowed:
        return error, ""
    return error, f"{whose} is off the oracle by {error:.2g}, allowed {allowed:.2g}; not timed"


def _graph(
    row: Row,
    run: Callable[[], Any],
    check: Callable[[Any], tuple[float, str]] | None,
    allowed: float,
    device: torch.device,
    is_ours: bool,
) -> Entry:
    """The same call as a CUDA graph, where it can be captured and what it replays is right."""
    row = row | {"graph": True}
    try:
        replay = captured(run, device)
        if check is not None:
            row["error"], reason = _disagreement(check(replay()), allowed)
            if reason:
                return Entry(row | {"status": "refused", "note": reason})
        return Entry(row, replay)
    except Exception as error:
        note = one_line(f"no CUDA graph: {type(error).__name__}: {error}")
        return Entry(row | {"status": "refused" if is_ours else "skipped", "note": note})


def time_entries(entries: Sequence[Entry], device: torch.device, options: CommonOptions, *, peer: str = "") -> None:
    """Time all entries interleaved and fill in their rows' times and ratios."""
    runs = {entry.key: entry.run for entry in entries if entry.run is not None}
    always = [key for key in runs if key[0] == STATIC]
    seconds = interleave(runs, device, budget=options.seconds_per_row, min_rounds=options.min_rounds, always=always)
    for entry in entries:
        if entry.run is None:
            continue
        own = seconds[entry.key]
        entry.row |= timing_columns(own) | ratio_columns(own, seconds, *entry.key[1:], peer)
        entry.row["images_per_s"] = 1e3 * entry.row["batch"] / entry.row["p50_ms"]


def roofline_columns(flops: float, moved: float, floor_ms: float, p50_ms: float, rates: Rates, dtype: str) -> Row:
    """The problem's work, its floor on this machine, and how near the median comes to it."""
    return {
        "gflop": flops / 1e9,
        "mbytes": moved / 1e6,
        "floor_ms": floor_ms,
        "percent_of_floor": 100 * floor_ms / p50_ms,
        "gflop_per_s": rates.flops_per_second[dtype] / 1e9,
    }


def memory_columns(meter: MemoryMeter, function: str, arguments: Mapping[str, Any], inputs_mb: float) -> Row:
    """Peak memory of the call that ``function`` makes of ``arguments``, or a note that says why it is unknown."""
    try:
        extra, results = meter.measure(function, arguments)
    except MemoryUnknown as reason:
        return {"note": one_line(f"peak memory unknown: {reason}")}
    return {"peak_extra_mb": extra, "peak_mb": inputs_mb + results + extra}


def megabytes(tensors: Iterable[Tensor]) -> float:
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6


def one_line(message: object) -> str:
    """The first line of a message, cut to 200 characters."""
    return (str(message).strip().splitlines() or [""])[0][:200]

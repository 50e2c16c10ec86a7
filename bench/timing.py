"""Interleaved timing, and what is made of it: percentiles and ratios taken within one round."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from dynconv.bench.machine import synchronise

# A sample shorter than this repeats its call: on the CPU for the timer's sake, on a GPU to fill the queue.
_SHORTEST = {"cpu": 1e-3, "cuda": 2e-3}
# A call that takes more than so many budgets has one round.
_ONCE_FROM = 10
MAX_ROUNDS = 200
STATIC = "static"


Key = TypeVar("Key", bound=Hashable)


def interleave(
    calls: Mapping[Key, Callable[[], object]],
    device: torch.device,
    *,
    budget: float,
    min_rounds: int,
    always: Sequence[Key],
    seed: int = 0,
) -> dict[Key, list[float]]:
    """Seconds of each call in each round; NaN in the rounds that a slow call sits out.

    In every round the calls take turns in a new order, so that a machine that drifts does so for all of them, and none
    always follows the same neighbour's caches. Those of ``always``, to which the others are compared, run in every
    round. Each call runs in about ``budget`` seconds, in at least ``min_rounds`` and at most ``MAX_ROUNDS`` rounds; one
    that takes more than ten budgets has a single round.
    """
    estimates = {key: _sample(call, 1, device) for key, call in calls.items()}
    shortest = _SHORTEST[device.type]
    repeats = {key: max(1, min(200, math.ceil(shortest / max(t, 1e-7)))) for key, t in estimates.items()}
    turns = {
        key: 1
        if t > _ONCE_FROM * budget
        else min(MAX_ROUNDS, max(min_rounds, round(budget / max(t * repeats[key], 1e-7))))
        for key, t in estimates.items()
    }
    rounds = max((turns[key] for key in always or turns), default=0)
    turns = {key: rounds if key in always else min(rounds, count) for key, count in turns.items()}
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    order, generator = list(calls), random.Random(seed)
    gc.collect()
    gc.disable()
    try:
        for index in range(rounds):
            generator.shuffle(order)
            for key in order:
                takes_part = (index + 1) * turns[key] // rounds > index * turns[key] // rounds
                seconds[key].append(_sample(calls[key], repeats[key], device) if takes_part else math.nan)
    finally:
        gc.enable()
    return seconds


def _sample(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds per call: by the clock on a CPU, between two events of the stream on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        synchronise(device)
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        synchronise(device)
        return start.elapsed_time(end) / 1e3 / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def timing_columns(seconds: Sequence[float]) -> dict[str, Any]:
    """p20, p50, p80 and the minimum in ms, and the number of rounds."""
    taken = sorted(1e3 * value for value in seconds if not math.isnan(value))
    low, middle, high = (_quantile(taken, q) for q in (0.2, 0.5, 0.8))
    return {"p20_ms": low, "p50_ms": middle, "p80_ms": high, "min_ms": taken[0], "rounds": len(taken)}


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def paired_ratios(seconds: Sequence[float], anchor: Sequence[float]) -> list[float]:
    """seconds / anchor in each round that both took part in, in ascending order."""
    both = zip(seconds, anchor, strict=True)
    return sorted(a / b for a, b in both if not (math.isnan(a) or math.isnan(b)))


def paired_ratio(seconds: Sequence[float], anchor: Sequence[float]) -> float:
    """The median of :func:`paired_ratios`."""
    return statistics.median(paired_ratios(seconds, anchor))


def ratio_of_minima(seconds: Sequence[float], anchor: Sequence[float]) -> float:
    """The fastest round of one over the fastest of the other."""
    return min(v for v in seconds if not math.isnan(v)) / min(v for v in anchor if not math.isnan(v))


def ratio_columns(
    own: Sequence[float], seconds: Mapping[Any, Sequence[float]], layout: str, graph: bool, peer: str
) -> dict[str, Any]:
    """The ratios of one call to the static one, and to that of the provider ``peer``: CUDA graphs to CUDA graphs.

    ``seconds`` is keyed by (provider, layout, graph).
    """
    columns: dict[str, Any] = {}
    same, nchw = seconds.get((STATIC, layout, graph)), seconds.get((STATIC, "nchw", graph))
    if same is not None:
        columns["ratio_to_static"] = paired_ratio(own, same)
        ratios = paired_ratios(own, same)
        columns["ratio_p20"], columns["ratio_p80"] = (_quantile(ratios, q) for q in (0.2, 0.8))
        columns["ratio_of_minima"] = ratio_of_minima(own, same)
        grouped = seconds.get((peer, layout, graph))
        if grouped is not None:
            # Each was paired with the static call: slow calls share too few rounds with each other.
            columns["ratio_to_grouped"] = columns["ratio_to_static"] / paired_ratio(grouped, same)
    if nchw is not None:
        columns["ratio_to_static_nchw"] = paired_ratio(own, nchw)
    return columns


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """``call`` as a CUDA graph; its results stay in the graph's own memory."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> object:
        graph.replay()
        return results

    return replay

"""What is made of interleaved timings: percentiles and ratios taken within one round; and calls as CUDA graphs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

STATIC = "static"


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

"""Seconds of calls that are to be compared, taken in turns so that a machine that drifts does so for all of them."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch

# A sample shorter than this repeats its call: on the CPU for the timer's sake, on a GPU to fill the queue.
_SHORTEST = {"cpu": 1e-3, "cuda": 2e-3}
# A call that takes more than so many budgets has one round.
_ONCE_FROM = 10
MAX_ROUNDS = 200

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
    always follows the same neighbour's caches. Those of `always`, to which the others are compared, run in every
    round. Each call runs in about `budget` seconds, in at least `min_rounds` and at most `MAX_ROUNDS` rounds; one
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


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; on a CPU there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

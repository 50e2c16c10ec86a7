"""Interleaved timing: drift cancels in the ratios, slow calls sit rounds out, and no call always follows the same."""

from __future__ import annotations

import math

import pytest
import torch

from dynconv import timing
from dynconv.bench.timing import paired_ratio

CPU = torch.device("cpu")


class Clock:
    """Stands in for the sampler: calls cost what they are said to, times a drift that grows with every sample."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, costs: dict[str, float], drift: float = 0.0) -> None:
        self.costs, self.drift, self.taken = costs, drift, []
        monkeypatch.setattr(timing, "_sample", self.sample)

    def calls(self) -> dict[str, object]:
        return {name: (lambda name=name: name) for name in self.costs}

    def sample(self, call, repeats: int, device: torch.device) -> float:
        self.taken.append(call())
        return self.costs[self.taken[-1]] * (1 + self.drift * len(self.taken))


def interleave(clock: Clock, **options: float) -> dict[str, list[float]]:
    chosen = {"budget": 1.0, "min_rounds": 3} | options
    return timing.interleave(clock.calls(), CPU, always=["static"], **chosen)


def test_a_machine_that_drifts_leaves_the_ratio_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {"static": 0.01, "twice": 0.02, "other": 0.01}, drift=0.01)
    seconds = interleave(clock)
    assert max(seconds["static"]) > 2 * min(seconds["static"]), "the drift was not there"
    assert paired_ratio(seconds["twice"], seconds["static"]) == pytest.approx(2, rel=0.02)


def test_a_slow_call_takes_part_in_fewer_rounds_but_the_measure_of_all_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = interleave(Clock(monkeypatch, {"static": 0.01, "slow": 0.1, "slower": 5.0, "slowest": 10.1}))
    rounds = {name: sum(not math.isnan(value) for value in values) for name, values in seconds.items()}
    assert rounds == {"static": 100, "slow": 10, "slower": 3, "slowest": 1}
    taken = [index for index, value in enumerate(seconds["slow"]) if not math.isnan(value)]
    assert {b - a for a, b in zip(taken, taken[1:], strict=False)} == {10}


def test_the_number_of_rounds_is_bounded_and_short_calls_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = interleave(Clock(monkeypatch, {"static": 1e-6}), budget=100.0)
    assert len(seconds["static"]) == timing.MAX_ROUNDS
    repeats = []
    monkeypatch.setattr(timing, "_sample", lambda call, count, device: repeats.append(count) or 1e-5)
    timing.interleave({"static": lambda: None}, CPU, budget=0.01, min_rounds=1, always=["static"])
    assert repeats[0] == 1 and set(repeats[1:]) == {100}


def test_the_order_changes_from_round_to_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {"static": 0.1, "a": 0.1, "b": 0.1})
    interleave(clock)
    rounds = {tuple(clock.taken[start : start + 3]) for start in range(3, len(clock.taken), 3)}
    assert len(rounds) > 2 and all(sorted(order) == ["a", "b", "static"] for order in rounds)


def test_a_real_sample_is_the_time_of_one_call() -> None:
    import time

    assert 0.002 <= timing._sample(lambda: time.sleep(0.002), 3, CPU) < 0.1

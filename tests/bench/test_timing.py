"""What is made of interleaved timings, by hand."""

from __future__ import annotations

import math

import pytest

from dynconv.bench import timing


def test_percentiles_and_ratios_by_hand() -> None:
    nan = math.nan
    columns = timing.timing_columns([0.005, 0.001, nan, 0.003, 0.002, 0.004, 0.006])
    assert columns == pytest.approx({"p20_ms": 2, "p50_ms": 3.5, "p80_ms": 5, "min_ms": 1, "rounds": 6})
    own, static = [2.0, nan, 9.0, 4.0], [1.0, 1.0, 3.0, 1.0]
    seconds = {("own", "nhwc", False): own, ("static", "nhwc", False): static, ("static", "nchw", False): [4.0] * 4}
    seconds[("grouped", "nhwc", False)] = [nan, 6.0, nan, nan]
    found = timing.ratio_columns(own, seconds, "nhwc", False, "grouped")
    assert (found["ratio_to_static"], found["ratio_of_minima"], found["ratio_to_grouped"]) == (3.0, 2.0, 0.5)
    assert found["ratio_to_static_nchw"] == 1.0
    assert found["ratio_p20"] == pytest.approx(2.4) and found["ratio_p80"] == pytest.approx(3.6)
    assert timing.ratio_columns(own, seconds, "nhwc", True, "grouped") == {}

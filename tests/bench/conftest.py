"""Benchmarks made quick: small rate measurements, timings of a moment."""

from __future__ import annotations

import functools

import pytest

from dynconv.bench import bench_coefficients, bench_drt_step, bench_dynamic_conv2d
from dynconv.bench.machine import measure_rates


@pytest.fixture
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench_dynamic_conv2d, bench_coefficients, bench_drt_step):
        monkeypatch.setattr(module, "measure_rates", functools.partial(measure_rates, shrink=32))

"""Benchmarks made quick: small rate measurements, timings of a moment."""

from __future__ import annotations

import functools

import pytest

from dynconv.bench import session
from dynconv.bench.machine import measure_rates


@pytest.fixture
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "measure_rates", functools.partial(measure_rates, shrink=32))

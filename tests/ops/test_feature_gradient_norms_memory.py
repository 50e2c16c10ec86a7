"""``workspace_bytes`` bounds what a call holds beyond its inputs and results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynconv.bench import memory
from dynconv.bench.memory import MemoryMeter
from dynconv.functional import feature_gradient_norms

NUM, BATCH, FEATURES, HIDDEN = 48, 64, 512, 256
# Python's and the library's own, far below the bounds that are looked at.
SLACK_MB = 3.0


def prepare(workspace_bytes: int | None) -> Callable[[], object]:
    """A forward and backward that returns the gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(NUM, HIDDEN, FEATURES), (NUM, HIDDEN, HIDDEN), (NUM, 1, HIDDEN)]
    weights = [(torch.randn(shape, generator=generator) / shape[2] ** 0.5).requires_grad_() for shape in shapes]
    features = torch.randn(BATCH, FEATURES, generator=generator).requires_grad_()
    targets, p = torch.arange(BATCH) % 2, torch.rand(BATCH, NUM, generator=generator)
    leaves = [features, *weights]

    def call() -> object:
        found = feature_gradient_norms(features, weights, [None] * 3, targets, p, workspace_bytes=workspace_bytes)
        return torch.autograd.grad(found.norms.sum() + found.losses.sum(), leaves)

    return call


@pytest.mark.skipif(memory.cpu_missing() is not None, reason=str(memory.cpu_missing()))
def test_the_workspace_bounds_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    function = f"ops.{Path(__file__).stem}:prepare"
    held = {}
    with MemoryMeter(torch.device("cpu"), threads=1) as meter:
        for megabytes in (4, 12, 1000):
            held[megabytes], results = meter.measure(function, {"workspace_bytes": megabytes * 10**6})
            assert results > 25
    assert held[4] < 4 + SLACK_MB and held[12] < 12 + SLACK_MB
    # Without a bound that binds, everything is kept: 15.7 MB of v_0, v_1 and h.
    assert held[1000] > 15 and held[4] < held[12]

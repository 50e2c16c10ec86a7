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


def prepare(workspace_bytes: int | None, device: str, backend: str) -> Callable[[], object]:
    """A forward and backward that returns the gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(NUM, HIDDEN, FEATURES), (NUM, HIDDEN, HIDDEN), (NUM, 1, HIDDEN)]
    drawn = [torch.randn(shape, generator=generator) / shape[2] ** 0.5 for shape in shapes]
    weights = [weight.to(device).requires_grad_() for weight in drawn]
    features = torch.randn(BATCH, FEATURES, generator=generator).to(device).requires_grad_()
    targets, p = torch.arange(BATCH, device=device) % 2, torch.rand(BATCH, NUM, generator=generator).to(device)
    options = {"workspace_bytes": workspace_bytes, "backend": backend}
    leaves = [features, *weights]

    def call() -> object:
        found = feature_gradient_norms(features, weights, [None] * 3, targets, p, **options)
        return torch.autograd.grad(found.norms.sum() + found.losses.sum(), leaves)

    return call


# Kept where no bound binds: v_0, v_1 and h of both layers, 15.7 MB; the kernels keep h and v_l in 12.6 MB and form v_0
# again in the backward.
WAYS = [
    pytest.param(
        "cpu", "eager", marks=pytest.mark.skipif(memory.cpu_missing() is not None, reason="needs Linux, glibc")
    ),
    pytest.param("cuda", "eager", marks=pytest.mark.gpu),
    pytest.param("cuda", "triton", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("device", "backend"), WAYS)
def test_the_workspace_bounds_what_is_held(device: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    function = f"ops.{Path(__file__).stem}:prepare"
    held = {}
    with MemoryMeter(torch.device(device), threads=1) as meter:
        for megabytes in (4, 12, 1000):
            arguments = {"workspace_bytes": megabytes * 10**6, "device": device, "backend": backend}
            held[megabytes], results = meter.measure(function, arguments)
            assert results > 25
    assert held[4] < 4 + SLACK_MB and held[12] < 12 + SLACK_MB
    assert held[1000] > (15 if backend == "eager" else 12) and held[4] < held[12]

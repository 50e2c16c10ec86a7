"""The problems: their names, their work by hand, and an oracle that may take the samples in pieces."""

from __future__ import annotations

import pytest
import torch

from dynconv.bench import problems
from dynconv.bench.machine import Rates
from dynconv.bench.problems import SHAPES, Shape, Spec, from_row, oracle, shape_of, tensors, work
from dynconv.functional import dynamic_conv2d

CPU = torch.device("cpu")


def spec(**changes: object) -> Spec:
    fields = {"dtype": "fp32", "mode": "forward+backward", "basis": "1x1", "residual": "combined"}
    return Spec(Shape("tiny", 4, 6, 5, 3, stride=2, groups=2), 5, **(fields | changes), num_bases=3)


def test_a_shape_is_named_or_written_out() -> None:
    assert shape_of("r512") is SHAPES["r512"]
    assert shape_of("64-128@28k3s2g4") == Shape("64-128@28k3s2g4", 64, 128, 28, 3, 2, 4)
    for text, reason in (("r1024", "expected one of r64"), ("8-8@4k2", "odd"), ("8-9@4k3g4", "do not divide")):
        with pytest.raises(ValueError, match=reason):
            shape_of(text)


def test_a_row_gives_its_problem_back() -> None:
    original = spec()
    row = {name: str(value) for name, value in original.columns().items()}
    found = from_row(row)
    assert found.columns() == original.columns()
    assert work(found, found.parts) == work(original, original.parts)


@pytest.mark.parametrize("basis", ["1x1", "full"])
def test_the_oracle_in_pieces_is_autograds_on_the_whole(monkeypatch: pytest.MonkeyPatch, basis: str) -> None:
    monkeypatch.setattr(problems, "_ORACLE_SAMPLES", 2)
    problem = spec(basis=basis)
    given = tensors(problem, "nhwc", CPU)
    found = oracle(problem, given, problem.parts)
    double = {name: t.detach().double().requires_grad_() for name, t in given.items() if name != "dy"}
    named = {name: double[name] for name in ("scale", "basis", "coefficients")}
    y = dynamic_conv2d(double["x"], double["weight"], **named, **problem.geometry, backend="reference")
    torch.testing.assert_close(found["y"], y)
    for name, gradient in zip(double, torch.autograd.grad(y, list(double.values()), given["dy"].double()), strict=True):
        torch.testing.assert_close(found[name], gradient)
    assert given["x"].is_contiguous(memory_format=torch.channels_last)


def test_both_layouts_hold_the_same_numbers() -> None:
    nchw, nhwc = (tensors(spec(), layout, CPU) for layout in ("nchw", "nhwc"))
    assert nchw.keys() == nhwc.keys()
    for name in nchw:
        assert torch.equal(nchw[name], nhwc[name])


def test_the_work_is_that_of_a_count_by_hand() -> None:
    # 16 samples of 2x2 pixels, 3 -> 5 channels, 3x3: 64 pixels; 135 static and 15 pointwise elements.
    problem = Spec(Shape("tiny", 3, 5, 2, 3), 16, "fp32", "forward", "1x1", "combined", num_bases=4)
    found = work(problem, problem.parts)
    product, mixing = 2 * 64 * (135 + 15), 2 * 16 * 4 * 15
    x, y, small = 16 * 3 * 4 * 4, 16 * 5 * 4 * 4, 4 * 16 * (4 + 5)
    weights = 4 * (135 + 4 * 15)
    assert (found.flops, found.bytes) == (product + mixing, x + weights + small + y)
    both = work(Spec(problem.shape, 16, "fp32", "forward+backward", "1x1", "combined"), problem.parts)
    assert both.backward_flops == 2 * product + 3 * mixing
    assert both.backward_bytes == y + 2 * (x + weights + small)
    # A full basis is folded into the one kernel: no product of its own.
    full = work(Spec(problem.shape, 16, "bf16", "forward", "full", "subspace"), frozenset({"weight", "basis"}))
    assert full.flops == 2 * 64 * 135 + 2 * 16 * 4 * 135
    assert work(full_static := problem, frozenset({"weight"})).flops == 2 * 64 * 135 and full_static.mode == "forward"


def test_the_floor_is_the_larger_of_arithmetic_and_traffic() -> None:
    rates = Rates(bytes_per_second=1e9, flops_per_second={"fp32": 1e10, "bf16": 1e11})
    assert rates.floor_ms(1e8, 1e6, "fp32") == pytest.approx(10)
    assert rates.floor_ms(1e8, 1e6, "bf16") == pytest.approx(1)
    assert rates.floor_ms(1e6, 5e6, "fp32") == pytest.approx(5)

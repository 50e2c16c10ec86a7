"""The GPU's cost model against the roofline it stands on; nothing here was measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the choice of Triton variants needs triton")

from dynconv.ops import cost_model_cuda as model  # noqa: E402
from dynconv.ops.cost_model_cuda import Machine, Shape  # noqa: E402
from dynconv.ops.problem import Problem  # noqa: E402

# Channels and side of ResNet's stages.
STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))


def problem(
    channels: int,
    side: int,
    basis: int,
    *,
    batch: int = 64,
    kernel: int = 3,
    num_bases: int = 4,
    scale: bool = False,
    static: bool = True,
    groups: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = True,
) -> Problem:
    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    x = empty(batch, channels, side, side)
    return Problem(
        x.contiguous(memory_format=torch.channels_last) if channels_last else x,
        empty(channels, channels // groups, kernel, kernel) if static else None,
        None,
        empty(batch, channels) if scale else None,
        empty(num_bases * channels, channels // groups, basis, basis) if basis else None,
        empty(batch, num_bases) if basis else None,
        (1, 1),
        (kernel // 2, kernel // 2),
        (1, 1),
        groups,
    )


def chosen(*arguments, **options) -> tuple[str, str]:
    given = problem(*arguments, **options)
    return model.choose_forward(given), model.choose_gradient(given)


def test_a_full_basis_is_written_where_kernels_are_small_and_shared_where_they_are_not() -> None:
    """Roofline of an H200 (bf16, batch 64, K = 4): 64 kernels are 4.7, 19, 75 and 302 MB."""
    for scale in (False, True):
        found = [chosen(*stage, 3, scale=scale) for stage in STAGES]
        assert found[:2] == [("materialised",) * 2] * 2
        assert set(found[2]) <= {"materialised", "basis-shared"}
        assert found[3] == ("basis-shared",) * 2


def test_a_pointwise_basis_mixes_outputs_only_at_the_smallest_maps() -> None:
    """Up to 256 channels R_b (or its sum with W0) is formed; at 7x7 its re-reading costs more than K products."""
    found = [chosen(*stage, 1) for stage in STAGES]
    assert all("linear" not in name for stage in found[:3] for name in stage)
    assert found[3] == ("vendor-linear",) * 2


def test_the_vendor_computes_the_static_part_of_small_maps() -> None:
    for stage in STAGES[2:]:
        assert all(name.startswith("vendor") for name in chosen(*stage, 1))
    # At 56x56 a second pass over 77 MB costs more than the vendor's better products save.
    assert not any(name.startswith("vendor") for name in chosen(*STAGES[0], 1))


def test_arithmetic_and_traffic_are_those_of_the_roofline() -> None:
    shape = model.describe(problem(512, 7, 3))
    static = 2 * 64 * 49 * 512 * 512 * 9
    assert static == pytest.approx(14.8e9, rel=0.01)
    costs = model.forward_costs(shape)
    # Five products of 18.7 us each at 55 % of 790 TFLOP/s.
    assert costs["linear"] == pytest.approx(5 * static / (0.55 * 790e12), rel=0.05)
    # 302 MB written, and read again.
    assert costs["materialised"] > 2 * 302e6 / 4.3e12


def shape(**changed: object) -> Shape:
    return model.describe(problem(256, 14, 3, scale=True))._replace(**changed)


@pytest.mark.parametrize(
    "more",
    [
        {"batch": 128},
        {"inputs": 512},
        {"outputs": 512},
        {"pixels_in": 784, "pixels_out": 784},
        {"num_bases": 8},
        {"kernel_size": (5, 5), "basis_size": (5, 5)},
        {"element_size": 4, "arithmetic": "tf32"},
        {"multiprocessors": 66},
    ],
    ids=str,
)
def test_more_of_anything_costs_no_less(more: dict[str, object]) -> None:
    before, after = shape(), shape(**more)
    for costs in (model.forward_costs, model.gradient_costs, model.eager_costs):
        small, large = costs(before), costs(after)
        assert all(large[name] >= small[name] for name in small), costs.__name__
        assert any(large[name] > small[name] for name in small), costs.__name__
    assert model.parameter_cost(after) >= model.parameter_cost(before)


def test_nchw_costs_the_kernels_a_copy_and_the_vendors_two() -> None:
    last, first = (model.forward_costs(shape(is_channels_last=value)) for value in (True, False))
    more = {name: first[name] - last[name] for name in last}
    assert 0 < more["linear"] == pytest.approx(more["materialised"])
    assert more["vendor-linear"] > more["linear"]


def test_a_scale_costs_the_vendors_gradient_a_pass_over_dy() -> None:
    with_scale, without = model.gradient_costs(shape()), model.gradient_costs(shape(has_scale=False))
    assert with_scale["vendor-linear"] > without["vendor-linear"]
    assert with_scale["linear"] == without["linear"]


def test_no_variant_is_chosen_that_cannot_run() -> None:
    # basis-shared would win: it holds four bases at most.
    assert chosen(512, 7, 3, num_bases=4) == ("basis-shared",) * 2
    assert "basis-shared" not in chosen(512, 7, 3, num_bases=5)
    assert not any(name.startswith("vendor") for name in chosen(512, 7, 3, num_bases=9, static=False))
    assert chosen(64, 14, 0)[0] in ("linear", "vendor-linear")


def test_the_choice_of_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.backends, "triton_missing", lambda device: None)
    monkeypatch.setattr(model, "_triton_reasons", lambda problem: [])
    for stage in STAGES:
        for basis in (1, 3):
            assert model.choose_cuda(problem(*stage, basis)) == "triton"
    # Matrix units hold 16 channels at least, 256 times the arithmetic of one: a group per sample and channel instead.
    assert model.choose_cuda(problem(192, 28, 3, groups=192)) == "aggregate"
    monkeypatch.setattr(model, "_triton_reasons", lambda problem: ["float64 runs on the eager path"])
    assert model.choose_cuda(problem(512, 7, 1, dtype=torch.float64)) == "split"
    assert model.choose_cuda(problem(512, 7, 3, dtype=torch.float64)) in ("aggregate", "linear")
    monkeypatch.setattr(model.backends, "triton_missing", lambda device: "triton is not installed")
    assert model.choose_cuda(problem(64, 56, 1)) == "split"


def test_float64_is_refused_by_the_kernels_and_float32_is_not() -> None:
    given = problem(16, 7, 1, dtype=torch.float64)
    assert any("float64 runs on the eager path" in reason for reason in model._triton_reasons(given))


def test_tf32_follows_torchs_switch_for_convolutions() -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        for precision, arithmetic in (("ieee", "float32"), ("tf32", "tf32")):
            torch.backends.cudnn.conv.fp32_precision = precision
            assert model.describe(problem(16, 7, 1, dtype=torch.float32)).arithmetic == arithmetic
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def test_a_shape_holds_what_the_problem_says() -> None:
    given = problem(12, 9, 1, batch=5, kernel=5, num_bases=3, groups=3, scale=True, channels_last=False)
    found = model.describe(given)
    assert (found.batch, found.inputs, found.outputs, found.groups, found.num_bases) == (5, 12, 12, 3, 3)
    assert (found.pixels_in, found.pixels_out) == (81, given.output_size[0] * given.output_size[1])
    assert (found.taps, found.basis_taps) == (25, 1)
    assert (found.static_elements, found.basis_elements) == (12 * 4 * 25, 12 * 4)
    assert found.has_weight and found.has_scale and not found.is_channels_last
    assert found.multiprocessors == Machine().multiprocessors

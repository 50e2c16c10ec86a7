"""The GPU's cost model against the roofline it stands on; nothing here was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the choice of Triton variants needs triton")

from dynconv.functional import dynamic_conv2d  # noqa: E402
from dynconv.kernels import layout  # noqa: E402
from dynconv.ops import cost_model_cuda as model  # noqa: E402
from dynconv.ops.cost_shape_cuda import Machine, Shape  # noqa: E402
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
    kernels_last: bool = True,
) -> Problem:
    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    def image(last: bool, *size: int) -> Tensor:
        return empty(*size).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    return Problem(
        image(channels_last, batch, channels, side, side),
        image(kernels_last, channels, channels // groups, kernel, kernel) if static else None,
        None,
        empty(batch, channels) if scale else None,
        image(kernels_last, num_bases * channels, channels // groups, basis, basis) if basis else None,
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


def test_nchw_costs_a_copy_of_each_image_and_each_kernel() -> None:
    """At 4.3 TB/s, read and written, and a launch each; a kernel's gradient is copied back."""
    image, kernels = 2 * 64 * 256 * 196, 2 * 256 * 256 * 9 * (1 + 4)

    def costs(**options: bool) -> list[float]:
        described = model.describe(problem(256, 14, 3, scale=True, **options))
        directions = (model.forward_costs(described), model.gradient_costs(described))
        return [*(cost for found in directions for cost in found.values()), model.parameter_cost(described)]

    def more(**options: bool) -> list[float]:
        return [now - last for now, last in zip(costs(**options), costs(), strict=True)]

    # y is channels_last where W0 is.
    assert more(channels_last=False) == pytest.approx([2e-6 + 2 * image / 4.3e12] * 13)
    both = 3 * 2e-6 + 2 * (2 * image + kernels) / 4.3e12
    back = 2e-6 + 2 * kernels / 4.3e12
    assert more(channels_last=False, kernels_last=False) == pytest.approx([both] * 12 + [both + back])
    static = {
        last: model.static_cost(model.describe(problem(256, 14, 3, channels_last=last))) for last in (True, False)
    }
    assert static[False] - static[True] == pytest.approx(2e-6 + 2 * image / 4.3e12)


VIEWS = {
    "dense": lambda x: x,
    "half of the channels": lambda x: x[:, :32],
    "a ragged slice of the channels": lambda x: x[:, 8:40],
    "half of the channels of an odd number": lambda x: torch.cat([x, x[:, :1]], 1).to(**LAST)[:, :32],
}
LAST = {"memory_format": torch.channels_last}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("last", [True, False])
def test_what_is_loaded_element_by_element_is_what_the_tiles_call_ragged(view, last: bool) -> None:
    x = torch.zeros(2, 64, 8, 8, dtype=torch.bfloat16)
    x = view(x.contiguous(**LAST) if last else x)
    for outputs in (16, 24):
        for groups in (1, 4):
            weight = torch.zeros(outputs, x.shape[1] // groups, 1, 1, dtype=torch.bfloat16)
            given = Problem(x, weight, None, None, None, None, (1, 1), (0, 0), (1, 1), groups)
            kind = layout.kind(layout.channels_innermost(x), x.shape[1] // groups, outputs // groups)
            assert model.describe(given).is_ragged == (kind == "ragged"), (outputs, groups, kind)


def test_a_scale_costs_the_gradient_a_pass_over_dy_or_a_product_per_block() -> None:
    with_scale, without = model.gradient_costs(shape()), model.gradient_costs(shape(has_scale=False))
    more = {name: with_scale[name] - without[name] for name in with_scale}
    dy = 2 * 64 * 196 * 256
    assert more["vendor-linear"] == more["vendor-aggregated"] == pytest.approx(2 * dy / 4.3e12 + 2e-6)
    # Traffic hides the product where W0 and four full bases are read again and again, and not with a 1x1 basis.
    pointwise = [model.gradient_costs(model.describe(problem(256, 14, 1, scale=scale))) for scale in (False, True)]
    for name in ("linear", "aggregated"):
        assert pointwise[1][name] > pointwise[0][name]
    # Those that form kernels have s in them.
    assert more["materialised"] == more["basis-shared"] == 0
    assert model.forward_costs(shape())["linear"] == model.forward_costs(shape(has_scale=False))["linear"]


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
    # Loads element by element, and products without matrix units.
    for stage in ((3, 224), (40, 28)):
        assert model.choose_cuda(problem(*stage, 1)) == "split"
        assert model.choose_cuda(problem(*stage, 3)) in ("aggregate", "linear")
    assert model.choose_cuda(problem(256, 14, 1, dtype=torch.float32)) == "triton"
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        assert model.choose_cuda(problem(256, 14, 1, dtype=torch.float32)) == "split"
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    monkeypatch.setattr(model, "_triton_reasons", lambda problem: ["float64 runs on the eager path"])
    assert model.choose_cuda(problem(512, 7, 1, dtype=torch.float64)) == "split"
    assert model.choose_cuda(problem(512, 7, 3, dtype=torch.float64)) in ("aggregate", "linear")
    monkeypatch.setattr(model.backends, "triton_missing", lambda device: "triton is not installed")
    assert model.choose_cuda(problem(64, 56, 1)) == "split"


def test_without_a_backward_the_forwards_alone_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.backends, "triton_missing", lambda device: None)
    monkeypatch.setattr(model, "_triton_reasons", lambda problem: [])
    described = model.describe(problem(256, 14, 1))
    forward = min(model.forward_costs(described).values())
    monkeypatch.setattr(model, "parameter_cost", lambda shape: 0.0)
    # The eager backward is taken for two forwards, which ours does not cost here.
    for eager, of_forward, of_both in ((0.99, "split", "triton"), (1.01, "triton", "triton"), (0.5, "split", "split")):
        monkeypatch.setattr(model, "eager_costs", lambda shape, eager=eager: {"split": eager * forward})
        model._choose_backend.cache_clear()
        try:
            assert model.choose_cuda(problem(256, 14, 1), inference=True) == of_forward
            assert model.choose_cuda(problem(256, 14, 1)) == of_both
        finally:
            model._choose_backend.cache_clear()


@pytest.mark.parametrize(
    ("tracked", "enabled", "inference"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_the_operator_tells_whether_a_backward_follows(
    tracked: bool, enabled: bool, inference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def choose(problem: Problem, *, eager: bool, inference: bool) -> str:
        asked.append(inference)
        return "aggregate"

    monkeypatch.setattr(sys.modules["dynconv.ops.dynamic_conv2d"], "choose_strategy", choose)
    weight = torch.randn(5, 4, 1, 1, requires_grad=tracked)
    with torch.set_grad_enabled(enabled):
        dynamic_conv2d(torch.randn(2, 4, 3, 3), weight, scale=torch.rand(2, 5))
    assert asked == [inference]


README = Path(__file__).parents[2] / "bench/README.md"


def expected_ratios() -> str:
    """The table of bench/README.md, section "What the GPU cost model expects"."""
    lines = [
        "| channels, side | basis | forward | forward + backward | forward's variant | input gradient's |",
        "|---|---|---|---|---|---|",
    ]
    for basis in (1, 3):
        for channels, side in STAGES:
            given = problem(channels, side, basis, scale=True)
            forward, both = model.over_static(model.describe(given))
            name = "1x1" if basis == 1 else "full"
            variants = f"{model.choose_forward(given)} | {model.choose_gradient(given)}"
            lines.append(f"| {channels}, {side} | {name} | {forward:.2f} | {both:.2f} | {variants} |")
    return "\n".join(lines)


def test_the_page_of_the_benchmarks_gives_what_the_model_computes() -> None:
    assert expected_ratios() in README.read_text(), "bench/README.md must have:\n" + expected_ratios()


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

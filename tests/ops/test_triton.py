"""The Triton backend of dynamic_conv2d: its variants through the operator, and on a GPU in graphs and on streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from ops.cases import CASES, Case, gradients, in_double, on_device, run, tensors
from tolerances import assert_agrees

pytest.importorskip("triton", reason="the Triton backend needs triton")

from dynconv import backends, reference  # noqa: E402
from dynconv.functional import dynamic_conv2d  # noqa: E402
from dynconv.kernels import dynamic_conv2d as kernels  # noqa: E402
from dynconv.kernels.layout import size  # noqa: E402
from dynconv.kernels.variants import VARIANTS, forced, variant_reasons  # noqa: E402

WITHOUT_INTERPRETER = backends.triton_missing(torch.device("cpu"))
interpreted = pytest.mark.skipif(WITHOUT_INTERPRETER is not None, reason=str(WITHOUT_INTERPRETER))
SMALL = {
    "combined": Case(batch=2, height=3, width=2, scale=True),
    "full basis": Case(batch=2, height=3, width=2, basis=3, channels_last=True),
    "channel": Case(batch=2, height=3, width=2, basis=0, scale=True),
    "pointwise": Case(batch=2, height=3, width=2, kernel=1, padding=(0, 0), scale=True),
}
# A stage of a ResNet, K = 4, and odd relatives of it.
REAL = {
    "64 at 56x56": Case(8, 64, 64, 56, 56, scale=True, channels_last=True),
    "256 at 14x14, full": Case(8, 256, 256, 14, 14, basis=3, scale=True, channels_last=True),
    "512 at 7x7, full": Case(9, 512, 512, 7, 7, basis=3, channels_last=True),
    "512 at 7x7": Case(9, 512, 512, 7, 7, channels_last=True),
    "stride 2": Case(4, 128, 256, 28, 28, stride=(2, 2), scale=True, channels_last=True),
    "odd channels in NCHW": Case(4, 61, 67, 15, 13, basis=3, scale=True),
}


def can_run(variant: str, given: dict) -> bool:
    num_bases = 0 if given["coefficients"] is None else given["coefficients"].shape[1]
    sizes = (size(given["weight"]), size(given["basis"]))
    return not variant_reasons(variant, *sizes, given["scale"] is not None, num_bases)


def incoming(y: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)


def check(case: Case, given: dict, dtype: torch.dtype, variant: str | None) -> None:
    """Values and all gradients of the Triton backend, with one variant or the cost model's, against the oracle."""
    exact = in_double(given)
    expected = run(reference.dynamic_conv2d, exact, case)
    dy = incoming(expected).to(dtype)
    if variant is None:
        y = run(dynamic_conv2d, given, case, backend="triton")
        ours = gradients(y, given, dy)
    else:
        with forced(variant):
            y = run(dynamic_conv2d, given, case, backend="triton")
            ours = gradients(y, given, dy)
    assert_agrees(y, expected, what=f"{variant}: y")
    for name, gradient in gradients(expected, exact, dy.double()).items():
        assert_agrees(ours[name], gradient, dtype, what=f"{variant}: gradient of {name}")


@interpreted
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "name", [name if name in ("channel", "pointwise") else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_a_forced_variant_gives_the_operators_values_and_gradients(name: str, variant: str) -> None:
    given = tensors(SMALL[name], torch.float32)
    if not can_run(variant, given):
        with forced(variant), pytest.raises(ValueError, match=f"variant '{variant}' cannot run this dynamic_conv2d: "):
            run(dynamic_conv2d, given, SMALL[name], backend="triton")
        return
    check(SMALL[name], given, torch.float32, variant)


@interpreted
def test_the_forced_variant_is_what_runs_and_only_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []
    originals = {name: getattr(kernels, name) for name in ("forward", "input_gradient")}
    for name in originals:

        def launch(*arguments, name: str = name, **options):
            ran.append((name, options["variant"]))
            return originals[name](*arguments, **options)

        monkeypatch.setattr(kernels, name, launch)
    case = replace(SMALL["channel"], height=2, width=2)
    given = tensors(case, torch.float32)
    with forced("materialised"), forced("vendor-linear"):
        y = run(dynamic_conv2d, given, case, backend="triton")
        torch.autograd.grad(y.sum(), given["x"])
    assert ran == [("forward", "vendor-linear"), ("input_gradient", "vendor-linear")]
    with forced("materialised"):
        run(dynamic_conv2d, given, case, backend="triton")
    run(dynamic_conv2d, given, case, backend="triton")
    assert [variant for _, variant in ran[2:]] == ["materialised", "linear"]


@interpreted
def test_two_runs_are_bit_equal() -> None:
    case = SMALL["pointwise"]
    given = tensors(case, torch.float32)
    for variant in VARIANTS:
        with forced(variant):
            y, again = (run(dynamic_conv2d, given, case, backend="triton") for _ in range(2))
            first, second = (gradients(result, given, incoming(result)) for result in (y, again))
        assert torch.equal(y, again)
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def exact_float32():
    """torch's convolutions, and with them the kernels, take TF32 by default."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.gpu
@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", REAL)
def test_every_variant_agrees_with_the_oracle_on_real_shapes(name: str, dtype: torch.dtype) -> None:
    given = on_device(tensors(REAL[name], dtype, num_bases=4), "cuda")
    for variant in (None, *VARIANTS):
        if variant is None or can_run(variant, given):
            check(REAL[name], given, dtype, variant)


@pytest.fixture
def deterministic_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN may add up a gradient by atomics; set here and not by cudnn.flags, which refuses after fp32_precision."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture
def deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's switch, with NaN in whatever memory nobody wrote."""
    # Without it torch refuses cuBLAS under this switch.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic_algorithms")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["256 at 14x14, full", "512 at 7x7", "stride 2"])
def test_two_runs_on_a_gpu_are_bit_equal(name: str, dtype: torch.dtype) -> None:
    case = REAL[name]
    given = on_device(tensors(case, dtype, num_bases=4), "cuda")
    for variant in VARIANTS:
        if not can_run(variant, given):
            continue
        with forced(variant):
            y, again = (run(dynamic_conv2d, given, case, backend="triton") for _ in range(2))
            first, second = (gradients(result, given, incoming(result)) for result in (y, again))
        assert torch.equal(y, again), variant
        # NaN, which deterministic algorithms leave in what nobody wrote, equals nothing.
        different = [key for key in first if not torch.equal(first[key], second[key])]
        assert not different, f"{variant}: {different}"


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_offsets_beyond_32_bits_reach_the_last_sample(variant: str) -> None:
    """x and dx have more than 2^31 elements; all samples but the last are zero, so its gradients are the problem's."""
    case = Case(513, 64, 16, 256, 256, basis=3, bias=False, scale=True, channels_last=True)
    elements = case.batch * case.inputs * case.height * case.width
    assert elements > 2**31
    # bfloat16, for x, dx and what they are computed from.
    needed = 2 * elements * 4
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free GPU memory")
    last = on_device(tensors(replace(case, batch=1), torch.bfloat16, num_bases=2), "cuda")
    given: dict = {name: None if t is None else t.detach() for name, t in last.items()}
    size = (case.batch, case.inputs, case.height, case.width)
    given["x"] = torch.empty(size, dtype=torch.bfloat16, device="cuda", memory_format=torch.channels_last).zero_()
    given["x"][-1:] = last["x"].detach()
    for name in ("scale", "coefficients"):
        given[name] = given[name].expand(case.batch, -1).clone()
    given = {name: None if t is None else t.requires_grad_() for name, t in given.items()}
    exact = in_double(last)
    expected = run(reference.dynamic_conv2d, exact, replace(case, batch=1))
    dy = incoming(expected).to(torch.bfloat16)
    with forced(variant):
        y = run(dynamic_conv2d, given, case, backend="triton")
        assert_agrees(y[-1:], expected, what="y")
        ours = gradients(y, given, dy.expand_as(y).contiguous(memory_format=torch.channels_last))
    for name, gradient in gradients(expected, exact, dy.double()).items():
        found = ours[name][-1:] if name in ("x", "scale", "coefficients") else ours[name]
        assert_agrees(found, gradient, torch.bfloat16, what=f"gradient of {name}")


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic_vendor")
@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_backward_are_captured_in_a_cuda_graph(variant: str) -> None:
    case = Case(4, 64, 64, 14, 14, basis=3, scale=True, channels_last=True)
    given = on_device(tensors(case, torch.bfloat16, num_bases=4), "cuda")

    def step() -> tuple[torch.Tensor, dict]:
        y = run(dynamic_conv2d, given, case, backend="triton")
        return y, gradients(y, given, torch.ones_like(y))

    with forced(variant):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, found = step()
        with torch.no_grad():
            given["x"].neg_()
            given["coefficients"].mul_(0.5)
        graph.replay()
        expected, theirs = step()
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    for name in theirs:
        torch.testing.assert_close(found[name], theirs[name], rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic_vendor")
def test_two_streams_at_once_give_what_one_gives() -> None:
    cases = (REAL["256 at 14x14, full"], REAL["stride 2"])
    problems = [on_device(tensors(case, torch.bfloat16, num_bases=4), "cuda") for case in cases]
    alone = [run(dynamic_conv2d, given, case, backend="triton") for given, case in zip(problems, cases, strict=True)]
    dys = [incoming(y) for y in alone]
    expected = [gradients(*each) for each in zip(alone, problems, dys, strict=True)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for _ in range(10):
        together = []
        for stream, given, case, dy in zip(streams, problems, cases, dys, strict=True):
            with torch.cuda.stream(stream):
                y = run(dynamic_conv2d, given, case, backend="triton")
                together.append((y, gradients(y, given, dy)))
        torch.cuda.synchronize()
        for (y, found), one, theirs in zip(together, alone, expected, strict=True):
            assert torch.equal(y, one)
            assert all(torch.equal(found[name], theirs[name]) for name in theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [1, 3])
def test_no_channels_last_tensor_is_converted_around_the_vendors_kernels(kernel: int) -> None:
    """Nor by torch or cuDNN: the layout that they compute in depends on what stands for the input in a gradient."""

    def normal(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        # A 1x1 kernel is both NCHW and channels_last: this leaves it saying the former.
        return drawn.contiguous(memory_format=torch.channels_last)

    x, dy, weight, basis = normal(4, 64, 14, 14), normal(4, 128, 14, 14), normal(128, 64, kernel, kernel)
    basis, coefficients = normal(512, 64, 1, 1), torch.randn(4, 4, device="cuda")
    geometry = ((1, 1), (kernel // 2, kernel // 2), (1, 1), 1)

    def step() -> None:
        kernels.forward(x, weight, None, None, basis, coefficients, *geometry, variant="vendor-linear")
        parts = (weight, None, basis, coefficients)
        kernels.input_gradient(dy, *parts, tuple(x.shape), *geometry, variant="vendor-linear")

    step()
    with torch.profiler.profile() as profile:
        step()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events()]
    assert any("implicit_gemm" in name for name in names), names
    assert [name for name in names if name in ("aten::copy_", "aten::clone") or "nchw" in name.lower()] == []


@pytest.mark.gpu
def test_a_second_device_computes_on_itself() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    case = CASES["combined channels_last"]
    check(case, on_device(tensors(case, torch.bfloat16), "cuda:1"), torch.bfloat16, None)

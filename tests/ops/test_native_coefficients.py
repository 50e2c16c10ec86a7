"""The native ``coefficients`` (C++ and CUDA) against the oracle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from ops.branch_cases import KINDS, TOLERANCE, assert_agree, make, native, oracle
from torch import Tensor

from dynconv import backends
from dynconv.functional import coefficients

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    reason = backends.native_missing(request.param)
    if reason is not None:
        # A strict build without the operators would be a fault of the build, not of this machine.
        explain = pytest.fail if backends.build_record().get("mode") in (request.param, "cuda") else pytest.skip
        explain(f"no native operators for {request.param}: {reason}")
    return request.param


# One pixel, one channel, fewer pixels than a group of channels-last rows, odd sizes, several chunks, many channels.
SHAPES = [(2, 5, 1, 1), (1, 1, 7, 9), (3, 3, 5, 4), (2, 37, 13, 11), (1, 3, 130, 127), (2, 130, 40, 33), (1, 515, 9, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_forward_agrees_with_the_oracle_in_float64(
    device: str, shape: tuple[int, int, int, int], memory_format: torch.memory_format
) -> None:
    x, w1, w2 = make(shape, device)
    x = x.contiguous(memory_format=memory_format)
    assert_agree(native(x, w1, w2, 4), oracle(x, w1, w2, 4), TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_narrow_dtypes_are_summed_in_float32(
    device: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    x, w1, w2 = make((3, 24, 33, 31), device, dtype)
    x = x.contiguous(memory_format=memory_format)
    got = native(x, w1, w2, 4)
    assert {tensor.dtype for tensor in got} == {torch.float32}
    assert_agree(got, oracle(x, w1, w2, 4), TOLERANCE[dtype])


@pytest.mark.parametrize("weights", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_weights_may_have_another_dtype_than_x(device: str, dtype: torch.dtype, weights: torch.dtype) -> None:
    x, w1, w2 = make((2, 12, 6, 5), device, dtype)
    w1, w2 = w1.to(weights), w2.to(torch.float32)
    tolerance = TOLERANCE[dtype] if weights != torch.float64 else 2e-6
    assert_agree(native(x, w1, w2, 4), oracle(x, w1, w2, 4), tolerance)


@pytest.mark.parametrize("scale_activation", list(KINDS))
@pytest.mark.parametrize("num_bases", [0, 1, 4, 9], ids=lambda k: f"K={k}")
def test_every_split_of_the_outputs_agrees(device: str, num_bases: int, scale_activation: str) -> None:
    # Weights large enough that the hard gate meets both of its corners.
    x, w1, w2 = make((5, 6, 4, 4), device)
    w2 = 3 * w2
    got = native(x, w1, w2, num_bases, scale_activation=scale_activation)
    assert got[0].shape == (5, num_bases) and got[1].shape == (5, 9 - num_bases)
    assert_agree(got, oracle(x, w1, w2, num_bases, scale_activation=scale_activation), TOLERANCE[torch.float64])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nchw": lambda x: x,
    "nhwc": lambda x: x.contiguous(memory_format=torch.channels_last),
    "channels of nchw": lambda x: x[:, 2:-3],
    "channels of nhwc": lambda x: x.contiguous(memory_format=torch.channels_last)[:, 2:-3],
    "samples": lambda x: x[::2],
    "rows": lambda x: x[:, :, 1:-2],
    "columns": lambda x: x[..., 1:-2],
    "columns of nhwc": lambda x: x.contiguous(memory_format=torch.channels_last)[..., 1:-2],
    "transposed": lambda x: x.transpose(2, 3),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "expanded": lambda x: x[:, :, :1, :1].expand_as(x),
    "one column": lambda x: x[..., 3:4],
    "one row of nhwc": lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 3:4],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_every_memory_layout_agrees(device: str, layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](make((4, 21, 9, 10), device, dtype)[0])
    _, w1, w2 = make((4, x.shape[1], 1, 1), device, dtype)
    assert_agree(native(x, w1, w2, 4), oracle(x, w1, w2, 4), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "channels of nchw", "channels of nhwc", "samples", "transposed"])
def test_the_usual_layouts_are_read_without_a_copy(device: str, layout: str) -> None:
    x = LAYOUTS[layout](make((4, 21, 9, 10), device)[0])
    _, w1, w2 = make((4, x.shape[1], 1, 1), device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        native(x, w1, w2, 4)
    clones = [event for event in profile.events() if event.name == "aten::clone"]
    copies = [event for event in clones if list(x.shape) in event.input_shapes]
    assert len(copies) == (1 if layout == "transposed" else 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_value_is_read_exactly(device: str, dtype: torch.dtype) -> None:
    values = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).to(device)
    one, tau = torch.ones(1, 1, device=device), torch.ones((), device=device)
    columns = values.view(512, 128, 1, 1)
    w1 = torch.ones(1, 128, device=device)
    for x in (columns, columns.contiguous(memory_format=torch.channels_last)):
        pooled = torch.ops.dynconv.coefficients_native_forward(x, w1, one, tau, 1, 0)[2]
        torch.testing.assert_close(pooled.flatten(), values.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_the_mean_of_a_million_pixels_keeps_its_digits(device: str, memory_format: torch.memory_format) -> None:
    x = torch.rand(1, 2, 1000, 1000, generator=torch.Generator().manual_seed(0)).to(device) + 100
    x = x.contiguous(memory_format=memory_format)
    w1, w2, tau = (torch.ones(shape, device=device) for shape in ((1, 2), (1, 1), ()))
    pooled = torch.ops.dynconv.coefficients_native_forward(x, w1, w2, tau, 1, 0)[2]
    # Half a unit in the last place of 100, on a GPU a few of them: its sums are float32 throughout.
    tolerance = 4e-6 if device == "cpu" else 1e-4
    torch.testing.assert_close(pooled.double(), x.double().mean((2, 3)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale_activation", list(KINDS))
@pytest.mark.parametrize("num_bases", [0, 4, 9], ids=lambda k: f"K={k}")
def test_gradients_agree_with_the_oracle(device: str, num_bases: int, scale_activation: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in make((6, 7, 5, 3), device)]
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(6, 9, generator=generator, dtype=torch.float64).to(device)
    gradients = []
    for compute in (native, oracle):
        outputs = torch.cat(compute(*inputs, num_bases, scale_activation=scale_activation), dim=1)
        gradients.append(torch.autograd.grad(outputs, inputs, upstream))
    assert_agree(*gradients, TOLERANCE[torch.float64])


# More weights in the first layer than one block takes on CUDA: there the whole grid shares them out. One chunk of
# pixels and several; samples and hidden units that fill no tile; more bases than a warp has lanes.
LARGE_BRANCHES = [
    {"shape": (5, 1030, 3, 3), "hidden": 17, "outputs": 73, "num_bases": 4},
    {"shape": (1, 600, 40, 17), "hidden": 29, "outputs": 45, "num_bases": 41},
    {"shape": (3, 1030, 9, 16), "hidden": 259, "outputs": 3, "num_bases": 0},
]


@pytest.mark.parametrize("branch", LARGE_BRANCHES, ids=lambda branch: str(branch["shape"]))
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_large_branch_agrees_with_the_oracle(device: str, branch: dict, memory_format: torch.memory_format) -> None:
    branch = dict(branch)
    shape, num_bases = branch.pop("shape"), branch.pop("num_bases")
    x, w1, w2 = make(shape, device, **branch)
    # Logits of order one: a saturated softmax has no gradient to compare.
    inputs = [t.requires_grad_() for t in (x.contiguous(memory_format=memory_format), w1 / 30, w2 / 5)]
    upstream = torch.randn(shape[0], branch["outputs"], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for compute in (native, oracle):
        outputs = torch.cat(compute(*inputs, num_bases), dim=1)
        found.append((outputs.detach(), *torch.autograd.grad(outputs, inputs, upstream.to(device))))
    assert_agree(*found, TOLERANCE[torch.float64])


@pytest.mark.parametrize("part", [0, 1], ids=["pi", "s"])
def test_a_part_without_a_gradient_counts_as_zero(device: str, part: int) -> None:
    inputs = [tensor.requires_grad_() for tensor in make((6, 7, 5, 3), device)]
    upstream = torch.randn(6, 4 + part, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    found = [torch.autograd.grad(compute(*inputs, 4)[part], inputs, upstream) for compute in (native, oracle)]
    assert_agree(*found, TOLERANCE[torch.float64])


@pytest.mark.parametrize("weights", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_gradients_have_the_dtypes_of_their_tensors(device: str, dtype: torch.dtype, weights: torch.dtype) -> None:
    x, w1, w2 = make((3, 12, 6, 5), device, dtype)
    inputs = [t.detach().requires_grad_() for t in (x, w1.to(weights), w2.to(torch.float32))]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    gradients = [
        torch.autograd.grad(sum((t * t).sum() for t in compute(*given, 4)), given)
        for compute, given in ((native, inputs), (oracle, exact))
    ]
    for one, other, tensor in zip(*gradients, inputs, strict=True):
        assert one.dtype == tensor.dtype
        step = max(torch.finfo(tensor.dtype).eps, 1e-6)
        torch.testing.assert_close(one.double(), other, rtol=step, atol=step * other.abs().max().item())


@pytest.mark.parametrize("shape", [(2, 64, 40, 33), (5, 1030, 7, 7)], ids=str)
def test_two_runs_give_the_same_bits(device: str, shape: tuple[int, int, int, int]) -> None:
    inputs = [t.requires_grad_() for t in make(shape, device, torch.float32, outputs=70, hidden=33)]
    runs = []
    for _ in range(3):
        outputs = native(*inputs, 4)
        runs.append((*outputs, *torch.autograd.grad(torch.cat(outputs, dim=1).square().sum(), inputs)))
    for other in runs[1:]:
        assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))


def test_gradients_in_float32_agree_over_a_large_batch(device: str) -> None:
    inputs = make((70, 130, 3, 3), device, torch.float32, outputs=140, hidden=33)
    for tensor in inputs:
        tensor.requires_grad_()
    upstream = torch.randn(70, 140, generator=torch.Generator().manual_seed(2)).to(device)
    gradients = []
    for compute in (native, oracle):
        outputs = torch.cat(compute(*inputs, 4), dim=1)
        gradients.append(torch.autograd.grad(outputs, inputs, upstream.to(outputs.dtype)))
    for got, expected in zip(*gradients, strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close((got / scale).double(), expected.double() / scale, rtol=0, atol=5e-6)


def test_the_hard_gate_has_no_slope_at_its_corners(device: str) -> None:
    x, w1, w2 = (torch.ones(shape, dtype=torch.float64, device=device) for shape in ((1, 1, 1, 1), (1, 1), (3, 1)))
    w2 = (w2 * w2.new_tensor([[-3.0], [0.0], [3.0]])).requires_grad_()
    _, s = native(x, w1, w2, 0, scale_activation="hard")
    torch.testing.assert_close(s.flatten(), s.new_tensor([0.0, 1.0, 2.0]))
    (gradient,) = torch.autograd.grad(s.sum(), w2)
    torch.testing.assert_close(gradient.flatten(), s.new_tensor([0.0, 1 / 3, 0.0]))


@pytest.mark.parametrize("backend", ["native", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_sigmoid_keeps_its_slope_where_it_is_saturated(device: str, dtype: torch.dtype, backend: str) -> None:
    # Taken from s, or from sigmoid(z) near 1, the slope exp(-z) would be a difference of numbers that agree in most
    # of their digits: at z = 10 three would be left of float32's seven, at 17 none.
    z = torch.cat([torch.linspace(-30, 30, 241), torch.tensor([-80.0, 80.0])]).to(device, dtype)
    x, w1 = torch.ones(1, 1, 1, 1, dtype=dtype, device=device), torch.ones(1, 1, dtype=dtype, device=device)
    w2 = z[:, None].clone().requires_grad_()
    _, s = coefficients(x, w1, w2, num_bases=0, num_scales=len(z), backend=backend)
    assert s is not None
    torch.testing.assert_close(s[0].double(), 1 + z.double().sigmoid(), rtol=2 * torch.finfo(dtype).eps, atol=0)
    (slope,) = torch.autograd.grad(s.sum(), w2)
    exact = z.double().sigmoid() * (-z.double()).sigmoid()
    error = (slope[:, 0].double() / exact - 1).abs().max()
    assert error < (1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("scale_activation", list(KINDS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_nan_reaches_every_output_of_its_sample_and_no_other(
    device: str, dtype: torch.dtype, memory_format: torch.memory_format, scale_activation: str
) -> None:
    x, w1, w2 = make((3, 40, 9, 9), device, dtype)
    x[1, 17, 4, 5] = float("nan")
    x = x.contiguous(memory_format=memory_format)
    for output in native(x, w1, w2, 4, scale_activation=scale_activation):
        assert output[1].isnan().all()
        assert output[[0, 2]].isfinite().all()


def test_a_nan_reaches_the_gradients(device: str) -> None:
    x, w1, w2 = make((2, 3, 4, 4), device)
    x[0, 0, 0, 0] = float("nan")
    for tensor in (x, w1, w2):
        tensor.requires_grad_()
    gradients = torch.autograd.grad(torch.cat(native(x, w1, w2, 4), dim=1).sum(), (x, w1, w2))
    assert gradients[0][0].isnan().all() and gradients[0][1].isfinite().all()
    assert gradients[1].isnan().all() and gradients[2].isnan().all()


def test_large_logits_do_not_overflow(device: str) -> None:
    x, w1, w2 = make((4, 3, 2, 2), device, torch.float32)
    x, w1 = x.abs(), w1.abs()
    got, expected = native(x, w1, 1e4 * w2, 4, temperature=0.1), oracle(x, w1, 1e4 * w2, 4, temperature=0.1)
    assert_agree(got, expected, 1e-6)


def test_an_empty_batch_gives_empty_outputs_and_zero_gradients(device: str) -> None:
    _, w1, w2 = (tensor.requires_grad_() for tensor in make((1, 4, 3, 3), device))
    x = torch.zeros(0, 4, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    pi, s = native(x, w1, w2, 4)
    assert pi.shape == (0, 4) and s.shape == (0, 5)
    dx, dw1, dw2 = torch.autograd.grad(pi.sum() + s.sum(), (x, w1, w2))
    assert dx.shape == x.shape
    assert torch.equal(dw1, torch.zeros_like(w1)) and torch.equal(dw2, torch.zeros_like(w2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"x": a["x"][0]}, "x must have shape"),
        (lambda a: a | {"x": a["x"].int()}, "x must be float32"),
        (lambda a: a | {"w1": a["w1"][:, 1:]}, "w1 must have shape"),
        (lambda a: a | {"w2": a["w2"][:, 1:]}, "w2 must have shape"),
        (lambda a: a | {"num_bases": 10}, "num_bases is 10"),
        (lambda a: a | {"num_bases": -1}, "num_bases is -1"),
        (lambda a: a | {"scale_kind": 2}, "scale_kind is 2"),
        (lambda a: a | {"temperature": a["temperature"].expand(2)}, "temperature must hold one number"),
    ],
)
def test_arguments_that_would_read_beyond_memory_are_refused(
    device: str, change: Callable[[dict], dict], message: str
) -> None:
    x, w1, w2 = make((2, 4, 3, 3), device)
    tau = torch.ones((), dtype=torch.float64, device=device)
    arguments = change({"x": x, "w1": w1, "w2": w2, "temperature": tau, "num_bases": 4, "scale_kind": 0})
    with pytest.raises(RuntimeError, match=message):
        torch.ops.dynconv.coefficients_native_forward(*arguments.values())


def test_a_gradient_in_no_floating_dtype_is_refused(device: str) -> None:
    x, w1, w2 = make((2, 4, 3, 3), device)
    tau = torch.ones((), dtype=torch.float64, device=device)
    saved = torch.ops.dynconv.coefficients_native_forward(x, w1, w2, tau, 4, 0)
    with pytest.raises(RuntimeError, match="x must be float32"):
        torch.ops.dynconv.coefficients_native_backward(None, saved[1], *saved, w1, w2, tau, 4, 0, 9, torch.int8)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_the_result_does_not_depend_on_the_number_of_threads(memory_format: torch.memory_format) -> None:
    if backends.native_missing("cpu"):
        pytest.skip(f"no native operators for the CPU: {backends.native_missing('cpu')}")
    x, w1, w2 = make((2, 64, 96, 96), "cpu", torch.float32, outputs=68)
    x = x.contiguous(memory_format=memory_format)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(native(x, w1, w2, 4))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0]) and torch.equal(results[0][1], other[1])


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc, which only Linux has")
def test_the_pooling_runs_on_several_threads() -> None:
    if backends.native_missing("cpu"):
        pytest.skip(f"no native operators for the CPU: {backends.native_missing('cpu')}")
    program = """
import os, torch, dynconv.functional
x, w1, w2, tau = torch.empty(8, 64, 64, 64), torch.empty(4, 64), torch.empty(8, 4), torch.ones(())
torch.set_num_threads(3)
before = len(os.listdir("/proc/self/task"))
torch.ops.dynconv.coefficients_native_forward(x, w1, w2, tau, 4, 0)
print(len(os.listdir("/proc/self/task")) - before)
"""
    started = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert int(started) == 2

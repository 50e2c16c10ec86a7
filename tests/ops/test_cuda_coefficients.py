"""The CUDA ``coefficients`` beside test_native_coefficients.py: launches, streams, graphs, devices, large tensors."""

from __future__ import annotations

import pytest
import torch
from ops.branch_cases import make, native
from torch import Tensor

from dynconv import backends
from dynconv.nn import DynamicConv2d

pytestmark = pytest.mark.gpu

LARGE = (8, 256, 28, 28)
WAYS = {"block per sample": {"hidden": 16}, "whole grid": {"hidden": 128}}


@pytest.fixture(autouse=True)
def operators() -> None:
    if reason := backends.native_missing("cuda"):
        explain = pytest.fail if backends.build_record().get("mode") == "cuda" else pytest.skip
        explain(f"no native operators for CUDA: {reason}")


@pytest.mark.parametrize("way", WAYS)
def test_each_direction_is_one_launch(way: str) -> None:
    x, w1, w2 = make(LARGE, "cuda", torch.bfloat16, outputs=260, **WAYS[way])
    inputs = [t.requires_grad_() for t in (x.contiguous(memory_format=torch.channels_last), w1, w2)]
    tau = torch.ones((), device="cuda")
    operators = torch.ops.dynconv
    forward = operators.coefficients_native_forward(*inputs, tau, 4, 0)
    gradients = [torch.ones_like(part) for part in forward[:2]]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        pi, s, _, _ = operators.coefficients_native_forward(*inputs, tau, 4, 0)
        torch.autograd.grad((pi, s), inputs, gradients)
        torch.cuda.synchronize()
    launches = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(launches) == 2, launches


@pytest.mark.parametrize("way", WAYS)
def test_a_cuda_graph_replays_new_inputs_and_a_new_temperature(way: str) -> None:
    inputs = [t.requires_grad_() for t in make(LARGE, "cuda", torch.float32, outputs=260, **WAYS[way])]
    tau = torch.ones((), device="cuda")
    upstream = torch.randn(8, 260, generator=torch.Generator().manual_seed(5)).cuda()

    def step() -> tuple[Tensor, ...]:
        pi, s, _, _ = torch.ops.dynconv.coefficients_native_forward(*inputs, tau, 4, 0)
        return pi, s, *torch.autograd.grad(torch.cat([pi, s], dim=1), inputs, upstream)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for temperature in (1.0, 0.3):
        with torch.no_grad():
            inputs[0].normal_()
            tau.fill_(temperature)
        graph.replay()
        for got, expected in zip(captured, step(), strict=True):
            assert torch.equal(got, expected)


def test_side_streams_run_beside_each_other() -> None:
    streams = [torch.cuda.Stream() for _ in range(4)]
    problems = [make((4, 64 + 8 * i, 28, 28), "cuda", torch.float32, outputs=68) for i in range(4)]
    expected = [native(*problem, 4) for problem in problems]
    torch.cuda.synchronize()
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in streams]
    for _ in range(20):
        for stream, problem, results in zip(streams, problems, found, strict=True):
            with torch.cuda.stream(stream):
                results.append(native(*problem, 4))
    torch.cuda.synchronize()
    for results, one in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for result in results for a, b in zip(result, one, strict=True))


def test_every_device_computes_on_its_own() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    problem = make((4, 64, 28, 28), "cuda:0", torch.float32, outputs=68)
    expected = native(*problem, 4)
    for index in range(1, torch.cuda.device_count()):
        # The current device stays 0.
        got = native(*(t.to(f"cuda:{index}") for t in problem), 4)
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_offsets_beyond_32_bits_reach_the_last_sample(memory_format: torch.memory_format) -> None:
    shape = (33, 1024, 256, 256)
    # Two copies of x at once, of two bytes an element, while the memory format changes.
    needed = 4 * 33 * 2**26 + 2**28
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.1f} GiB of free GPU memory")
    x = torch.zeros(shape, dtype=torch.bfloat16, device="cuda").contiguous(memory_format=memory_format)
    x[-1] = 1
    w1, w2, tau = torch.ones(1, 1024, device="cuda"), torch.ones(1, 1, device="cuda"), torch.ones((), device="cuda")
    pooled = torch.ops.dynconv.coefficients_native_forward(x, w1, w2, tau, 1, 0)[2]
    assert torch.equal(pooled, (torch.arange(33, device="cuda") == 32).float()[:, None].expand(33, 1024))


def test_auto_takes_the_native_operator_and_the_context_may_be_another_tensor() -> None:
    layer = DynamicConv2d(16, 24, 3, padding=1, context_channels=64).cuda()
    x, context = torch.randn(4, 16, 14, 14, device="cuda"), torch.randn(4, 64, 28, 28, device="cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y = layer(x, context)
    assert "dynconv::coefficients_native_forward" in {event.name for event in profile.events()}
    # Not by cudnn.flags, which raises wherever the newer switch says otherwise than the older one.
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    try:
        y = layer(x, context)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    expected = layer.double()(x.double(), context.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)

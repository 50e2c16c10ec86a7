"""The mixture of kernels: against the formula, and as the twin of timm's layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynconv.nn import CondConv2d, from_condconv

GEOMETRIES: list[dict[str, Any]] = [
    {"padding": ""},
    {"padding": 1, "bias": True},
    {"kernel_size": 5, "stride": 2, "padding": "same", "bias": True},
    {"kernel_size": 3, "stride": 2, "padding": "same", "groups": 8},
    {"kernel_size": 3, "dilation": 2, "padding": "same", "groups": 2},
    {"kernel_size": 4, "stride": 3, "padding": "same", "dilation": 2},
    {"kernel_size": (1, 3), "stride": (1, 2), "padding": (0, 1), "bias": True},
    {"kernel_size": 1, "padding": "valid"},
]


def timms(**geometry: Any) -> nn.Module:
    layers = pytest.importorskip("timm.layers", reason="the twin of timm's CondConv2d")
    torch.manual_seed(0)
    return layers.CondConv2d(8, 16, **{"kernel_size": 3, "num_experts": 3} | geometry)


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 8, 11, 14, generator=generator, dtype=torch.float64).to(dtype)
    routing = torch.rand(3, 3, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(), routing.requires_grad_()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_twin_gives_timms_outputs_and_gradients(geometry: dict[str, Any]) -> None:
    original = timms(**geometry)
    twin = from_condconv(original)
    with torch.no_grad():
        x, routing = inputs(torch.float32)
        torch.testing.assert_close(twin(x, routing), original(x, routing), rtol=1e-5, atol=1e-5)
    original, (x, routing) = original.double(), inputs(torch.float64)
    twin = from_condconv(original)
    y, expected = twin(x, routing), original(x, routing)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    leaves = [x, routing, *original.parameters()]
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for own, wanted in zip(
        torch.autograd.grad(y, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(own, wanted, rtol=1e-10, atol=1e-10)


def test_the_parameters_are_taken_over_and_state_dicts_go_both_ways() -> None:
    original = timms(bias=True).eval()
    twin = from_condconv(original)
    assert twin.weight is original.weight and twin.bias is original.bias and not twin.training
    fresh = CondConv2d(8, 16, 3, bias=True, num_experts=3)
    fresh.load_state_dict(original.state_dict())
    original.load_state_dict(CondConv2d(8, 16, 3, bias=True, num_experts=3).state_dict())
    assert not torch.equal(fresh.weight, original.weight)


def test_each_sample_is_convolved_with_its_own_mixture() -> None:
    torch.manual_seed(0)
    layer = CondConv2d(8, 4, 3, padding=1, groups=2, bias=True, num_experts=3).double()
    x, routing = inputs(torch.float64)
    kernels = torch.einsum("bk,kp->bp", routing, layer.weight).view(3, 4, 4, 3, 3)
    biases = routing @ layer.bias
    expected = [F.conv2d(x[b : b + 1], kernels[b], biases[b], padding=1, groups=2) for b in range(3)]
    torch.testing.assert_close(layer(x, routing), torch.cat(expected))


def test_a_new_layer_starts_like_a_convolution() -> None:
    layer = CondConv2d(8, 4, 5, groups=2, bias=True, num_experts=40)
    assert layer.weight.shape == (40, 4 * 4 * 25) and layer.bias.shape == (40, 4)
    for drawn in (layer.weight, layer.bias):
        assert 0.09 < drawn.abs().max() <= 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "num_experts must be >= 1, got 0"),
        ({"groups": 3}, r"groups must divide in_channels \(8\)"),
        ({"padding": "full"}, "padding must be .* got 'full'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CondConv2d(8, 4, 3, **options)


def test_routing_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"routing must be .*\(B, 4\), got \(2, 3\)"):
        CondConv2d(8, 4, 3)(torch.zeros(2, 8, 5, 5), torch.ones(2, 3))


def test_what_is_not_timms_layer_or_carries_hooks_is_refused() -> None:
    with pytest.raises(TypeError, match=r"timm.layers.CondConv2d, got torch.nn.modules.conv.Conv2d"):
        from_condconv(nn.Conv2d(3, 4, 3))
    original = timms()
    original.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks"):
        from_condconv(original)

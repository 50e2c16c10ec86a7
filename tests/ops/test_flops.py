"""torch's FLOP counter counts what a dynamic convolution takes with one kernel for each sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynconv import backends
from dynconv.functional import dynamic_conv2d
from dynconv.nn import DynamicConv2d

B, INPUTS, OUTPUTS, SIDE = 3, 4, 6, 5
CONVOLUTION = 2 * B * OUTPUTS * INPUTS * 9 * SIDE * SIDE


def counted(*, weight: bool, kernel: int | None, scale: bool, gradients: bool) -> int:
    def tensor(wanted: bool, *shape: int) -> torch.Tensor | None:
        return torch.randn(shape).requires_grad_(gradients) if wanted else None

    x = torch.randn(B, INPUTS, SIDE, SIDE).requires_grad_(gradients)
    with FlopCounterMode(display=False) as counter:
        y = dynamic_conv2d(
            x,
            tensor(weight, OUTPUTS, INPUTS, 3, 3),
            scale=tensor(scale, B, OUTPUTS),
            basis=tensor(kernel is not None, 2 * OUTPUTS, INPUTS, kernel or 1, kernel or 1),
            coefficients=tensor(kernel is not None, B, 2),
            padding=1,
        )
        if gradients:
            y.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    ("weight", "kernel", "scale", "taps"),
    [(True, 1, False, 1), (True, 3, True, 9), (False, 3, False, 9), (True, None, True, 0)],
    ids=["subspace", "combined", "mixture", "channel"],
)
def test_one_kernel_for_each_sample(weight: bool, kernel: int | None, scale: bool, taps: int, gradients: bool) -> None:
    aggregation = 2 * B * 2 * OUTPUTS * INPUTS * taps
    expected = CONVOLUTION + aggregation
    if gradients:
        # Of x, and of all parameters from one product of gradient and input; the aggregation for x, Phi and pi.
        expected += 2 * CONVOLUTION + 3 * aggregation
    assert counted(weight=weight, kernel=kernel, scale=scale, gradients=gradients) == expected


def test_gradients_that_nobody_asks_for_are_not_counted() -> None:
    layer = DynamicConv2d(INPUTS, OUTPUTS, 3, padding=1, bias=False).requires_grad_(False)
    pi = torch.rand(B, 4)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(B, INPUTS, SIDE, SIDE, requires_grad=True), coefficients=pi).sum().backward()
    assert counter.get_total_flops() == 2 * (CONVOLUTION + 2 * B * 4 * OUTPUTS * INPUTS)


@pytest.mark.parametrize("native", [False, True])
def test_a_layer_beside_the_static_one(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its branch has as many with eager operators as with the native one."""
    if native and backends.native_missing("cpu"):
        pytest.skip(f"native CPU operators: {backends.native_missing('cpu')}")
    if not native:
        monkeypatch.setattr("dynconv.ops.coefficients._wants_native", lambda *_: False)
    layer, static = DynamicConv2d(INPUTS, OUTPUTS, 3, padding=1), nn.Conv2d(INPUTS, OUTPUTS, 3, padding=1)
    flops = []
    for module in (layer, static):
        with FlopCounterMode(display=False) as counter:
            module(torch.randn(B, INPUTS, SIDE, SIDE, requires_grad=True)).sum().backward()
        flops.append(counter.get_total_flops())
    branch = 2 * B * (layer.branch.w1.numel() + layer.branch.w2.numel())
    assert flops[0] - flops[1] == 3 * branch + 4 * 2 * B * 4 * OUTPUTS * INPUTS

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from dynconv.nn import GradientReversal, gradient_reversal


def reversed_gradient(function, x: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    (function(leaf) ** 2).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_forward_is_the_identity_and_backward_multiplies_by_minus_weight() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(GradientReversal(0.5)(x), x, rtol=0, atol=0)
    torch.testing.assert_close(reversed_gradient(GradientReversal(0.5), x), -0.5 * 2 * x, rtol=0, atol=0)
    torch.testing.assert_close(
        reversed_gradient(lambda y: gradient_reversal(y, 0.3), x), -0.3 * 2 * x, rtol=1e-15, atol=0
    )
    torch.testing.assert_close(reversed_gradient(lambda y: gradient_reversal(y, torch.tensor(3.0)), x), -3.0 * 2 * x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_gradient_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert reversed_gradient(GradientReversal(0.5), torch.randn(3, dtype=dtype)).dtype == dtype
    assert reversed_gradient(lambda y: gradient_reversal(y, 0.5), torch.randn(3, dtype=dtype)).dtype == dtype


def test_the_weight_follows_a_schedule_without_recompilation() -> None:
    module = GradientReversal(1.0)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    x = torch.randn(5, dtype=torch.float64)
    for weight in (1.0, 0.25, 4.0, 0.0):
        module.weight = weight
        assert module.weight == weight
        torch.testing.assert_close(reversed_gradient(compiled, x), -weight * 2 * x, rtol=0, atol=0)
    assert counter.frame_count == 1


def test_the_second_derivative_is_reversed_too() -> None:
    x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(GradientReversal(3.0)(x) ** 3, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    # first = -3 * 3 r(x)^2 with r the reversal, so its derivative passes r once more: (-3) * 6 x * (-3).
    assert second.item() == pytest.approx(9 * 6 * 2.0)


def test_the_weight_is_a_setting_and_not_in_the_state_dict() -> None:
    module = GradientReversal(0.5)
    assert not module.state_dict()
    assert not list(module.parameters())
    assert len(list(module.buffers())) == 1  # so that .to(device) moves it
    assert pickle.loads(pickle.dumps(module)).weight == copy.deepcopy(module).weight == 0.5


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="finite number, got"):
        GradientReversal(weight)
    module = GradientReversal()
    with pytest.raises(ValueError, match="finite number, got"):
        module.weight = weight

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dynconv.nn import CoefficientBranch


def test_the_branch_computes_the_papers_formula() -> None:
    branch = CoefficientBranch(40, 3, 5, reduction=8, temperature=2.0).double()
    with torch.no_grad():
        branch.w1.normal_()
        branch.w2.normal_()
    x = torch.randn(4, 40, 6, 5, dtype=torch.float64)
    z = F.relu(x.mean((2, 3)) @ branch.w1.T) @ branch.w2.T
    pi, s = branch(x)
    torch.testing.assert_close(pi, torch.softmax(z[:, :3] / 2.0, 1))
    torch.testing.assert_close(s, 1 + torch.sigmoid(z[:, 3:]))
    branch.scale_activation = "hard"
    torch.testing.assert_close(branch(x)[1], F.relu6(z[:, 3:] + 3) / 3)


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(3, 16, 4), (64, 16, 4), (256, 16, 16), (256, 8, 32)])
def test_the_hidden_width_is_the_reduced_one_and_at_least_four(channels: int, reduction: int, hidden: int) -> None:
    branch = CoefficientBranch(channels, 4, 0, reduction=reduction)
    assert branch.w1.shape == (hidden, channels)
    assert branch.w2.shape == (4, hidden)


def test_layers_are_drawn_with_a_deviation_of_a_hundredth() -> None:
    torch.manual_seed(0)
    branch = CoefficientBranch(1024, 4, 1024)
    for weight in (branch.w1, branch.w2):
        assert weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert abs(weight.mean().item()) < 1e-4


def test_a_kaiming_start_keeps_the_logits_of_the_order_of_the_input() -> None:
    torch.manual_seed(0)
    branch = CoefficientBranch(1024, 4, 1024, init="kaiming")
    assert branch.w1.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    assert branch.w2.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    # A narrow branch as in a LeNet: uniform with the small normal start, and not so with this one.
    x = torch.rand(64, 24, 1, 1)
    spread = {init: CoefficientBranch(24, 4, 0, init=init)(x)[0].std(dim=0).max() for init in ("normal", "kaiming")}
    assert spread["normal"] < 1e-4 and spread["kaiming"] > 1e-2


def test_a_part_of_size_zero_is_none() -> None:
    x = torch.randn(2, 8, 3, 3)
    pi, s = CoefficientBranch(8, 4, 0)(x)
    assert pi is not None and pi.shape == (2, 4) and s is None
    pi, s = CoefficientBranch(8, 0, 6)(x)
    assert pi is None and s is not None and s.shape == (2, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_temperature_stays_exact_in_float32_when_the_module_changes_dtype(dtype: torch.dtype) -> None:
    branch = CoefficientBranch(8, 4, 0, temperature=1.3).to(dtype)
    assert branch.w1.dtype == dtype
    assert branch.temperature.dtype == torch.float32
    assert branch.temperature.item() == torch.tensor(1.3).item()
    pi, _ = branch(torch.randn(2, 8, 3, 3, dtype=dtype))
    assert pi is not None and pi.dtype == torch.promote_types(dtype, torch.float32)


def test_the_temperature_can_be_scheduled_and_is_in_the_state_dict() -> None:
    branch = CoefficientBranch(8, 4, 0, temperature=30.0)
    with torch.no_grad():
        branch.w1.normal_()
        branch.w2.normal_()
    x = torch.randn(2, 8, 3, 3)
    soft, _ = branch(x)
    branch.set_temperature(0.1)
    sharp, _ = branch(x)
    assert sharp.max() > 0.9 > 0.5 > soft.max()
    other = CoefficientBranch(8, 4, 0)
    other.load_state_dict(branch.state_dict())
    assert other.temperature.item() == torch.tensor(0.1).item()
    torch.testing.assert_close(other(x)[0], sharp, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels must be >= 1, got 0"),
        ({"num_bases": -1}, "num_bases must be >= 0, got -1"),
        ({"num_scales": -1}, "num_scales must be >= 0, got -1"),
        ({"num_bases": 0}, "both 0"),
        ({"reduction": 0}, "reduction must be >= 1, got 0"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be a finite number > 0, got nan"),
        ({"init": "xavier"}, "init must be one of .*'xavier'"),
        ({"scale_activation": "tanh"}, "scale_activation must be one of .*'tanh'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoefficientBranch(**{"in_channels": 8, "num_bases": 4, "num_scales": 0} | options)


def test_a_temperature_that_is_not_positive_is_refused_later_too() -> None:
    branch = CoefficientBranch(8, 4, 0)
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got -1"):
        branch.set_temperature(-1.0)
    assert branch.temperature.item() == 1.0

from __future__ import annotations

import pytest
import torch

from dynconv.ops.cost_model import choose_strategy
from dynconv.ops.problem import Problem

# Forward + backward of a full basis, K = 4, as ratios to the static convolution (fp32, two AVX-512 cores, torch 2.13):
# batch, Cin, Cout, side, kernel -> seconds of aggregate, loop, linear over those of nn.Conv2d.
MEASURED = {
    (16, 64, 64, 56, 3): {"aggregate": 1.07, "loop": 1.13, "linear": 6.0},
    (16, 128, 128, 28, 3): {"aggregate": 1.25, "loop": 1.33, "linear": 5.4},
    (16, 256, 256, 14, 3): {"aggregate": 4.7, "loop": 2.4, "linear": 5.1},
    (16, 512, 512, 7, 3): {"aggregate": 16.8, "loop": 7.3, "linear": 5.4},
    (128, 64, 64, 16, 5): {"aggregate": 4.7, "loop": 2.1, "linear": 5.6},
    (128, 64, 128, 8, 5): {"aggregate": 15.5, "loop": 4.5, "linear": 5.1},
}


def problem(shape: tuple[int, ...], basis: int, device: str = "meta") -> Problem:
    batch, inputs, outputs, side, kernel = shape
    return Problem(
        torch.empty(batch, inputs, side, side, device=device),
        torch.empty(outputs, inputs, kernel, kernel, device=device),
        None,
        None,
        torch.empty(4 * outputs, inputs, basis, basis, device=device),
        torch.empty(batch, 4, device=device),
        (1, 1),
        (kernel // 2, kernel // 2),
        (1, 1),
        1,
    )


@pytest.mark.parametrize("shape", MEASURED, ids=str)
def test_a_full_basis_gets_a_strategy_within_a_tenth_of_the_fastest_measured(shape: tuple[int, ...]) -> None:
    costs = MEASURED[shape]
    assert costs[choose_strategy(problem(shape, basis=shape[4], device="cpu"))] <= 1.1 * min(costs.values())


def test_a_pointwise_basis_is_split_off_but_for_one_sample() -> None:
    for shape in MEASURED:
        assert choose_strategy(problem(shape, basis=1)) == "split"
        assert choose_strategy(problem((1, *shape[1:]), basis=1, device="cpu")) in ("aggregate", "loop")


def test_small_problems_do_not_loop() -> None:
    assert choose_strategy(problem((128, 3, 16, 8, 5), basis=5, device="cpu")) == "aggregate"


def test_a_gpu_aggregates_where_each_kernel_serves_many_pixels() -> None:
    assert choose_strategy(problem((64, 64, 64, 56, 3), basis=3)) == "aggregate"
    assert choose_strategy(problem((64, 512, 512, 7, 3), basis=3)) == "linear"

"""The spectral penalty: its value, its exact gradient, ties, precision, and several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import forked

from dynconv.losses import spectral_penalty


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (1, 5), (6, 1)])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_penalty_is_the_sum_of_the_largest_squares(shape: tuple[int, int], count: int) -> None:
    features = random(*shape)
    values = sorted(torch.linalg.svdvals(features.detach()).tolist(), reverse=True)
    wanted = 0.0
    for value in values[:count]:
        wanted += value**2
    assert spectral_penalty(features, count).item() == pytest.approx(wanted, rel=1e-12)


def test_the_largest_value_is_what_power_iteration_finds() -> None:
    rows = random(6, 3).tolist()
    gram = [[sum(row[i] * row[j] for row in rows) for j in range(3)] for i in range(3)]
    vector = [1.0, 1.0, 1.0]
    for _ in range(500):
        product = [sum(gram[i][j] * vector[j] for j in range(3)) for i in range(3)]
        length = sum(value**2 for value in product) ** 0.5
        vector = [value / length for value in product]
    assert spectral_penalty(random(6, 3)).item() == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize(("shape", "count"), [((7, 4), 1), ((4, 7), 2), ((5, 5), 3)])
def test_the_gradient_is_exact(shape: tuple[int, int], count: int) -> None:
    assert torch.autograd.gradcheck(lambda f: spectral_penalty(f, count), random(*shape))
    features = random(*shape)
    (gradient,) = torch.autograd.grad(spectral_penalty(features, count), features)
    u, s, vh = torch.linalg.svd(features.detach(), full_matrices=False)
    wanted = torch.zeros_like(gradient)
    for i in range(count):
        wanted += 2 * s[i] * torch.outer(u[:, i], vh[i])
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_singular_values_have_a_subgradient(count: int) -> None:
    # Three equal values: automatic differentiation through the vectors of an SVD divides by their difference, zero.
    features = torch.eye(5, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(spectral_penalty(features, count), features)
    assert gradient.isfinite().all()
    # A subgradient of the sum of k largest squares at 1: 2 times a projection of rank k.
    torch.testing.assert_close(
        torch.linalg.svdvals(gradient), torch.tensor([2.0] * count + [0.0] * (3 - count)).double()
    )


def test_a_zero_matrix_and_an_empty_one_are_zero() -> None:
    for shape in ((4, 3), (0, 3)):
        features = torch.zeros(shape, requires_grad=True)
        loss = spectral_penalty(features)
        loss.backward()
        assert loss.item() == 0 and features.grad is not None and features.grad.isfinite().all()


def test_autocast_and_half_precision_compute_in_float32() -> None:
    features = random(32, 16).detach()
    wanted = spectral_penalty(features).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = spectral_penalty(features.float())
    # bfloat16 products are wrong by 1e-3 and more here.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    half = features.bfloat16()
    torch.testing.assert_close(spectral_penalty(half), spectral_penalty(half.double()).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_for_the_caller_to_see(value: float) -> None:
    features = random(4, 3).detach()
    features[1, 2] = value
    assert not spectral_penalty(features).isfinite()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features: expected \(B, F\), got \(3,\)"):
        spectral_penalty(torch.ones(3))
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        spectral_penalty(torch.ones(3, 2), 0)


def _share(rank: int, folder: Path) -> None:
    features = random(7, 4).detach()
    mine = (features[:3], features[3:])[rank].clone().requires_grad_()
    loss = spectral_penalty(mine, 2)
    loss.backward()
    torch.save((loss.detach(), mine.grad), folder / f"rank{rank}.pt")


def test_two_processes_have_the_penalty_of_all_rows(tmp_path: Path) -> None:
    features = random(7, 4)
    loss = spectral_penalty(features, 2)
    loss.backward()
    forked(_share, tmp_path)
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for found, _ in parts:
        torch.testing.assert_close(found, loss.detach(), rtol=1e-12, atol=0)
    # The mean of the processes' gradients is what trains, so each is the whole one's times their number.
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]) / 2, features.grad, rtol=1e-9, atol=1e-12)

"""Moment distances against their formulas, written out in loops, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import forked
from torch import Tensor

from dynconv.distributed import share_of
from dynconv.losses import moment_distances, released_moment_distance


def make(num_sources: int = 3, count: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Source features (11, 4) of domains in turns, and 6 target features; some of them negative."""
    generator = torch.Generator().manual_seed(num_sources)
    source = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    target = 1.5 * torch.randn(6, 4, dtype=torch.float64, generator=generator) + 0.5
    return source, torch.arange(count) % num_sources, target


def rows_of(source: Tensor, domains: Tensor, target: Tensor) -> list[list[list[float]]]:
    """The samples of each domain as lists, the target's last."""
    pairs = list(zip(source.tolist(), domains.tolist(), strict=True))
    return [[row for row, of in pairs if of == domain] for domain in range(int(domains.max()) + 1)] + [target.tolist()]


def mean_power(rows: list[list[float]], power: int) -> list[float]:
    return [sum(row[column] ** power for row in rows) / len(rows) for column in range(len(rows[0]))]


def distance(first: list[float], second: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5


@pytest.mark.parametrize("num_sources", [1, 2, 3])
@pytest.mark.parametrize("num_moments", [1, 2, 5])
def test_the_distance_is_the_papers(num_sources: int, num_moments: int) -> None:
    source, domains, target = make(num_sources)
    *rows, last = rows_of(source, domains, target)
    wanted = 0.0
    for power in range(1, num_moments + 1):
        moments = [mean_power(each, power) for each in rows]
        wanted += sum(distance(moment, mean_power(last, power)) for moment in moments) / num_sources
        between = [distance(moments[j], moments[i]) for i in range(num_sources) for j in range(i)]
        wanted += sum(between) / len(between) if between else 0.0
    found = moment_distances(source, domains, target, num_sources=num_sources, num_moments=num_moments)
    assert found.total().item() == pytest.approx(wanted, rel=1e-12)
    assert found.to_target.shape == (num_moments, num_sources)
    first = distance(mean_power(rows[0], 1), mean_power(last, 1))
    assert found.to_target[0, 0].item() == pytest.approx(first, rel=1e-12)


def test_the_gradient_is_that_of_the_numbers() -> None:
    source, domains, target = make()
    source.requires_grad_(), target.requires_grad_()
    for sources, function in (
        (3, lambda s, t: moment_distances(s, domains, t, num_sources=3, num_moments=3).total()),
        (4, lambda s, t: released_moment_distance(s, torch.arange(11) % 4, t, num_moments=3)),
    ):
        assert torch.autograd.gradcheck(function, (source, target)), sources


def test_alike_domains_have_no_distance_and_no_gradient() -> None:
    rows = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source, target = rows.repeat(4, 1).requires_grad_(), rows.clone().requires_grad_()
    domains = torch.arange(4).repeat_interleave(3)
    loss = moment_distances(source, domains, target, num_sources=4).total()
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (source, target)):
        assert torch.equal(gradient, torch.zeros_like(gradient))
    # Sample after sample, too; the fourth source is alone in being not centred.
    for gradient in torch.autograd.grad(released_moment_distance(source, domains, target), (source, target)):
        assert gradient.isfinite().all()


def test_a_source_without_a_sample_is_left_out() -> None:
    source, domains, target = make(2)
    source.requires_grad_()
    # The second of three has none.
    found = moment_distances(source, 2 * domains, target, num_sources=3, num_moments=2)
    wanted = moment_distances(source, domains, target, num_sources=2, num_moments=2)
    torch.testing.assert_close(found.total(), wanted.total(), rtol=1e-12, atol=0)
    assert found.has_target.tolist() == [True, False, True]
    assert found.has_between.tolist() == [False, True, False]
    assert torch.autograd.grad(found.total(), source)[0].isfinite().all()
    released = released_moment_distance(source, 2 * domains, target)
    assert torch.autograd.grad(released, source)[0].isfinite().all()
    none = moment_distances(source[:0], domains[:0], target, num_sources=3)
    assert none.total().item() == 0


def released_by_hand(rows: list[list[list[float]]], num_moments: int) -> float:
    """The released regulariser of the domains s1, s2, s3, s4 and t, deviation by deviation."""
    centred = []
    for domain, each in enumerate(rows):
        # The fourth source keeps its mean.
        means = [0.0] * 4 if domain == 3 else mean_power(each, 1)
        centred.append([[value - mean for value, mean in zip(row, means, strict=True)] for row in each])
    # Of the ten pairs (s4, s3) is missing and (s4, s2) there twice.
    pairs = [(0, 4), (1, 4), (2, 4), (3, 4), (0, 1), (1, 2), (2, 0), (3, 0), (3, 1), (3, 1)]
    total = 0.0
    for a, b in pairs:
        # No difference of means but of sample after sample.
        couples = zip(centred[a], centred[b], strict=False)
        total += sum(distance(x, y) ** 2 for x, y in couples) ** 0.5
        for power in range(2, num_moments + 1):
            total += distance(mean_power(centred[a], power), mean_power(centred[b], power))
    return total / 6


@pytest.mark.parametrize("num_moments", [1, 2, 5])
def test_the_released_distance_deviates_as_the_code_does(num_moments: int) -> None:
    source, domains, target = make(4)
    wanted = released_by_hand(rows_of(source, domains, target), num_moments)
    found = released_moment_distance(source, domains, target, num_moments=num_moments)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_the_released_distance_has_five_moments() -> None:
    source, domains, target = make(4)
    five = released_moment_distance(source, domains, target, num_moments=5)
    assert released_moment_distance(source, domains, target) == five
    assert five != released_moment_distance(source, domains, target, num_moments=2)


def test_half_precision_features_give_float32_distances() -> None:
    source, domains, target = make(4)
    halves = source.bfloat16(), target.bfloat16()
    found = moment_distances(halves[0], domains, halves[1], num_sources=4).total()
    assert found.dtype == torch.float32
    exact = moment_distances(halves[0].double(), domains, halves[1].double(), num_sources=4).total()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    assert released_moment_distance(halves[0], domains, halves[1]).dtype == torch.float32


def test_autocast_changes_nothing() -> None:
    source, domains, target = (each.float() if each.is_floating_point() else each for each in make(4))
    # Far from the origin: rounded to bfloat16 the domains are further apart than they are.
    source, target = (source + 30).requires_grad_(), target + 30

    def found(autocast: bool) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses = [
                moment_distances(source, domains, target, num_sources=4).total(),
                released_moment_distance(source, domains, target),
            ]
        return [*losses, *(torch.autograd.grad(loss, source)[0] for loss in losses)]

    for each, exact in zip(found(True), found(False), strict=True):
        assert torch.equal(each, exact)


def _half(rank: int, folder: Path) -> None:
    source, domains, target = make(4)
    # The first process has no sample of the last source, and another number of samples than the second.
    order = domains.argsort()
    source, domains = source[order].requires_grad_(), domains[order]
    part, own = share_of(11, rank, 2), share_of(6, rank, 2)
    loss = moment_distances(source[part], domains[part], target[own], num_sources=4).total()
    (gradient,) = torch.autograd.grad(loss, source)
    torch.save((loss.detach(), gradient), folder / f"{rank}.pt")


def test_two_processes_have_the_distance_of_the_whole_batch(tmp_path: Path) -> None:
    forked(_half, tmp_path)
    source, domains, target = make(4)
    order = domains.argsort()
    source, domains = source[order].requires_grad_(), domains[order]
    loss = moment_distances(source, domains, target, num_sources=4).total()
    (wanted,) = torch.autograd.grad(loss, source)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for each, _ in found:
        torch.testing.assert_close(each, loss.detach(), rtol=1e-12, atol=0)
    # Each process has the gradient of its own rows; the engine takes the mean over the processes.
    torch.testing.assert_close((found[0][1] + found[1][1]) / 2, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_moments": 0}, "num_moments: expected at least 1, got 0"),
        ({"num_sources": 0}, "num_sources: expected at least 1, got 0"),
        ({"num_sources": 2}, "domains: expected 0 to 1, for there are 2 sources; got 0 to 2"),
        ({"domains": torch.zeros(5, dtype=torch.int64)}, r"domains: expected \(11,\) as source, got \(5,\)"),
        ({"target": torch.zeros(6, 5)}, r"source, target: expected .* got \(11, 4\) and \(6, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    source, domains, target = make()
    given = {"source": source, "domains": domains, "target": target, "num_sources": 3} | change
    with pytest.raises(ValueError, match=message):
        moment_distances(**given)
    if "num_sources" not in change:
        given.pop("num_sources")
        with pytest.raises(ValueError, match=message):
            released_moment_distance(**given)

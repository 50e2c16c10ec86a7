"""Source-or-Not with distributions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, wasserstein_distance
from torch import Tensor

from dynconv.metrics.source_or_not import (
    LEVELS,
    Distributions,
    Pairs,
    call_domains,
    compare,
    descriptions,
    differences,
    disjoint_pairs,
    distributions,
    joined,
    several_pairings,
    share_right,
    shared_histogram,
)


def drawn(images: int, places: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """(images, 1, places) of one unit, images apart from each other."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(images, 1, 1, generator=generator)
    return own + shift + scale * torch.randn(images, 1, places, generator=generator)


def two_domains(images: int, places: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Distributions:
    """Of one unit: so many images of the source, then as many of the target, which is shifted and scaled."""
    parts = drawn(images, places, seed), drawn(images, places, seed + 1, shift, scale)
    return distributions(torch.cat(parts)).of_unit(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_distribution_is_its_quantiles_mean_and_deviation() -> None:
    activations = torch.randn(3, 2, 50, generator=generator()).square()
    found = distributions(activations)
    expected = np.quantile(activations.numpy(), np.linspace(0, 1, LEVELS), axis=2).transpose(1, 2, 0)
    np.testing.assert_allclose(found.quantiles.numpy(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.mean.numpy(), activations.numpy().mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(found.deviation.numpy(), activations.numpy().std(axis=2), rtol=1e-5)
    assert found.places == 50 and not found.constant().any()
    single = distributions(activations[..., :1])
    assert single.places == 1 and (single.deviation == 0).all()
    assert torch.equal(single.quantiles, activations[..., :1].expand(-1, -1, LEVELS))
    activations[:, 1] = 0.25
    assert distributions(activations).constant().tolist() == [False, True]
    # One image with another value is enough not to be constant.
    activations[2, 1] = 0.5
    assert not distributions(activations).constant().any()


def test_images_keep_their_order_and_the_fewest_places_count() -> None:
    activations = torch.randn(5, 2, 8, generator=generator())
    parts = [distributions(activations[:2]), distributions(activations[2:, :, :6])]
    found = joined(parts)
    assert found.places == 6 and torch.equal(found.mean, torch.cat([part.mean for part in parts]))
    assert torch.equal(found.of_unit(1).quantiles[3], parts[1].quantiles[1, 1])


@pytest.mark.parametrize(("sources", "targets", "quarter"), [(20, 20, 5), (11, 30, 2), (9, 4, 1)])
def test_pairs_are_balanced_and_no_image_is_twice(sources: int, targets: int, quarter: int) -> None:
    pairs = disjoint_pairs(sources, targets, generator())
    both = torch.cat([pairs.first, pairs.second])
    assert len(pairs.same) == 4 * quarter and len(both.unique()) == len(both) == len(pairs.images())
    of_source = pairs.first < sources, pairs.second < sources
    assert torch.equal(pairs.same, of_source[0] == of_source[1])
    kinds = [int((first & second).sum()) for first, second in (of_source, (~of_source[0], ~of_source[1]))]
    assert kinds == [quarter, quarter] and int((~pairs.same).sum()) == 2 * quarter
    # Which of two domains comes first tells nothing, nor does the place of a pair.
    assert int((of_source[0] & ~of_source[1]).sum()) == quarter
    if quarter == 5:
        assert pairs.same.tolist() != sorted(pairs.same.tolist(), reverse=True)
        again = disjoint_pairs(sources, targets, generator())
        assert torch.equal(pairs.first, again.first)
        assert not torch.equal(pairs.first, disjoint_pairs(sources, targets, generator(1)).first)


def test_pairs_need_four_images_of_a_side() -> None:
    with pytest.raises(ValueError, match="at least 4 of the source and of the target, got 9 and 3"):
        disjoint_pairs(9, 3, generator())


def test_several_pairings_differ() -> None:
    pairs = several_pairings(8, 8, generator())
    assert len(pairs.same) == 40 and int(pairs.same.sum()) == 20
    assert len({tuple(part.tolist()) for part in pairs.first.split(8)}) == 5


def test_a_shift_is_the_difference_of_all_but_the_deviations() -> None:
    values = torch.randn(1, 1, 400, generator=generator())
    found = distributions(torch.cat([values, values + 0.75])).of_unit(0)
    pair = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([False]))
    expected = [[0.75] * 10 + [0.0, 0.75]]
    np.testing.assert_allclose(differences(found, pair, 0.5), expected, atol=1e-6)
    assert descriptions(found, 0.5).shape == (2, 11)


def test_a_single_value_is_described_by_its_distance_from_the_centre_too() -> None:
    single = distributions(torch.tensor([[[2.0]], [[-1.0]]])).of_unit(0)
    assert descriptions(single, 0.5).tolist() == [[1.5, 1.5, 2.25], [-1.5, 1.5, 2.25]]
    pair = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([False]))
    assert differences(single, pair, 0.0).tolist() == [[3.0, 1.0, 3.0]]


def test_single_values_of_one_mean_and_two_spreads_are_told_apart_wherever_their_mean_lies() -> None:
    def values(seed: int) -> Distributions:
        spread = torch.tensor([1.0, 3.0]).repeat_interleave(400)
        return distributions((20 + spread * torch.randn(800, generator=generator(seed)))[:, None, None]).of_unit(0)

    learnt, judged = values(0), values(1)
    # The best threshold on |x| tells 74 % of N(0, 1) and N(0, 9), and a threshold on x none.
    assert ((torch.arange(800) < 400) == call_domains(learnt, 400, judged)).double().mean() > 0.69
    learnt_pairs, pairs = several_pairings(400, 400, generator(2)), disjoint_pairs(400, 400, generator(3))
    assert (compare(learnt, learnt_pairs, judged, pairs) == pairs.same).double().mean() > 0.56


def test_the_distance_is_wassersteins() -> None:
    values = torch.randn(2, 1, 5000, generator=generator())
    values[1] = 2 * values[1] + 1
    found = distributions(values).of_unit(0)
    pair = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([False]))
    expected = wasserstein_distance(values[0, 0].numpy(), values[1, 0].numpy())
    # Between 33 quantiles, the outermost of which are the extremes.
    assert differences(found, pair, 0.0)[0, -1] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("places", "shift", "scale"), [(100, 8.0, 1.0), (100, 0.0, 3.0), (1, 12.0, 1.0)])
def test_domains_that_lie_apart_are_told_apart(places: int, shift: float, scale: float) -> None:
    learnt, judged = (two_domains(40, places, seed, shift, scale) for seed in (0, 10))
    learnt_pairs, pairs = several_pairings(40, 40, generator()), disjoint_pairs(40, 40, generator(1))
    calls = call_domains(learnt, 40, judged)
    assert calls.dtype == torch.bool and ((torch.arange(80) < 40) == calls).double().mean() > 0.97
    same = compare(learnt, learnt_pairs, judged, pairs)
    assert (same == pairs.same).double().mean() > 0.97


def test_nothing_is_told_where_there_is_no_difference_even_of_images_that_were_learnt() -> None:
    learnt, judged = (two_domains(60, 3, seed) for seed in (0, 10))
    learnt_pairs, pairs = several_pairings(60, 60, generator()), disjoint_pairs(60, 60, generator(1))
    assert abs(((torch.arange(120) < 60) == call_domains(learnt, 60, judged)).double().mean() - 0.5) < 0.15
    assert abs((compare(learnt, learnt_pairs, judged, pairs) == pairs.same).double().mean() - 0.5) < 0.15


def test_a_constant_unit_is_right_by_chance_exactly() -> None:
    constant = distributions(torch.full((80, 1, 9), 0.5)).of_unit(0)
    pairs = disjoint_pairs(40, 40, generator())
    calls = call_domains(constant, 40, constant)
    assert ((torch.arange(80) < 40) == calls).double().mean() == 0.5
    answers = compare(constant, several_pairings(40, 40, generator(1)), constant, pairs)
    assert (answers == pairs.same).double().mean() == 0.5


def test_a_side_with_more_images_is_not_the_likelier_answer() -> None:
    learnt = distributions(torch.cat([drawn(90, 1, 0), drawn(10, 1, 1, 2.0)])).of_unit(0)
    calls = call_domains(learnt, 90, two_domains(200, 1, 5, 2.0))
    assert abs(calls.double().mean() - 0.5) < 0.12


def test_the_interval_is_of_questions_and_not_of_their_units() -> None:
    right = torch.tensor([[True, True, False, True], [True, False, False, True]])
    found = share_right(right)
    # Both ends are where the share lies 1.96 standard deviations of a share of 4 questions away.
    for end in found[1:]:
        assert abs(found.mean - end) == pytest.approx(1.96 * (end * (1 - end) / 4) ** 0.5)
    assert found.mean == 0.625 and found.low < 0.625 < found.high
    # As many units more that answer alike make nothing surer.
    assert share_right(right.repeat(10, 1)) == pytest.approx(found)
    assert share_right(right.repeat(1, 100)).low > found.low
    for empty in (right[:0], right[:, :0]):
        with pytest.raises(ValueError, match="expected units and questions, got"):
            share_right(empty)


@pytest.mark.parametrize("units", [1, 7])
def test_all_right_of_a_few_questions_is_not_certain(units: int) -> None:
    right = torch.ones(units, 8, dtype=torch.bool)
    assert share_right(right) == pytest.approx((1, 8 / (8 + 1.96**2), 1))
    assert share_right(~right) == pytest.approx((0, 0, 1.96**2 / (8 + 1.96**2)))
    expected = binomtest(6, 8).proportion_ci(method="wilson")
    one = share_right(torch.arange(8)[None] < 6)
    assert (one.low, one.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_both_images_share_their_bins() -> None:
    first, second = np.array([0.0, 0.0, 1.0, 4.0], dtype=np.float32), np.array([2.0, 8.0], dtype=np.float32)
    edges, shares = shared_histogram((first, second), 4)
    assert edges.tolist() == [0, 2, 4, 6, 8]
    assert shares.tolist() == [[0.75, 0, 0.25, 0], [0, 0.5, 0, 0.5]]


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e30])
def test_one_and_the_same_value_has_a_bin(value: float) -> None:
    values = np.full(6, value, dtype=np.float32)
    edges, shares = shared_histogram((values, values), 8)
    assert (np.diff(edges) > 0).all() and edges[0] < values[0] < edges[-1]
    assert shares.sum(axis=1).tolist() == [1, 1] and (shares.max(axis=1) == 1).all()

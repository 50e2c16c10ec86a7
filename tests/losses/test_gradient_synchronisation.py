"""Hierarchies, and L_syn against equations 10 to 12 of GSDA, written out."""

from __future__ import annotations

import pytest
import torch

from dynconv.losses import Hierarchy, parse_tree, synchronisation_terms


def groups_of(hierarchy: Hierarchy, level: int) -> list[list[int]]:
    nodes = [node for node, depth in enumerate(hierarchy.levels) if depth == level]
    return [torch.nonzero(hierarchy.membership[node]).flatten().tolist() for node in nodes]


def test_three_levels_are_domain_groups_and_classes() -> None:
    hierarchy = Hierarchy.from_tree([[0, 2], [1, 3, 4]], 5)
    assert hierarchy.levels == (0, 1, 1, 2, 2, 2, 2, 2)
    assert groups_of(hierarchy, 0) == [[0, 1, 2, 3, 4]]
    assert groups_of(hierarchy, 1) == [[0, 2], [1, 3, 4]]
    assert groups_of(hierarchy, 2) == [[0], [1], [2], [3], [4]]
    assert set(hierarchy.membership.unique().tolist()) == {0.0, 1.0}


def test_synchronisation_is_equation_12() -> None:
    hierarchy = Hierarchy.from_tree([[0, 2], [1, 3, 4]], 5)
    magnitudes = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    domain, first, second, *classes = magnitudes.tolist()
    of_groups = [abs(first - classes[0] - classes[2]), abs(second - classes[1] - classes[3] - classes[4])]
    wanted = [abs(domain - first - second), sum(of_groups) / 2]
    terms = synchronisation_terms(magnitudes, hierarchy.edges, hierarchy.levels)
    torch.testing.assert_close(terms, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


def test_magnitudes_that_add_up_are_synchronised() -> None:
    hierarchy = Hierarchy.from_tree([[[0, 1], [2]], [[3, 4], [5, 0]]], 6)
    classes = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    magnitudes = hierarchy.membership.double() @ classes
    terms = synchronisation_terms(magnitudes, hierarchy.edges, hierarchy.levels)
    assert terms.shape == (3,)
    torch.testing.assert_close(terms, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_class_of_two_groups_is_divided_between_them() -> None:
    hierarchy = Hierarchy.from_tree([[0, 1], [1, 2]], 3)
    assert hierarchy.membership[:3].tolist() == [[1, 1, 1], [1, 0.5, 0], [0, 0.5, 1]]
    magnitudes = torch.tensor([0.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    terms = synchronisation_terms(magnitudes, hierarchy.edges, hierarchy.levels)
    torch.testing.assert_close(terms, torch.tensor([4.0, (abs(3 - 1.5) + abs(1 - 1.5)) / 2]))


def test_without_groups_the_domain_is_held_against_the_classes() -> None:
    hierarchy = Hierarchy.from_tree(range(3), 3)
    assert hierarchy.levels == (0, 1, 1, 1)
    terms = synchronisation_terms(torch.tensor([5.0, 1.0, 1.0, 1.0]), hierarchy.edges, hierarchy.levels)
    assert terms.tolist() == [2.0]


def test_the_domain_alone_has_nothing_to_synchronise() -> None:
    hierarchy = Hierarchy.domain_only(4)
    assert (hierarchy.num_nodes, hierarchy.depth) == (1, 1)
    assert synchronisation_terms(torch.ones(1), hierarchy.edges, hierarchy.levels).shape == (0,)


@pytest.mark.parametrize("numbers", [(6,), (2, 7), ()])
def test_random_groups_divide_the_classes_evenly_at_every_level(numbers: tuple[int, ...]) -> None:
    hierarchy = Hierarchy.random(31, numbers, torch.Generator().manual_seed(3))
    assert hierarchy.depth == len(numbers) + 2
    for level, number in enumerate(numbers, start=1):
        groups = groups_of(hierarchy, level)
        assert len(groups) == number
        assert sorted(sum(groups, [])) == list(range(31))
        # Buckets of buckets: the sizes differ by one on the lowest level only.
        if level == len(numbers):
            assert {len(group) for group in groups} == {31 // number, -(-31 // number)}
    above = [set(group) for group in groups_of(hierarchy, 1)]
    assert all(any(set(group) <= parent for parent in above) for group in groups_of(hierarchy, len(numbers) or 1))


def test_random_groups_follow_their_seed() -> None:
    first, again, other = (
        Hierarchy.random(31, (6,), torch.Generator().manual_seed(seed)).membership for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("numbers", [(1,), (5,), (6,), (3, 3), (3, 2)])
def test_group_numbers_must_grow_between_one_and_the_classes(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="num_groups: expected growing numbers from 2 to 4 for 5 classes, got"):
        Hierarchy.random(5, numbers)


def test_two_classes_have_no_groups() -> None:
    with pytest.raises(ValueError, match=r"num_groups: expected none for 2 classes, got \(2,\)"):
        Hierarchy.random(2, (2,))


def test_all_classes_are_on_the_last_level() -> None:
    hierarchy = Hierarchy.from_tree([0, [1, [2]]], 3)
    assert hierarchy.levels == (0, 1, 2, 3, 3, 3)
    terms = synchronisation_terms(torch.tensor([9.0, 4.0, 1.0, 2.0, 1.0, 1.0]), hierarchy.edges, hierarchy.levels)
    assert terms.tolist() == [9 - 4 - 2, 4 - 1 - 1, 0]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([[0, 1], []], "a group is empty"),
        ([[0, 1], [2, 3]], "expected classes 0 to 2, got 3"),
        ([[0, 0], [1, 2]], "the class 0 is twice in one group"),
        ([[0], [2]], "no group holds the classes 1"),
        ([[0, 1], ["2"]], "expected lists of class indices, got '2'"),
        ([[0, True], [1, 2]], "expected lists of class indices, got True"),
    ],
)
def test_trees_that_do_not_fit_are_refused(tree: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_tree(tree, 3)


def test_trees_are_read_from_json() -> None:
    assert parse_tree("[[0, 1], [2, [3, 4]]]") == [[0, 1], [2, [3, 4]]]
    for text in ("[[0, 1], [2", '{"a": 1}', "3"):
        with pytest.raises(ValueError, match="groups: expected"):
            parse_tree(text)


def test_the_terms_pass_gradients_to_the_magnitudes() -> None:
    hierarchy = Hierarchy.from_tree([[0, 1], [2]], 3)
    magnitudes = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda values: synchronisation_terms(values, hierarchy.edges, hierarchy.levels), magnitudes
    )


@pytest.mark.parametrize(("nodes", "edges"), [(5, (6, 6)), (6, (6, 5)), (1, (6, 6))])
def test_terms_of_other_nodes_than_the_hierarchys_are_refused(nodes: int, edges: tuple[int, int]) -> None:
    levels = Hierarchy.from_tree([[0, 1], [2]], 3).levels
    with pytest.raises(ValueError, match=r"magnitudes, edges: expected \(6,\) and \(6, 6\) for 6 levels"):
        synchronisation_terms(torch.ones(nodes), torch.zeros(edges), levels)

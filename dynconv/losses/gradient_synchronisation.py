"""Hierarchies of classes, and how far the gradients of their discriminators are from agreeing (GSDA eq. 10 to 12)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tree = int | Sequence["Tree"]
"""A class by its index, or a group by what it holds."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """The discriminators of a tree of classes: node 0 is the whole domain, each group and each class is a node.

    A class that stands in several groups is one node, and its share is divided among them.

    Attributes:
        membership: (M, C) float32, the part of a sample of each class that counts for each node: p_node = sum over
            classes of membership * p_class (eq. 8; 1 or 0 where no groups overlap).
        edges: (M, M) float32, edges[m, c] is the share of child c that node m holds; 0 where c is no child of m.
        levels: Depth of each node: 0 for the domain. All classes are on the last level, whatever holds them.
    """

    membership: Tensor
    edges: Tensor
    levels: tuple[int, ...]

    @property
    def num_nodes(self) -> int:
        """M, the number of discriminators."""
        return len(self.levels)

    @property
    def depth(self) -> int:
        """Number of levels."""
        return max(self.levels) + 1

    @classmethod
    def from_tree(cls, tree: Sequence[Tree], num_classes: int) -> Hierarchy:
        """The hierarchy of nested groups: `[[0, 1], [2, 3]]` are two groups of two classes, `[0, 1, 2]` is no group,
        `[[0, 1], [1, 2]]` are overlapping groups, and `[[[0, 1], [2]], [[3], [4, 5]]]` has four levels.

        Raises:
            ValueError: A group is empty, a class is outside [0, num_classes), missing, or twice in one group.
        """
        parents: list[int] = []
        levels = [0]
        classes: dict[int, list[int]] = {index: [] for index in range(num_classes)}
        edges: list[tuple[int, int]] = []

        def grow(group: Sequence[Tree], node: int) -> None:
            if not group:
                raise ValueError("groups: a group is empty")
            for child in group:
                if isinstance(child, int) and not isinstance(child, bool):
                    if child not in classes:
                        raise ValueError(f"groups: expected classes 0 to {num_classes - 1}, got {child}")
                    if node in classes[child]:
                        raise ValueError(f"groups: the class {child} is twice in one group")
                    classes[child].append(node)
                elif isinstance(child, list | tuple):
                    levels.append(levels[node] + 1)
                    parents.append(node)
                    edges.append((node, len(levels) - 1))
                    grow(child, len(levels) - 1)
                else:
                    raise ValueError(f"groups: expected lists of class indices, got {child!r}")

        grow(tree, 0)
        if missing := [index for index, holders in classes.items() if not holders]:
            raise ValueError(f"groups: no group holds the classes {', '.join(map(str, missing))}")
        inner = len(levels)
        levels += [max(levels) + 1] * num_classes
        total = inner + num_classes
        weights = torch.zeros(total, total)
        for parent, child in edges:
            weights[parent, child] = 1
        for index, holders in classes.items():
            for holder in holders:
                weights[holder, inner + index] = 1 / len(holders)
        membership = torch.zeros(total, num_classes)
        membership[inner:] = torch.eye(num_classes)
        # Children were numbered after their parents.
        for node in reversed(range(inner)):
            membership[node] = weights[node] @ membership
        membership[0] = 1
        return cls(membership, weights, tuple(levels))

    @classmethod
    def random(cls, num_classes: int, num_groups: Sequence[int], generator: torch.Generator | None = None) -> Hierarchy:
        """Disjoint groups of as equal a size as possible, drawn at random (section 3.1).

        Args:
            num_classes: Number of classes.
            num_groups: Number of groups on each level between the domain and the classes, growing: `(6,)` for the
                paper's three levels, `(3, 12)` for four, `()` for none.
            generator: Where the division is drawn; None for torch's global one.

        Raises:
            ValueError: The numbers do not grow from at least 2 to fewer than `num_classes`.
        """
        numbers = list(num_groups)
        if any(b <= a for a, b in zip([1, *numbers], [*numbers, num_classes], strict=True)):
            most = num_classes - 1
            wanted = f"growing numbers from 2 to {most}" if most > 1 else "none"
            raise ValueError(
                f"num_groups: expected {wanted} for {num_classes} classes, got {tuple(numbers)}; give other numbers of "
                "groups, or none (levels 'class')"
            )
        order = torch.randperm(num_classes, generator=generator).tolist()
        tree: list[Tree] = list(order)
        for number in reversed(numbers):
            bounds = [len(tree) * index // number for index in range(number + 1)]
            tree = [tree[low:high] for low, high in zip(bounds, bounds[1:], strict=False)]
        return cls.from_tree(tree, num_classes)

    @classmethod
    def domain_only(cls, num_classes: int) -> Hierarchy:
        """The one node of global alignment (eq. 6)."""
        return cls(torch.ones(1, num_classes), torch.zeros(1, 1), (0,))


def parse_tree(text: str) -> list[Tree]:
    """Nested groups written as JSON lists.

    Args:
        text: Such as `[[0, 1], [2, 3]]`.

    Returns:
        The lists, for `Hierarchy.from_tree`, which checks the classes in them.

    Raises:
        ValueError: The text is no JSON, or no list.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"groups: expected nested lists of class indices as JSON, got {text!r}: {error}") from error
    if not isinstance(tree, list):
        raise ValueError(f"groups: expected a list of groups, got {text!r}")
    return tree


def synchronisation_terms(magnitudes: Tensor, edges: Tensor, levels: Sequence[int]) -> Tensor:
    """For every level but the last, the mean over its groups of |G_group - sum over its children of share * G_child|.

    Their sum is L_syn: for domain, groups and classes it is eq. 12, with eq. 11 at level 0 and eq. 10 at level 1.

    Args:
        magnitudes: (M,), G of each node: the sum over samples of the norms of its loss's gradients.
        edges: (M, M), as in `Hierarchy`.
        levels: Depth of each node.

    Returns:
        (depth - 1,), the terms by level.

    Raises:
        ValueError: Magnitudes, edges and levels are of different numbers of nodes.
    """
    nodes = len(levels)
    if magnitudes.shape != (nodes,) or edges.shape != (nodes, nodes):
        raise ValueError(
            f"magnitudes, edges: expected ({nodes},) and ({nodes}, {nodes}) for {nodes} levels, one of each node, got "
            f"{tuple(magnitudes.shape)} and {tuple(edges.shape)}"
        )
    differences = (magnitudes - edges.to(magnitudes) @ magnitudes).abs()
    depths = torch.tensor(levels, device=magnitudes.device)
    # Every node above the last level is a group, for none is empty.
    of_level = (depths == torch.arange(max(levels), device=depths.device)[:, None]).to(magnitudes)
    return (of_level @ differences) / of_level.sum(dim=1)

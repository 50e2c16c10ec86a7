"""Which discriminators of `feature_gradient_norms` are worked on together, on which rows, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynconv.ops.discriminators import Discriminators

# Gathering pays where it leaves out more than a tenth of the rows, for it copies those that stay.
GATHER_BELOW = 0.9
# Weights per group of discriminators that go through one batched product on a CPU. Larger groups push their weights out
# of the cache between the forward's two uses of them; smaller ones show Python's overhead (a fifth of the time of 79 on
# 256 features).
GROUP_WEIGHTS = 5 * 2**20
# Where the user gives no bound.
WORKSPACE_BYTES = 2**30


class Plan(NamedTuple):
    """How a workspace is used."""

    group: int
    """Discriminators at a time."""
    kept: int
    """Discriminators, the first ones, whose intermediate results the backward finds; the others' are computed again."""


def plan(problem: Discriminators, keep: str, workspace: int | None) -> Plan:
    """The largest plan within ``workspace`` bytes; ValueError where it does not hold one discriminator. None is the
    default, which always does."""
    size = torch.finfo(problem.accumulation_dtype).bits // 8
    hidden, features = sum(problem.widths[1:]), problem.widths[0]
    # In flight, forward or backward: h, v, t, two copies of gathered rows; v_0 and t_0, their scaled copies.
    working = problem.batch * size * (5 * hidden + 4 * features)
    if workspace is None:
        # No max(), whose symbol torch.compile would guard by its value.
        workspace = WORKSPACE_BYTES if working <= WORKSPACE_BYTES else working
    if workspace < working:
        raise ValueError(
            f"workspace_bytes must hold one discriminator, {working} bytes for {problem.batch} samples; "
            f"got {workspace}."
        )
    saved = sum(width for _, width in kept_widths(problem, keep)) * problem.batch * problem.features.element_size()
    kept = min(problem.num, (workspace - working) // saved) if saved else 0
    group = min(problem.num, (workspace - kept * saved) // working) if working else problem.num
    if problem.features.device.type == "cpu":
        weights = sum(weight.shape[1] * weight.shape[2] for weight in problem.weights)
        group = min(group, -(-GROUP_WEIGHTS // weights))
    return Plan(group, kept)


def kept_widths(problem: Discriminators, keep: str) -> list[tuple[str, int]]:
    """What is kept of each discriminator, by name and width: v_0, h of the layers that are not shared, v_1 and on up to
    the last hidden layer's, which is cheap."""
    widths = problem.widths
    if keep == "nothing" or problem.depth == 1:
        return []
    names = [("v", widths[0])]
    if keep == "all":
        names += [("h", width) for width in widths[problem.num_shared + 1 :]]
        names += [("v", width) for width in widths[1:-1]]
    return names


def kept_like(problem: Discriminators, keep: str, workspace: int | None) -> list[Tensor]:
    """Empty tensors (kept, N, width) for what the forward leaves to the backward."""
    count = plan(problem, keep, workspace).kept
    return [problem.features.new_empty(count, problem.batch, width) for _, width in kept_widths(problem, keep)]


@dataclass(frozen=True)
class Group:
    """Discriminators ``low`` to ``high``, on some rows of the batch each: (high - low, n), or all of them for None."""

    problem: Discriminators
    low: int
    high: int
    rows: Tensor | None

    @property
    def count(self) -> int:
        return self.problem.batch if self.rows is None else self.rows.shape[1]

    def of(self, stacked: Tensor) -> Tensor:
        """This group's part of what is stacked over discriminators, or of dimension 1 and shared."""
        return stacked if stacked.shape[0] == 1 else stacked[self.low : self.high]

    def take(self, tensor: Tensor) -> Tensor:
        """The group's rows of a tensor (1 or high - low, N, ...)."""
        if self.rows is None:
            return tensor
        shape = (*self.rows.shape, *tensor.shape[2:])
        if tensor.shape[0] == 1:
            return tensor[0].index_select(0, self.rows.flatten()).view(shape)
        first = torch.arange(0, tensor.shape[0] * tensor.shape[1], tensor.shape[1], device=tensor.device)
        return tensor.flatten(0, 1).index_select(0, (self.rows + first[:, None]).flatten()).view(shape)

    def put(self, into: Tensor, values: Tensor) -> None:
        """Write the group's values (high - low, n) to their rows of ``into`` (M, N)."""
        if self.rows is None:
            into[self.low : self.high] = values
        else:
            into[self.low : self.high].scatter_(1, self.rows, values)

    def masks(self) -> list[Tensor | None]:
        return [None if mask is None else self.take(self.of(mask)) for mask in self.problem.masks]

    def everywhere(self) -> Group:
        return Group(self.problem, self.low, self.high, None)


def groups(problem: Discriminators, plan: Plan, active: Tensor | None) -> Iterator[Group]:
    """The groups of a plan, none of which is kept only in part."""
    counts = order = None
    if active is not None:
        counts = active.sum(dim=1).tolist()
        order = active.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    bounds = [*range(0, plan.kept, plan.group), *range(plan.kept, problem.num, plan.group), problem.num]
    if counts is not None:
        # The domain's discriminator has no void pair and would keep its whole group from being gathered.
        is_full = [count >= GATHER_BELOW * problem.batch for count in counts]
        bounds = sorted({*bounds, *(m for m in range(1, problem.num) if is_full[m] != is_full[m - 1])})
    for low, high in zip(bounds, bounds[1:], strict=False):
        rows = None
        if counts is not None and order is not None and not is_full[low]:
            # Rows beyond a discriminator's own are rows like others, whose results no one asks for.
            rows = order[low:high, : max(counts[low:high])]
        yield Group(problem, low, high, rows)

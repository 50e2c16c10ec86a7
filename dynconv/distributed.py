"""Several processes that train one model: who this one is, its share of a batch, and sums over all of them.

In one process every function here is the identity. In several, each rank computes the losses of its own share, and its
gradient is averaged with the others' (`average_gradients`). So a loss that is a mean over samples is a mean over the
rank's samples; whatever else a loss takes from the whole batch, it takes through `all_sum` or `all_mean`. Then the mean
of the ranks' gradients is the gradient of the whole batch's loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

# DistributedDataParallel's own bucket size: large enough to fill a link, small enough that copies stay in cache.
BUCKET_BYTES = 25 * 2**20


def world_size() -> int:
    """Number of processes; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0 to `world_size()` - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress: rank 0."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def share_of(total: int, rank: int, world_size: int) -> slice:
    """The consecutive part of `total` items that is `rank`'s; parts differ by one item at most."""
    return slice(total * rank // world_size, total * (rank + 1) // world_size)


def my_share(total: int) -> Tensor:
    """Indices int64 of this process's consecutive part of `total` items; all of them in one process."""
    part = share_of(total, rank(), world_size())
    return torch.arange(part.start, part.stop)


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """All `total` rows in their order, on every process, without gradient.

    Args:
        rows: (n, ...), those of `my_share(total)`.
        total: Rows over all processes.

    Raises:
        ValueError: `rows` are not as many as this process's share.
    """
    size = world_size()
    counts = [part.stop - part.start for part in (share_of(total, each, size) for each in range(size))]
    if len(rows) != counts[rank()]:
        raise ValueError(f"rows: expected this process's share, {counts[rank()]} of {total} rows, got {len(rows)}")
    if size == 1:
        return rows.detach()
    # Collectives want one shape on every process.
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _AllSum(torch.autograd.Function):
    """The sum over processes. Each of them has a loss of its own that depends on it, hence the sum of its gradients."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of every process's `tensor` (the same shape on each), differentiable once."""
    return tensor if world_size() == 1 else _AllSum.apply(tensor)


def all_mean(tensor: Tensor) -> Tensor:
    """The mean of every process's `tensor` (the same shape on each), differentiable once."""
    return tensor if world_size() == 1 else _AllSum.apply(tensor) / world_size()


def gather_rows_with_gradient(rows: Tensor) -> Tensor:
    """Every process's `rows`, those of process 0 first, differentiable once; `rows` itself in one process.

    Args:
        rows: (n, ...), of the same shape on each process.
    """
    size = world_size()
    if size == 1:
        return rows
    # A sum with zeros is exact, and its gradient is the sum over the processes that each row has to have.
    placed = [torch.zeros_like(rows) for _ in range(size)]
    placed[rank()] = rows
    return all_sum(torch.cat(placed))


def all_min(tensor: Tensor) -> Tensor:
    """The least of every process's `tensor`, element by element, without gradient."""
    if world_size() == 1:
        return tensor
    least = tensor.detach().clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return least


def any_process(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether `flag` is true on any process."""
    if world_size() == 1:
        return flag
    found = torch.tensor(int(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found.item())


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, which must give the same parameters in the same order.

    A parameter without a gradient on one process counts as zero there; without one on every process, it stays so.
    The sums start bucket by bucket, the last parameters first, and are waited for together. They do not overlap with
    the backward pass: within a node that is lost in the step, and docs/distributed.md has the arithmetic.
    """
    if world_size() == 1:
        return
    waiting = []
    for members in _buckets([parameter for parameter in parameters if parameter.requires_grad]):
        present = [parameter.grad is not None for parameter in members]
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        flags = torch.tensor(present, dtype=members[0].dtype, device=members[0].device)
        flat = torch.cat([*(piece.reshape(-1) for piece in pieces), flags])
        waiting.append((members, present, flat, dist.all_reduce(flat, async_op=True)))
    for members, present, flat, work in waiting:
        work.wait()
        flat /= world_size()
        # Read on the host, which waits for the device, only where a gradient is missing here.
        elsewhere = flat[-len(members) :].tolist() if not all(present) else present
        start = 0
        for parameter, found in zip(members, elsewhere, strict=True):
            piece = flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
            if found:
                parameter.grad = piece.clone() if parameter.grad is None else parameter.grad.copy_(piece)


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """`parameters` from the last to the first, in groups of one dtype and device and about `BUCKET_BYTES`."""
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in reversed(parameters):
        other = bucket and (bucket[0].dtype, bucket[0].device) != (parameter.dtype, parameter.device)
        if bucket and (other or size >= BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket

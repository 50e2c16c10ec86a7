"""How far the moments of several domains' features lie apart (Peng et al., ICCV 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.distributed import all_sum
from dynconv.losses.precision import wide, without_autocast

RELEASED_SOURCES = 4


class MomentDistances(NamedTuple):
    """Distances of K moments among N sources and the target, in float32 at least."""

    to_target: Tensor
    """(K, N): || E f_i^k - E f_T^k ||_2; 0 for a source without a sample."""
    between: Tensor
    """(K, N (N - 1) / 2): || E f_i^k - E f_j^k ||_2 for i < j, in the order of `torch.triu_indices`; 0 where a source
    has no sample."""
    has_target: Tensor
    """bool (N,): whether the source has a sample."""
    has_between: Tensor
    """bool (N (N - 1) / 2,): whether both sources have."""

    def total(self) -> Tensor:
        """MD^2 of eq. 1: for each moment the mean distance of a source to the target and the mean distance of two
        sources, summed over the moments. A scalar; pairs without a sample are left out of the means."""
        return _mean(self.to_target, self.has_target).sum() + _mean(self.between, self.has_between).sum()


def moment_distances(
    source: Tensor, domains: Tensor, target: Tensor, *, num_sources: int, num_moments: int = 2
) -> MomentDistances:
    """Distances of the raw moments E f^k, k = 1 to `num_moments`, of the domains' features (M3SDA eq. 1).

    Over several processes the expectations are over the batches of all of them.

    Args:
        source: Features (B, F) of the sources' samples.
        domains: int64 (B,), which source each is of.
        target: Features (B', F) of the target's samples, at least one.
        num_sources: N.
        num_moments: K; the paper takes 2.

    Raises:
        ValueError: The shapes do not fit, a domain is not in [0, num_sources), or a number is below 1.
    """
    if num_moments < 1:
        raise ValueError(f"num_moments: expected at least 1, got {num_moments}")
    features, member = _joined(source, domains, target, num_sources)
    moments, counts = _moments(features, member, range(1, num_moments + 1))
    pairs = torch.triu_indices(num_sources + 1, num_sources + 1, 1, device=features.device)
    # The target is the last domain.
    with_target = pairs[1] == num_sources
    distances = _distances(moments, counts, pairs)
    present = (counts > 0)[pairs].all(dim=0)
    return MomentDistances(
        distances[:, with_target], distances[:, ~with_target], present[with_target], present[~with_target]
    )


def released_moment_distance(source: Tensor, domains: Tensor, target: Tensor, *, num_moments: int = 5) -> Tensor:
    """The regulariser of the released code of M3SDA, which is another than that of its paper.

    Written for four sources, it sums ten distances of each moment and divides the whole by 6, where

    - the moments are those of centred features (the paper's are raw), but the fourth source is not centred;
    - the first moment's distance is no distance of means, which would all be 0, but the norm of the element-wise
      difference of two batches: the n-th samples of both domains, as many as the smaller has (of one process's share);
    - the distance of the fourth source to the second counts twice, and that to the third not at all.

    Args:
        source: Features (N, F) of source samples.
        domains: int64 (N,), which of the four sources each is of.
        target: Features (M, F) of target samples.
        num_moments: The released code has five.

    Returns:
        A scalar.

    Raises:
        ValueError: As `moment_distances`.
    """
    if num_moments < 1:
        raise ValueError(f"num_moments: expected at least 1, got {num_moments}")
    features, member = _joined(source, domains, target, RELEASED_SOURCES)
    (means,), counts = _moments(features, member, range(1, 2))
    not_centred = torch.arange(len(counts), device=features.device) == RELEASED_SOURCES - 1
    with without_autocast(features):
        centred = features - member @ means.masked_fill(not_centred[:, None], 0)
    pairs = [(a, b) for a in range(len(counts)) for b in range(a) if (a, b) != (3, 2)] + [(3, 1)]
    index = torch.tensor(pairs, device=features.device).T
    rows = [centred[member[:, domain] > 0] for domain in range(len(counts))]
    squares = torch.stack([_square_of_difference(rows[a], rows[b]) for a, b in pairs])
    total = _root(all_sum(squares)).sum()
    if num_moments > 1:
        moments, _ = _moments(centred, member, range(2, num_moments + 1))
        total = total + _distances(moments, counts, index).sum()
    return total / 6


def _joined(source: Tensor, domains: Tensor, target: Tensor, num_sources: int) -> tuple[Tensor, Tensor]:
    """Features (B + B', F) and which domain each is of, (B + B', N + 1) of 0 and 1: the target is the last."""
    if num_sources < 1:
        raise ValueError(f"num_sources: expected at least 1, got {num_sources}")
    if source.dim() != 2 or target.dim() != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(
            f"source, target: expected features (B, F) and (B', F), got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    if domains.shape != source.shape[:1]:
        raise ValueError(f"domains: expected ({len(source)},) as source, got {tuple(domains.shape)}")
    if len(domains) and not 0 <= int(domains.min()) <= int(domains.max()) < num_sources:
        raise ValueError(
            f"domains: expected 0 to {num_sources - 1}, for there are {num_sources} sources; got "
            f"{int(domains.min())} to {int(domains.max())}"
        )
    # A fifth power has no room in half precision.
    dtype = wide(source.dtype)
    features = torch.cat([source, target]).to(dtype)
    numbers = torch.cat([domains, domains.new_full((len(target),), num_sources)])
    return features, F.one_hot(numbers, num_sources + 1).to(dtype)


def _moments(features: Tensor, member: Tensor, powers: range) -> tuple[Tensor, Tensor]:
    """E f^k (K, D, F) of each domain over all processes, 0 for one without a sample, and its samples (D,)."""
    counts = all_sum(member.sum(dim=0))
    # Autocast would round the fifth powers to 8 bits, and a distance of domains near one another to nothing.
    with without_autocast(features):
        sums = torch.stack([member.T @ features**power for power in powers])
    return all_sum(sums) / counts.clamp(min=1)[:, None], counts


def _distances(moments: Tensor, counts: Tensor, pairs: Tensor) -> Tensor:
    """Norms (K, P) of the differences of moments (K, D, F) for pairs (2, P); 0 where a domain has no sample."""
    distances = torch.linalg.vector_norm(moments[:, pairs[0]] - moments[:, pairs[1]], dim=2)
    return distances * (counts > 0)[pairs].all(dim=0)


def _mean(distances: Tensor, present: Tensor) -> Tensor:
    """Means (K,) of distances (K, P), of which those not present are 0."""
    return distances.sum(dim=1) / present.sum().clamp(min=1)


def _square_of_difference(first: Tensor, second: Tensor) -> Tensor:
    count = min(len(first), len(second))
    return (first[:count] - second[:count]).square().sum()


def _root(squares: Tensor) -> Tensor:
    """Square roots whose gradient at 0 is 0."""
    positive = squares > 0
    return torch.where(positive, squares, 1).sqrt() * positive

"""How far two samples are apart by their mean embeddings: MK-MMD of one layer, JMMD of several together.

Every estimate is a weighted sum of kernel values over pairs of samples, and the estimators differ in the pairs alone.
Bandwidths follow the samples and are constants to the gradient, as in the released code of DAN and JAN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dynconv.losses.precision import wide, without_autocast

Estimator = Literal["linear", "ring", "unbiased", "biased"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
Bandwidth = Literal["median", "mean"]


@dataclass(frozen=True)
class GaussianKernels:
    """k_u(x, y) = exp(-|x - y|^2 / gamma_u) with gamma_u = gamma * factor^(u - number // 2) for u = 0 ... number - 1.

    The defaults are the family of DAN (Long et al., ICML 2015, section 4): gamma times 2^-8 to 2^8 in steps of 2^(1/2).

    Raises:
        ValueError: No kernel, or a factor or a bandwidth that is not positive.
    """

    number: int = 33
    """How many."""
    factor: float = 2**0.5
    """Each bandwidth is this many times the one before."""
    bandwidth: Bandwidth | float = "median"
    """gamma: the "median" of the squared distances between different samples of both domains (papers, of the training
    data; here of the batch), their "mean" (released code), or a number."""

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number: expected at least 1 kernel, got {self.number}")
        if self.factor <= 0:
            raise ValueError(f"factor: expected more than 0, got {self.factor}")
        if isinstance(self.bandwidth, str):
            if self.bandwidth not in get_args(Bandwidth):
                raise ValueError(f"bandwidth: expected 'median', 'mean' or a number, got {self.bandwidth!r}")
        elif not self.bandwidth > 0:
            raise ValueError(f"bandwidth: expected more than 0, got {self.bandwidth}")

    def bandwidths(self, distances: Tensor) -> Tensor:
        """(number,), without gradient, for squared distances (N, N) of all samples; none is less than 1e-19 in float32
        (1e-154 in float64), so that samples that all coincide give kernels of 1 and gradients of 0."""
        distances = distances.detach()
        if isinstance(self.bandwidth, str):
            rows, columns = torch.triu_indices(len(distances), len(distances), offset=1, device=distances.device)
            different = distances[rows, columns]
            gamma = different.median() if self.bandwidth == "median" else different.mean()
        else:
            gamma = distances.new_tensor(self.bandwidth)
        exponents = torch.arange(self.number, device=distances.device) - self.number // 2
        powers = torch.pow(torch.tensor(self.factor, dtype=distances.dtype, device=distances.device), exponents)
        return (gamma * powers).clamp(min=torch.finfo(distances.dtype).tiny ** 0.5)

    def at(self, distances: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Every kernel at T entries of the matrix of squared distances.

        Args:
            distances: (N, N), of all samples; `bandwidths` is taken from them.
            rows: int64 (T,), the entries' first indices.
            columns: int64 (T,), their second ones.

        Returns:
            (T, number) in the distances' dtype, from 0 to 1.
        """
        return torch.exp(-distances[rows, columns][:, None] / self.bandwidths(distances))


def mk_mmd(
    source: Tensor,
    target: Tensor,
    *,
    kernels: GaussianKernels,
    estimator: Estimator = "linear",
    weights: Tensor | None = None,
) -> Tensor:
    """An estimate of d_k^2 = |E phi(source) - E phi(target)|^2 (DAN, Long et al., ICML 2015, eq. 1) with
    k = sum_u weights_u k_u (eq. 2).

    Args:
        source: (n, F).
        target: (m, F).
        kernels: The family k_u.
        estimator: "linear" is the paper's (section 3.2): with s and t the samples in their order, the mean of
            k(s1, s2) + k(t1, t2) - k(s1, t2) - k(s2, t1) over quadruples of neighbours that share no sample.
            "ring" is that of the released code: neighbours overlap, and the last sample's is the first. Both take as
            many samples of either domain as the smaller one has. "unbiased" takes all pairs of different samples,
            "biased" each sample with itself too: it is never negative, and 0 for equal samples.
        weights: (number,), constants of which none is negative; None for 1 / number each. The released code adds the
            kernels up: `number` times the estimate of equal weights.

    Returns:
        A scalar in float32, or float64 for float64 samples. All of N^2 distances are computed, N = n + m, whatever the
        estimator, for the bandwidths follow them.

    Raises:
        ValueError: The samples are no matrices of one width, too few for the estimator (1 of each for "biased", 2 for
            the others), or the weights do not fit.
    """
    if weights is not None and weights.shape != (kernels.number,):
        raise ValueError(f"weights: expected ({kernels.number},), one of each kernel, got {tuple(weights.shape)}")
    distances = _squared_distances(source, target)
    pairs = _pairs(len(source), len(target), estimator, distances)
    values = kernels.at(distances, pairs.rows, pairs.columns)
    if weights is None:
        mixed = values.mean(dim=1)
    else:
        # The terms all but cancel where the domains are near: with the 8 bits of autocast nothing would be left.
        with without_autocast(values):
            mixed = values @ weights.detach().to(values.dtype)
    return (pairs.weights * mixed).sum()


def jmmd(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    *,
    kernels: Sequence[GaussianKernels],
    estimator: Estimator = "linear",
) -> Tensor:
    """The joint maximum mean discrepancy of several layers (JAN, Long et al., ICML 2017, eq. 8): as `mk_mmd`, with the
    product over the layers of their kernels, each the mean of its family.

    Args:
        source: Each layer's activations (n, F_l) of the same n samples.
        target: Each layer's (m, F_l).
        kernels: Each layer's family.
        estimator: As in `mk_mmd`: "biased" is eq. 9, "linear" is eq. 11, "ring" the released code.

    Returns:
        A scalar in float32, or float64 for float64 samples.

    Raises:
        ValueError: As in `mk_mmd`, or the layers are none, or not the same in number everywhere, or in samples.
    """
    if not len(source) == len(target) == len(kernels) > 0:
        raise ValueError(
            f"source, target, kernels: expected the same number of layers, at least 1, "
            f"got {len(source)}, {len(target)} and {len(kernels)}"
        )
    for name, layers in (("source", source), ("target", target)):
        if len({len(layer) for layer in layers}) > 1:
            raise ValueError(f"{name}: expected the same samples in every layer, got {[len(each) for each in layers]}")
    distances = [_squared_distances(first, second) for first, second in zip(source, target, strict=True)]
    pairs = _pairs(len(source[0]), len(target[0]), estimator, distances[0])
    product = torch.ones_like(pairs.weights)
    for layer, family in zip(distances, kernels, strict=True):
        product = product * family.at(layer, pairs.rows, pairs.columns).mean(dim=1)
    return (pairs.weights * product).sum()


def quadruple_terms(source: Tensor, target: Tensor, *, kernels: GaussianKernels) -> Tensor:
    """g_u(z_i) of DAN, section 3.2, of every kernel u and every quadruple i of the estimator "linear": their mean over
    i is that estimate by each kernel alone.

    Args:
        source: (n, F).
        target: (m, F).
        kernels: The family k_u.

    Returns:
        (min(n, m) // 2, number).

    Raises:
        ValueError: The samples are no matrices of one width, or fewer than 2 of a domain.
    """
    distances = _squared_distances(source, target)
    pairs = _pairs(len(source), len(target), "linear", distances)
    values = kernels.at(distances, pairs.rows, pairs.columns)
    return values.unflatten(0, (4, -1)).mul(pairs.weights.sign().view(4, -1, 1)).sum(dim=0)


def term_covariance(terms: Tensor) -> Tensor:
    """Q of DAN eq. 8: the mean of Delta_i Delta_i^T, with Delta_i the difference of two neighbouring quadruples' terms.

    Args:
        terms: (P, K) of `quadruple_terms`; each is in one difference, an odd last one in none.

    Returns:
        (K, K), twice the covariance of the terms.

    Raises:
        ValueError: Fewer than two quadruples.
    """
    count = len(terms) // 2
    if count < 1:
        raise ValueError(
            f"terms: expected at least 2 quadruples, 4 samples of each domain, got {len(terms)}; a larger batch in "
            f"fewer micro-batches has more"
        )
    pairs = terms[: 2 * count].unflatten(0, (count, 2))
    differences = pairs[:, 0] - pairs[:, 1]
    with without_autocast(differences):
        return differences.T @ differences / count


def optimal_weights(mmd: Tensor, covariance: Tensor, *, ridge: float = 1e-3) -> Tensor | None:
    """The kernel weights of DAN eq. 7, which make d^2 / sigma largest: beta of eq. 8,
    min beta^T (Q + ridge I) beta with d^T beta = 1 and beta >= 0, scaled to the sum 1 that eq. 2 wants.

    The programme has the direction of min 1/2 beta^T (Q + ridge I) beta - d^T beta over beta >= 0, a non-negative least
    squares problem, which scikit-learn solves.

    Args:
        mmd: d (K,), the estimate by each kernel alone.
        covariance: Q (K, K), of `term_covariance`.
        ridge: epsilon of eq. 8 (paper: 1e-3).

    Returns:
        (K,) on the device and in the dtype of `mmd`, without gradient; None where no kernel's estimate is positive, for
        then no beta satisfies the constraint.
    """
    from sklearn.linear_model import LinearRegression

    given = mmd.detach().double().cpu()
    if not bool((given > 0).any()):
        return None
    matrix = covariance.detach().double().cpu() + ridge * torch.eye(len(given), dtype=torch.float64)
    lower = torch.linalg.cholesky(matrix)
    wanted = torch.linalg.solve_triangular(lower, given[:, None], upper=False)[:, 0]
    solution = LinearRegression(fit_intercept=False, positive=True).fit(lower.T.numpy(), wanted.numpy())
    beta = torch.from_numpy(solution.coef_)
    return (beta / beta.sum()).to(mmd)


def fewest_samples(estimator: Estimator) -> int:
    """How many samples of each domain the estimator takes at least."""
    return 1 if estimator == "biased" else 2


class _Pairs(NamedTuple):
    rows: Tensor
    columns: Tensor
    weights: Tensor


def _squared_distances(source: Tensor, target: Tensor) -> Tensor:
    """(N, N) of all samples, the source's first, in float32 at least."""
    if source.dim() != 2 or target.dim() != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(
            f"source, target: expected matrices (n, F) and (m, F), got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    both = torch.cat([source, target])
    # In float64, which autocast leaves alone: in float32 the products of samples that are 1 apart and 4000 from the
    # origin are wrong by 1. Differences (torch.cdist) took 250 ms with their gradient for 2 x 128 samples of 2048
    # numbers on one core; this takes 20.
    exact = both.double()
    products = exact @ exact.T
    squares = products.diagonal()
    sums = squares[:, None] + squares
    distances = sums - 2 * products
    # Samples that coincide are 0 apart and have no gradient: what rounding leaves there may be less than 0.
    distances = distances.masked_fill(distances <= 1e-13 * sums, 0.0)
    return distances.to(wide(both.dtype))


def _pairs(source: int, target: int, estimator: Estimator, distances: Tensor) -> _Pairs:
    """The entries of the matrix of all samples that the estimator adds up, and how much each counts."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: expected one of {', '.join(map(repr, ESTIMATORS))}, got {estimator!r}")
    least = fewest_samples(estimator)
    if min(source, target) < least:
        raise ValueError(
            f"source, target: the estimator {estimator!r} takes at least {least} of each, got {source} and {target}; "
            f"give a larger batch or fewer micro-batches"
        )
    device = distances.device
    if estimator in ("linear", "ring"):
        count = min(source, target)
        first = torch.arange(count, device=device)
        first = first[: count // 2 * 2 : 2] if estimator == "linear" else first
        second = (first + 1) % count
        rows = torch.cat([first, source + first, first, second])
        columns = torch.cat([second, source + second, source + second, source + first])
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=distances.dtype, device=device)
        return _Pairs(rows, columns, signs.repeat_interleave(len(first)) / len(first))
    # Every pair once: the upper triangle, for kernels are symmetric.
    less = 0 if estimator == "biased" else 1
    rows, columns = torch.triu_indices(source + target, source + target, offset=less, device=device)
    within = distances.new_tensor([2 / (source * (source - less)), 2 / (target * (target - less))])
    weights = within[(rows >= source).long()]
    weights = torch.where((rows < source) & (columns >= source), -2 / (source * target), weights)
    return _Pairs(rows, columns, torch.where(rows == columns, weights / 2, weights))

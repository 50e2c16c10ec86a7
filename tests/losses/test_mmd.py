"""Mean embeddings: every estimate against its formula in loops over samples, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from dynconv.losses import GaussianKernels, jmmd, mk_mmd, optimal_weights, quadruple_terms, term_covariance
from dynconv.losses.mmd import ESTIMATORS, Estimator

FAMILY = GaussianKernels(5, 2.0)


def samples(count: int, width: int = 3, shift: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, dtype=torch.float64, generator=generator) + shift


def naive_bandwidth(rows: list[list[float]], kind: str) -> float:
    distances = sorted(math.dist(a, b) ** 2 for a, b in itertools.combinations(rows, 2))
    return distances[(len(distances) - 1) // 2] if kind == "median" else sum(distances) / len(distances)


def naive_kernel(source: Tensor, target: Tensor, kernels: GaussianKernels, weights: list[float] | None = None):
    """k(x, y) of two lists, as a function, with the bandwidths of these samples."""
    rows = source.tolist() + target.tolist()
    middle = kernels.bandwidth if isinstance(kernels.bandwidth, float) else naive_bandwidth(rows, kernels.bandwidth)
    shares = weights or [1 / kernels.number] * kernels.number

    def kernel(x: list[float], y: list[float]) -> float:
        total = 0.0
        for u in range(kernels.number):
            total += shares[u] * math.exp(
                -(math.dist(x, y) ** 2) / (middle * kernels.factor ** (u - kernels.number // 2))
            )
        return total

    return kernel


def naive(pair: Callable[[str, int, str, int], float], n: int, m: int, estimator: Estimator) -> float:
    """The estimate from a kernel of samples named by their domain and number."""
    if estimator in ("linear", "ring"):
        count = min(n, m)
        if estimator == "linear":
            ends = [(2 * i, 2 * i + 1) for i in range(count // 2)]
        else:
            ends = [(i, (i + 1) % count) for i in range(count)]
        total = 0.0
        for a, b in ends:
            total += pair("s", a, "s", b) + pair("t", a, "t", b) - pair("s", a, "t", b) - pair("s", b, "t", a)
        return total / len(ends)
    total = 0.0
    less = 0 if estimator == "biased" else 1
    for name, count in (("s", n), ("t", m)):
        for i in range(count):
            for j in range(count):
                if i != j or estimator == "biased":
                    total += pair(name, i, name, j) / (count * (count - less))
    for i in range(n):
        for j in range(m):
            total -= 2 * pair("s", i, "t", j) / (n * m)
    return total


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernels", [FAMILY, GaussianKernels(4, 3.0, "mean"), GaussianKernels(1, 1.0, 1.68)])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 8), (9, 4)])
def test_mk_mmd_is_its_formula_over_pairs(
    estimator: Estimator, kernels: GaussianKernels, sizes: tuple[int, int]
) -> None:
    source, target = samples(sizes[0]), samples(sizes[1], shift=0.7, seed=1)
    kernel = naive_kernel(source, target, kernels)
    rows = {"s": source.tolist(), "t": target.tolist()}
    wanted = naive(lambda a, i, b, j: kernel(rows[a][i], rows[b][j]), *sizes, estimator)
    assert mk_mmd(source, target, kernels=kernels, estimator=estimator).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_mix_the_kernels(estimator: Estimator) -> None:
    source, target = samples(6), samples(7, shift=0.7, seed=1)
    weights = [0.0, 0.1, 0.5, 0.3, 0.1]
    kernel = naive_kernel(source, target, FAMILY, weights)
    rows = {"s": source.tolist(), "t": target.tolist()}
    wanted = naive(lambda a, i, b, j: kernel(rows[a][i], rows[b][j]), 6, 7, estimator)
    found = mk_mmd(source, target, kernels=FAMILY, estimator=estimator, weights=torch.tensor(weights))
    # The weights are float32.
    assert found.item() == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(ValueError, match=r"weights: expected \(5,\), one of each kernel, got \(4,\)"):
        mk_mmd(source, target, kernels=FAMILY, weights=torch.ones(4))


def test_weights_are_constants() -> None:
    weights = torch.full((FAMILY.number,), 0.2, requires_grad=True)
    assert not mk_mmd(samples(4), samples(4, seed=1), kernels=FAMILY, weights=weights).requires_grad


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_jmmd_multiplies_the_kernels_of_the_layers(estimator: Estimator) -> None:
    source = [samples(6), samples(6, 4, seed=2).softmax(1)]
    target = [samples(7, shift=0.7, seed=1), samples(7, 4, shift=0.1, seed=3).softmax(1)]
    families = [FAMILY, GaussianKernels(1, 1.0, 1.68)]
    each = [naive_kernel(*layers) for layers in zip(source, target, families, strict=True)]
    rows = {"s": [layer.tolist() for layer in source], "t": [layer.tolist() for layer in target]}

    def pair(a: str, i: int, b: str, j: int) -> float:
        return each[0](rows[a][0][i], rows[b][0][j]) * each[1](rows[a][1][i], rows[b][1][j])

    found = jmmd(source, target, kernels=families, estimator=estimator)
    assert found.item() == pytest.approx(naive(pair, 6, 7, estimator), rel=1e-10)
    alone = jmmd(source[:1], target[:1], kernels=families[:1], estimator=estimator)
    torch.testing.assert_close(alone, mk_mmd(source[0], target[0], kernels=FAMILY, estimator=estimator))


def test_the_default_family_is_that_of_the_paper() -> None:
    distances = torch.tensor([[0.0, 3.0], [3.0, 0.0]], dtype=torch.float64)
    found = GaussianKernels().bandwidths(distances)
    torch.testing.assert_close(found, 3 * 2.0 ** torch.arange(-8, 8.5, 0.5, dtype=torch.float64))


def test_equal_samples_are_not_apart() -> None:
    same = samples(6)
    assert mk_mmd(same, same.clone(), kernels=FAMILY, estimator="biased").item() == pytest.approx(0, abs=1e-15)
    assert mk_mmd(same, same + 1, kernels=FAMILY, estimator="biased") > 0.05
    layers = [same, same.softmax(1)]
    assert jmmd(layers, layers, kernels=[FAMILY] * 2, estimator="biased").item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("estimator", ["linear", "ring", "unbiased"])
def test_estimates_of_one_distribution_average_to_zero(estimator: Estimator) -> None:
    # A fixed bandwidth: one that follows the samples is not independent of them.
    kernels = GaussianKernels(1, 1.0, 2.0)
    draws = [
        mk_mmd(samples(8, seed=seed), samples(8, seed=500 + seed), kernels=kernels, estimator=estimator)
        for seed in range(400)
    ]
    found = torch.stack(draws)
    error = found.std() / 20
    assert found.mean().abs() < 3 * error < 0.05
    biased = mk_mmd(samples(8), samples(8, seed=500), kernels=kernels, estimator="biased")
    assert biased > 3 * error


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_are_those_of_constant_bandwidths(estimator: Estimator) -> None:
    source, target = samples(5).requires_grad_(), samples(6, shift=0.7, seed=1).requires_grad_()
    distances = torch.cdist(torch.cat([source, target]), torch.cat([source, target])).square()
    fixed = GaussianKernels(5, 2.0, float(distances.detach()[torch.triu(torch.ones(11, 11), 1) > 0].median()))

    def loss(first: Tensor, second: Tensor) -> Tensor:
        return mk_mmd(first, second, kernels=fixed, estimator=estimator)

    assert torch.autograd.gradcheck(loss, (source, target))
    by_constant = torch.autograd.grad(loss(source, target), (source, target))
    by_median = torch.autograd.grad(mk_mmd(source, target, kernels=FAMILY, estimator=estimator), (source, target))
    torch.testing.assert_close(by_median, by_constant)
    assert max(part.abs().max() for part in by_median) > 1e-3


def test_the_joint_discrepancy_has_gradients_of_both_layers() -> None:
    layers = [samples(4).requires_grad_(), samples(4, 2, seed=2).requires_grad_()]
    others = [samples(5, shift=1, seed=1).requires_grad_(), samples(5, 2, seed=3).requires_grad_()]
    kernels = [GaussianKernels(3, 2.0, 4.0), GaussianKernels(1, 1.0, 1.68)]

    def loss(*values: Tensor) -> Tensor:
        return jmmd(values[:2], values[2:], kernels=kernels, estimator="unbiased")

    assert torch.autograd.gradcheck(loss, (*layers, *others))


@pytest.mark.parametrize("offset", [0.0, 4000.0])
def test_float32_keeps_small_differences_far_from_the_origin(offset: float) -> None:
    # Halves and quarters, so that the samples are exact in float32 at 4000 too.
    source, target = (samples(8, seed=seed).mul(4).round().div(4) + offset for seed in (0, 1))
    exact = mk_mmd(source, target, kernels=FAMILY, estimator="biased")
    found = mk_mmd(source.float(), target.float(), kernels=FAMILY, estimator="biased")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)


def test_half_precision_is_raised_to_float32() -> None:
    source, target = samples(8).bfloat16(), samples(8, shift=1, seed=1).bfloat16()
    found = mk_mmd(source, target, kernels=FAMILY)
    assert found.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mk_mmd(source.float(), target.float(), kernels=FAMILY) == found


def test_autocast_changes_neither_estimates_nor_what_weights_are_learned_from() -> None:
    source, target = samples(8).float().requires_grad_(), samples(8, shift=0.1, seed=1).float()
    weights = torch.tensor([0.1, 0.3, 0.3, 0.2, 0.1])

    def found(autocast: bool) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = mk_mmd(source, target, kernels=FAMILY, weights=weights)
            covariance = term_covariance(quadruple_terms(source, target, kernels=FAMILY))
        return [loss, torch.autograd.grad(loss, source)[0], covariance]

    for each, exact in zip(found(True), found(False), strict=True):
        assert torch.equal(each, exact)


@pytest.mark.parametrize("bandwidth", ["median", "mean"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_samples_that_coincide_have_finite_gradients(bandwidth: str, estimator: Estimator) -> None:
    # All of them, and most of them, where the median is 0 and the mean is not; all but for rounding; huge ones.
    collapsed = samples(1, 301).float().expand(6, -1).clone()
    mostly = collapsed.clone()
    mostly[0] = 2.0
    near = collapsed.double() + 1e-12 * samples(6, 301, seed=2)
    far = samples(6, 301).float() * 1e12
    pairs = [(collapsed, collapsed.clone()), (mostly, collapsed.clone()), (near, near + 1e-12), (far, -far)]
    for source, target in pairs:
        source.requires_grad_()
        loss = mk_mmd(source, target, kernels=GaussianKernels(bandwidth=bandwidth), estimator=estimator)
        (gradient,) = torch.autograd.grad(loss, source)
        assert loss.isfinite() and gradient.isfinite().all()
    zero = mk_mmd(collapsed, collapsed.clone(), kernels=GaussianKernels(bandwidth=bandwidth), estimator=estimator)
    assert zero.item() == pytest.approx(0, abs=1e-6)


def test_quadruple_terms_are_the_linear_estimate_before_its_mean() -> None:
    source, target = samples(7), samples(9, shift=0.7, seed=1)
    terms = quadruple_terms(source, target, kernels=FAMILY)
    assert terms.shape == (3, 5)
    for u in range(5):
        only = torch.eye(5, dtype=torch.float64)[u]
        torch.testing.assert_close(terms[:, u].mean(), mk_mmd(source, target, kernels=FAMILY, weights=only))
    kernel = naive_kernel(source, target, FAMILY, [0, 0, 1, 0, 0])
    s, t = source.tolist(), target.tolist()
    wanted = kernel(s[2], s[3]) + kernel(t[2], t[3]) - kernel(s[2], t[3]) - kernel(s[3], t[2])
    assert terms[1, 2].item() == pytest.approx(wanted)


def test_the_covariance_is_that_of_neighbouring_differences() -> None:
    terms = samples(7, 3)
    wanted = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        delta = terms[2 * i] - terms[2 * i + 1]
        wanted += delta[:, None] * delta[None, :] / 3
    torch.testing.assert_close(term_covariance(terms), wanted)
    many = samples(20_000, 2) @ torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(term_covariance(many), 2 * torch.cov(many.T), rtol=0.05, atol=0.1)
    with pytest.raises(ValueError, match="terms: expected at least 2 quadruples, 4 samples of each domain, got 1"):
        term_covariance(terms[:1])


@pytest.mark.parametrize("seed", range(4))
def test_weights_solve_the_quadratic_programme(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    covariance = 0.05 * root @ root.T
    mmd = torch.randn(6, dtype=torch.float64, generator=generator) * 0.1
    found = optimal_weights(mmd, covariance)
    assert found is not None and found.sum().item() == pytest.approx(1) and bool((found >= 0).all())
    matrix = (covariance + 1e-3 * torch.eye(6)).numpy()
    # A general solver on eq. 8 as it stands.
    solved = minimize(
        lambda beta: beta @ matrix @ beta,
        (mmd.clamp(min=0) / (mmd.clamp(min=0) ** 2).sum()).numpy(),
        jac=lambda beta: 2 * matrix @ beta,
        bounds=[(0, None)] * 6,
        constraints={"type": "eq", "fun": lambda beta: beta @ mmd.numpy() - 1, "jac": lambda beta: mmd.numpy()},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    wanted = torch.from_numpy(solved.x / solved.x.sum())
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)
    # Whatever the scale of the estimates is: only their directions count.
    torch.testing.assert_close(optimal_weights(mmd * 1e-18, covariance), found)


def test_the_surest_kernel_has_the_weight() -> None:
    covariance = torch.diag(torch.tensor([1.0, 0.01, 1.0]))
    found = optimal_weights(torch.tensor([0.1, 0.1, -0.1]), covariance)
    assert found is not None and found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([0.011 / 1.012, 1.001 / 1.012, 0.0]))
    assert optimal_weights(torch.tensor([-0.1, 0.0]), torch.eye(2)) is None
    assert optimal_weights(torch.tensor([float("nan")] * 2), torch.eye(2)) is None


def test_what_does_not_fit_is_refused() -> None:
    source = samples(6)
    for other in (source[:, :2], source[0], source[..., None]):
        with pytest.raises(ValueError, match=r"source, target: expected matrices \(n, F\) and \(m, F\)"):
            mk_mmd(source, other, kernels=FAMILY)
    for estimator, least in (("linear", 2), ("ring", 2), ("unbiased", 2), ("biased", 1)):
        message = f"estimator '{estimator}' takes at least {least} of each, got 6 and {least - 1}; give a larger batch"
        with pytest.raises(ValueError, match=message):
            mk_mmd(source, source[: least - 1], kernels=FAMILY, estimator=estimator)
    assert mk_mmd(source[:1], source[1:2], kernels=FAMILY, estimator="biased") > 0
    with pytest.raises(ValueError, match="estimator: expected one of 'linear', 'ring', .* got 'all'"):
        mk_mmd(source, source, kernels=FAMILY, estimator="all")
    with pytest.raises(ValueError, match="expected the same number of layers, at least 1, got 2, 1 and 2"):
        jmmd([source, source], [source], kernels=[FAMILY] * 2)
    with pytest.raises(ValueError, match="source: expected the same samples in every layer"):
        jmmd([source, source[:4]], [source, source], kernels=[FAMILY] * 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number": 0}, "number: expected at least 1 kernel, got 0"),
        ({"factor": 0.0}, "factor: expected more than 0, got 0.0"),
        ({"bandwidth": 0.0}, "bandwidth: expected more than 0, got 0.0"),
        ({"bandwidth": float("nan")}, "bandwidth: expected more than 0, got nan"),
        ({"bandwidth": "mode"}, "bandwidth: expected 'median', 'mean' or a number, got 'mode'"),
    ],
)
def test_kernels_that_are_none_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianKernels(**fields)

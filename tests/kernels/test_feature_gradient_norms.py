"""Triton kernels of feature_gradient_norms against the float64 oracle; on the CPU they run in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton kernels need triton")

from dynconv import reference  # noqa: E402
from dynconv.kernels import bank_products  # noqa: E402
from dynconv.kernels import feature_gradient_norms as kernels  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton kernels need a CUDA device, or TRITON_INTERPRET=1 set before the first import of triton",
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Largest error over largest value. Half types round h_l, v_l and t_l once each, and what products take from them.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2.5e-2}


@dataclass(frozen=True)
class Case:
    samples: int = 5
    features: int = 7
    hidden: tuple[int, ...] = (9, 40)
    num: int = 2
    slope: float = 0.0
    bias: bool = True
    dropout: bool = False


CASES = {
    "three layers": Case(),
    "two layers": Case(hidden=(40,), features=33),
    "four layers": Case(hidden=(9, 33, 5), slope=0.2, dropout=True),
    "one layer": Case(hidden=()),
    "one layer without bias": Case(hidden=(), bias=False),
    "without biases": Case(bias=False, slope=0.1),
    "dropout": Case(dropout=True, num=3),
    "one sample": Case(samples=1, dropout=True),
    "one discriminator": Case(num=1),
    "one of everything": Case(samples=1, features=1, hidden=(1, 1), num=1),
    "17 samples": Case(samples=17, slope=0.3),
    "widths beyond one tile": Case(samples=2, features=130, hidden=(70, 66)),
    "sizes in multiples of 16": Case(samples=6, features=48, hidden=(32, 80), dropout=True),
    "samples beyond one tile": Case(samples=72, features=17, hidden=(9,)),
}


@dataclass
class Problem:
    """A call's arguments, and the oracle's answers in float64 for gradients dz and dg."""

    case: Case
    features: Tensor
    weights: list[Tensor]
    biases: list[Tensor | None]
    masks: list[Tensor] | None
    dz: Tensor
    dg: Tensor
    logits: Tensor = field(init=False)
    gains: Tensor = field(init=False)
    gradients: list[Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        wide = [None if t is None else t.detach().double().requires_grad_() for t in self.differentiable()]
        layers = len(self.weights)
        features, weights, biases = wide[0], wide[1 : 1 + layers], wide[1 + layers :]
        ones = torch.ones(len(features), self.case.num, dtype=torch.float64, device=DEVICE)
        norms, logits, _ = reference.feature_gradient_norms(
            features, weights, biases, ones[:, 0], ones,
            activation="leaky_relu", negative_slope=self.case.slope,
            dropout_masks=None if self.masks is None else [mask.double() for mask in self.masks],
        )  # fmt: skip
        # With p = 1 and d = 1 a norm is sigmoid(-z) * g.
        gains = norms / torch.sigmoid(-logits)
        self.logits, self.gains = logits.detach().T, gains.detach().T
        objective = (logits.T * self.dz.double()).sum() + (gains.T * self.dg.double()).sum()
        present = [t for t in wide if t is not None]
        found = iter(torch.autograd.grad(objective, present, allow_unused=True, materialize_grads=True))
        self.gradients = [None if t is None else next(found) for t in wide]

    def differentiable(self) -> list[Tensor | None]:
        """Features, weights and biases."""
        return [self.features, *self.weights, *self.biases]

    def forward(self, **options) -> tuple[Tensor, Tensor, list[Tensor]]:
        options = {"keep": "all", **options}
        return kernels.forward(self.features, self.weights, self.biases, self.masks, self.case.slope, **options)

    def backward(
        self,
        kept: list[Tensor],
        *,
        features: bool = True,
        weights: list[bool] | None = None,
        biases: list[bool] | None = None,
        gains: Tensor | None = None,
        **options,
    ) -> list[Tensor | None]:
        """Gradients in the order of `differentiable`."""
        options = {"keep": "all", **options}
        every = [True] * len(self.weights)
        gains = self.gains.float() if gains is None else gains
        df, dws, dbs = kernels.backward(
            self.dz, self.dg, gains, self.features, self.weights, self.biases, self.masks, self.case.slope, kept,
            needs_features=features, needs_weights=every if weights is None else weights,
            needs_biases=every if biases is None else biases, **options,
        )  # fmt: skip
        return [df, *dws, *dbs]


def problem(case: Case = CASES["three layers"], dtype: torch.dtype = torch.float32, **changes) -> Problem:
    generator = torch.Generator().manual_seed(7)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    sizes = [case.features, *case.hidden, 1]
    weights = [normal(case.num, after, before) / before**0.5 for before, after in zip(sizes, sizes[1:], strict=False)]
    biases = [0.3 * normal(case.num, size) if case.bias else None for size in sizes[1:]]
    masks = [(normal(case.num, case.samples, size) > -0.3).float() / 0.6 for size in case.hidden]
    features = normal(case.samples, case.features)
    arguments = {
        "features": features.to(DEVICE, dtype),
        "weights": [weight.to(DEVICE, dtype) for weight in weights],
        "biases": [None if bias is None else bias.to(DEVICE, dtype) for bias in biases],
        "masks": [mask.to(DEVICE) for mask in masks] if case.dropout else None,
        "dz": normal(case.num, case.samples).to(DEVICE),
        "dg": normal(case.num, case.samples).to(DEVICE),
    }
    return Problem(case, **(arguments | changes))


def check(got: Tensor | None, expected: Tensor | None, what: str = "") -> None:
    if expected is None or got is None:
        assert got is expected, what
        return
    assert got.shape == expected.shape
    error = (got.double() - expected).abs().max() / expected.abs().max()
    # Written so that NaN fails; an expected zero is met exactly.
    assert error <= TOLERANCE[got.dtype] or torch.equal(got.double(), expected), f"{what}: relative error {error:.2e}"


def check_all(given: Problem) -> None:
    """Forward and backward agree with the oracle."""
    logits, gains, kept = given.forward()
    assert logits.dtype == gains.dtype == torch.float32
    # In the half types logits and gains are not rounded, but what they are made of is.
    dtype = given.features.dtype
    check(logits.to(dtype), given.logits, "logits")
    check(gains.to(dtype), given.gains, "gains")
    for index, (got, expected) in enumerate(zip(given.backward(kept, gains=gains), given.gradients, strict=True)):
        check(got, expected, f"gradient {index}")


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Whatever a test before allowed torch's matrix products, and with them the kernels."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.fixture(autouse=True)
def poisoned_outputs() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernel of each launch, a product with its epilogue."""
    recorded: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(bank_products, name)

        def __getitem__(self, grid: tuple[int, ...]):
            def launch(*args, **options):
                recorded.append(options.get("EPILOGUE", self.name))
                return self.kernel[grid](*args, **options)

            return launch

    for name in ("bank_product", "bank_outer", "weighted_sum"):
        monkeypatch.setattr(bank_products, name, Recorder(name))
    return recorded


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_every_gradient_agree_with_the_oracle(case: Case) -> None:
    check_all(problem(case))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [Case(17, 32, (48, 40), dropout=True), Case(features=40, hidden=())])
def test_half_types_accumulate_in_float32(case: Case, dtype: torch.dtype) -> None:
    check_all(problem(case, dtype))


# The words are written for a backward of parameters; at a width that is no multiple of 32 the last is partly filled.
@pytest.mark.parametrize("width", [32, 33, 70])
def test_a_positive_unit_is_one_bit(width: int) -> None:
    given = problem(Case(hidden=(width,), num=3))
    words, hidden, _ = given.forward()[2]
    assert words.dtype == torch.int32 and words.shape == (3, 5, -(-width // 32))
    bits = (words[..., None] >> torch.arange(32, device=DEVICE)) & 1
    bits = bits.flatten(start_dim=2)
    assert torch.equal(bits[..., :width].bool(), hidden > 0)
    assert not bits[..., width:].any()


def test_at_zero_the_derivative_is_the_negative_slope_as_torchs_is() -> None:
    case = Case(bias=False, slope=0.25)
    given = problem(case)
    features = given.features.clone()
    features[2] = 0
    given = problem(case, features=features)
    assert given.gains[:, 2].min() > 0
    check_all(given)


@pytest.mark.parametrize(("keep", "workspace"), [("all", 0), ("all", 9000), ("nothing", None)])
def test_what_is_computed_again_in_parts_is_the_same(keep: str, workspace: int | None) -> None:
    # A discriminator's words, h and v take 2020 bytes, of which 9000 / 2 hold two.
    given = problem(Case(num=3, dropout=True))
    logits, gains, kept = given.forward()
    expected = given.backward(kept)
    again = given.forward(keep=keep, workspace_bytes=workspace)
    assert [len(tensor) for tensor in again[2]] == {0: [0] * 6, 9000: [2] * 6, None: []}[workspace]
    assert torch.equal(logits, again[0]) and torch.equal(gains, again[1])
    for got, whole in zip(given.backward(again[2], keep=keep, workspace_bytes=workspace), expected, strict=True):
        # Parts add to the features' gradient one after the other.
        torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_features_alone_need_one_kept_tensor_and_two_launches(depth: int, launches: list[str]) -> None:
    given = problem(Case(hidden=(9, 33, 40)[:depth]))
    logits, gains, kept = given.forward(keep="features")
    assert len(kept) == min(1, depth)
    check(logits, given.logits)
    check(gains, given.gains)
    launches.clear()
    none = [False] * (depth + 1)
    found = given.backward(kept, weights=none, biases=none, keep="features")
    check(found[0], given.gradients[0])
    assert found[1:] == [None] * (2 * depth + 2)
    assert launches == (["scale", "weighted_sum"] if depth else [])


@pytest.mark.parametrize(
    ("features", "weights", "biases", "expected"),
    [
        (False, (0, 0, 0), (1, 0, 1), ["weighted_sum"]),
        (False, (1, 0, 0), (0, 0, 0), ["scale", "bank_outer"]),
        (False, (0, 1, 0), (0, 0, 0), ["scale", "gate", "bank_outer"]),
        (True, (0, 0, 1), (0, 0, 0), ["scale", "weighted_sum", "gate", "gate", "weighted_sum"]),
        (False, (0, 0, 0), (0, 0, 0), []),
    ],
)
def test_only_what_is_needed_is_computed(
    features: bool, weights: tuple[int, ...], biases: tuple[int, ...], expected: list[str], launches: list[str]
) -> None:
    given = problem()
    _, _, kept = given.forward()
    launches.clear()
    needs = {"features": features, "weights": [bool(n) for n in weights], "biases": [bool(n) for n in biases]}
    found = given.backward(kept, **needs)
    assert launches == expected
    for need, got, gradient in zip((features, *weights, *biases), found, given.gradients, strict=True):
        assert (got is not None) == bool(need)
        if got is not None:
            check(got, gradient)


def test_the_gradient_of_norms_is_written_for_as_many_discriminators_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator's 5 * 7 elements of dz/df, of 4 bytes, stand beside the 5 * 9 of each v_1."""
    given = problem(Case(num=5))
    _, _, kept = given.forward(keep="features")
    written: list[int] = []
    product = kernels.product

    def record(*args, **options) -> Tensor:
        written.append(options["out"].shape[0])
        return product(*args, **options)

    monkeypatch.setattr(kernels, "product", record)
    for limit in (900 + 139, 900 + 280, 900 + 419, 900 + 700):
        found = given.backward(kept, weights=[False] * 3, biases=[False] * 3, keep="features", workspace_bytes=limit)
        check(found[0], given.gradients[0])
    assert written == [1] * 5 + [2, 2, 1] * 2 + [5]


def test_forward_in_parts_holds_no_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(Case(num=4, hidden=(32,)))
    parts: list[int] = []
    original = kernels.product
    monkeypatch.setattr(kernels, "product", lambda *a, **options: parts.append(len(a[1])) or original(*a, **options))
    # A discriminator: 5 samples of one word, and of 32 units h and v.
    each = 5 * 4 * (1 + 32 + 32)
    given.forward(keep="nothing", workspace_bytes=2 * each)
    assert parts == [2, 2, 2, 2]
    parts.clear()
    given.forward(keep="all", workspace_bytes=8 * each)
    assert parts == [4, 4]
    parts.clear()
    # Two are kept, which leaves room for as many temporaries.
    given.forward(keep="all", workspace_bytes=4 * each)
    assert parts == [2, 2, 2, 2]


@pytest.mark.parametrize("depth", [0, 2])
def test_a_zero_gain_has_a_zero_subgradient(depth: int) -> None:
    """The first discriminator's last layer is zero, all of the second one's first units are dead for sample 1."""
    case = Case(hidden=(9, 40)[:depth], num=3)
    given = problem(case)
    last = given.weights[-1].clone()
    last[0] = 0
    weights = [*given.weights[:-1], last]
    biases = given.biases
    if depth:
        first = given.biases[0].clone()
        first[1] = -100.0
        biases = [first, *given.biases[1:]]
    # For the oracle a zero norm has no gradient: where g = 0, dg meets nothing.
    given = problem(case, weights=weights, biases=biases)
    logits, gains, kept = given.forward()
    assert (gains[0] == 0).all() and (gains[2] > 0).all()
    assert (gains[1] == 0).all() == bool(depth)
    check(logits, given.logits)
    for got, expected in zip(given.backward(kept, gains=gains), given.gradients, strict=True):
        assert got.isfinite().all()
        check(got, expected)


def test_infinite_and_missing_numbers_stay_where_they_are() -> None:
    given = problem(Case(samples=4))
    biases = [given.biases[0].clone(), *given.biases[1:]]
    # A unit that is dead for certain, whose h is 0 and not 0 * infinity.
    biases[0][:, 3] = -float("inf")
    features = given.features.clone()
    logits, gains, _ = problem(given.case, biases=biases).forward()
    assert logits.isfinite().all() and gains.isfinite().all()
    features[1] = float("nan")
    hurt, also_hurt, _ = problem(given.case, biases=biases, features=features).forward()
    assert hurt[:, 1].isnan().all()
    assert torch.equal(hurt[:, [0, 2, 3]], logits[:, [0, 2, 3]])
    assert torch.equal(also_hurt[:, [0, 2, 3]], gains[:, [0, 2, 3]])


def test_slices_of_bigger_tensors() -> None:
    given = problem(Case(dropout=True))

    def inside(tensor: Tensor) -> Tensor:
        bigger = torch.full([size + 3 for size in tensor.shape], float("nan"), dtype=tensor.dtype, device=DEVICE)
        place = tuple(slice(1, size + 1) for size in tensor.shape)
        bigger[place] = tensor
        return bigger[place]

    masks = [given.masks[0][:1].expand(2, -1, -1), given.masks[1].transpose(1, 2).contiguous().transpose(1, 2)]
    changes = {
        "features": given.features.T.contiguous().T,
        "weights": [inside(weight) for weight in given.weights],
        "biases": [inside(bias) for bias in given.biases],
        "masks": masks,
        "dz": given.dz.T.contiguous().T,
        "dg": torch.ones(1, 1, device=DEVICE).expand(2, 5),
    }
    check_all(problem(given.case, **changes))


@pytest.mark.parametrize("depth", [0, 2])
def test_an_empty_batch_launches_nothing(depth: int, launches: list[str]) -> None:
    given = problem(Case(hidden=(9, 40)[:depth]))
    given.features, given.dz, given.dg = given.features[:0], given.dz[:, :0], given.dg[:, :0]
    logits, gains, kept = given.forward()
    assert logits.shape == gains.shape == (2, 0)
    found = given.backward(kept, gains=gains)
    assert launches == []
    assert found[0].shape == (0, 7)
    for got, like in zip(found[1:], given.differentiable()[1:], strict=True):
        assert got.shape == like.shape and not got.any()


@pytest.mark.parametrize("keep", kernels.KEEP)
def test_kept_like_describes_what_a_forward_keeps(keep: str) -> None:
    given = problem(dtype=torch.bfloat16)
    described = kernels.kept_like(given.features.to("meta"), [weight.to("meta") for weight in given.weights], keep)
    kept = given.forward(keep=keep)[2]
    assert [(t.shape, t.dtype) for t in kept] == [(t.shape, t.dtype) for t in described]
    assert len(kept) == {"nothing": 0, "features": 1, "all": 6}[keep]


def test_what_is_kept_must_serve_what_is_needed() -> None:
    given = problem()
    with pytest.raises(ValueError, match="keep must be one of nothing, features, all; got 'some'"):
        given.forward(keep="some")
    _, _, kept = given.forward(keep="features")
    with pytest.raises(ValueError, match='forward with keep="all"'):
        given.backward(kept, keep="features", weights=[False] * 3, biases=[False, True, False])


def test_reasons_are_empty_for_what_runs_and_name_what_does_not() -> None:
    given = problem(Case(dropout=True))

    def found(**changes) -> str:
        arguments = {"features": given.features, "weights": given.weights, "biases": given.biases}
        return "; ".join(kernels.reasons(**(arguments | {"dropout_masks": given.masks} | changes)))

    assert found() == ""
    assert kernels.reasons(given.features, given.weights, [None] * 3, [None, None]) == []
    assert "float64 runs on the eager path" in found(features=given.features.double())
    assert "features is on meta" in found(features=given.features.to("meta"))
    assert "weights[1] is on meta" in found(weights=[given.weights[0], given.weights[1].to("meta"), given.weights[2]])
    assert "biases[0] has dtype torch.float16, features have torch.float32" in found(biases=[given.biases[0].half()])
    assert "weights[0] is shared by all discriminators" in found(weights=[given.weights[0][:1], *given.weights[1:]])
    assert "dropout_masks[1] is shared" in found(dropout_masks=[None, given.masks[1][:1]])
    assert "dropout_masks[0] has dtype float64" in found(dropout_masks=[given.masks[0].double()])
    huge = torch.zeros(1, device=DEVICE).expand(2, 2**15, 2**15)
    assert "weights[0] has 1073741824 elements a discriminator" in found(weights=[huge, *given.weights[1:]])
    assert "32768 samples have 32768 units each" in found(features=huge[0])


def test_tf32_is_used_only_where_torch_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]):
            return lambda *args, **options: taken.append(options["PRECISION"])

    monkeypatch.setattr(bank_products, "bank_product", Recorder())
    small = Case(hidden=(9,))
    problem(small).forward()
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    problem(small).forward()
    problem(small, torch.bfloat16).forward()
    assert taken == ["ieee"] * 2 + ["tf32"] * 2 + ["ieee"] * 2

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from ops.discriminator_cases import CASES, Case, Given, check_against_the_oracle, make, run, upstream
from tolerances import assert_agrees

from dynconv import reference
from dynconv.functional import feature_gradient_norms
from dynconv.ops.discriminators import Discriminators
from dynconv.ops.eager import discriminator_groups
from dynconv.ops.eager import feature_gradient_norms as eager


@pytest.mark.parametrize("name", ["three layers", "two layers", "linear", "void pairs", "shared layers, void pairs"])
def test_groups_and_recomputation_change_nothing(name: str) -> None:
    case = dataclasses.replace(CASES[name], num=7)
    given = make(case)
    masks = tuple(given.masks or [None] * len(case.hidden))
    problem = Discriminators(given.features, tuple(given.weights), tuple(given.biases), masks, 0.0)
    least = minimum_workspace(problem)
    seen = set()
    for workspace in (least, least * 3 // 2, 2 * least, 4 * least, 100 * least):
        seen.add(discriminator_groups.plan(problem, "all", workspace))
        check_against_the_oracle(given, case, torch.float64, workspace_bytes=workspace)
    assert discriminator_groups.plan(problem, "all", least) == (1, 0)
    kept = {plan.kept for plan in seen}
    if len(case.hidden) > 0:
        assert {0, 7} < kept, "something between nothing and everything is kept"
    with pytest.raises(ValueError, match=f"workspace_bytes must hold one discriminator, {least} bytes for 7 samples"):
        run(feature_gradient_norms, given, workspace_bytes=least - 1)


def minimum_workspace(problem: Discriminators) -> int:
    with pytest.raises(ValueError, match="workspace_bytes must hold") as caught:
        discriminator_groups.plan(problem, "all", 0)
    return int(str(caught.value).split("one discriminator, ")[1].split()[0])


def test_logits_of_void_pairs_and_their_gradients() -> None:
    given = make(CASES["void pairs"])
    void = given.sample_weights == 0
    everywhere = run(feature_gradient_norms, given)
    elsewhere = run(feature_gradient_norms, given, logits_everywhere=False)
    assert void.any() and (everywhere.logits[void] != 0).all()
    assert (elsewhere.logits[void] == 0).all() and (elsewhere.norms[void] == 0).all()
    for a, b in ((everywhere.norms, elsewhere.norms), (everywhere.losses, elsewhere.losses)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(everywhere.logits[~void], elsewhere.logits[~void])
    for name in ("void pairs", "shared layers, void pairs", "all void", "three layers"):
        check_against_the_oracle(make(CASES[name]), CASES[name], torch.float64, logits_everywhere=False)


def test_void_pairs_cost_no_gradient_products(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    descend = eager._descend

    def spy(group, *arguments):
        rows.append((group.high - group.low) * group.count)
        return descend(group, *arguments)

    monkeypatch.setattr(eager, "_descend", spy)
    monkeypatch.setattr(discriminator_groups, "GROUP_WEIGHTS", 1)
    given = make(CASES["void pairs"])
    run(feature_gradient_norms, given)
    assert sum(rows) == (given.sample_weights != 0).sum()


NEEDS = {
    "features": [True, False, False, False, False],
    "a weight in the middle": [False, False, True, False, False],
    "the last weight": [False, False, False, True, False],
    "a bias": [False, False, False, False, True],
}


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.parametrize("results", [(0,), (1,), (2,), (0, 2)])
@pytest.mark.parametrize("small", [False, True])
def test_only_what_is_asked_for(name: str, results: tuple[int, ...], small: bool) -> None:
    case = CASES["void pairs"]
    given, exact = make(case), make(case).to(torch.float64)
    options = {"workspace_bytes": 7 * 8 * (5 * 14 + 4 * 6)} if small else {}
    chosen = []
    for problem, function in ((given, feature_gradient_norms), (exact, reference.feature_gradient_norms)):
        leaves = [problem.features, *problem.weights, problem.biases[0]]
        for leaf in problem.leaves:
            leaf.requires_grad_(False)
        wanted = [leaf.requires_grad_() for leaf, needed in zip(leaves, NEEDS[name], strict=True) if needed]
        found = run(function, problem, **(options if problem is given else {}))
        upward = upstream(found)
        picked = [found[i] for i in results]
        # The oracle's norms do not depend on some leaves at all, where it has no gradient.
        gradients = torch.autograd.grad(picked, wanted, [upward[i] for i in results], materialize_grads=True)
        chosen.append(gradients)
    for a, b in zip(*chosen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_only_what_is_needed_is_computed_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kept = [], []
    forward, backward = eager.forward, eager.backward

    def spy_forward(*arguments):
        found = forward(*arguments)
        kept.append(len(found[2]))
        return found

    def spy(*arguments, **options):
        found = backward(*arguments, **options)
        asked.append([found.features is not None, *(w is not None for w in found.weights)])
        return found

    monkeypatch.setattr(eager, "forward", spy_forward)
    monkeypatch.setattr(eager, "backward", spy)
    given = make(CASES["three layers"])
    run(feature_gradient_norms, dataclasses.replace(given, features=given.features.detach())).norms.sum().backward()
    for weight in given.weights:
        weight.requires_grad_(False)
    given = dataclasses.replace(given, biases=[bias.detach() for bias in given.biases])
    run(feature_gradient_norms, given).norms.sum().backward()
    with torch.no_grad():
        run(feature_gradient_norms, given)
    assert asked == [[False, True, True, True], [True, False, False, False]]
    # v_0, v_1, h_1 and h_2 for the parameters, v_0 for the features, nothing for no one.
    assert kept == [4, 1, 0]


@pytest.mark.parametrize("name", ["three layers", "leaky, dropout", "shared layers, void pairs"])
def test_gradcheck(name: str) -> None:
    given = make(dataclasses.replace(CASES[name], num=3, batch=4))
    count = len(given.weights)

    def function(features: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weights, biases = parameters[:count], parameters[count:]
        now = dataclasses.replace(given, features=features, weights=weights, biases=biases)
        return run(feature_gradient_norms, now, **CASES[name].options)

    assert torch.autograd.gradcheck(function, given.leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_are_not_rounded_to_half_precision(dtype: torch.dtype) -> None:
    given = make(dataclasses.replace(CASES["linear"], features=64), dtype)
    found = run(feature_gradient_norms, given)
    assert_agrees(found.logits, run(reference.feature_gradient_norms, given.to(torch.float64))[1], torch.float32)


def test_a_float16_norm_beyond_float16_is_finite() -> None:
    features = torch.zeros(1, 4096, dtype=torch.float16)
    weights = [torch.full((1, 1, 4096), 1000.0, dtype=torch.float16, requires_grad=True)]
    found = feature_gradient_norms(features, weights, [None], torch.ones(1), torch.full((1, 1), 2.0))
    torch.testing.assert_close(found.norms, torch.full((1, 1), 64000.0 / 65536 * 65536))
    found.norms.sum().backward()
    torch.testing.assert_close(weights[0].grad, torch.full_like(weights[0], 1 / 64))


@pytest.mark.parametrize("name", ["three layers", "void pairs", "shared layer", "linear", "no sample", "no bias"])
def test_any_activation_takes_torch_func(name: str) -> None:
    case = dataclasses.replace(CASES[name], options={"activation": torch.nn.functional.softplus})
    check_against_the_oracle(make(case), case, torch.float64)
    for slope in (0.0, 0.3):
        given = make(CASES[name])
        closed = run(feature_gradient_norms, given, activation="leaky_relu", negative_slope=slope)
        general = run(feature_gradient_norms, given, activation=lambda x, s=slope: torch.nn.functional.leaky_relu(x, s))
        for a, b in zip(closed, general, strict=True):
            torch.testing.assert_close(a, b)


def test_the_derivative_at_exactly_zero_is_torchs() -> None:
    # Every preactivation is 0: torch's derivative is 0 for relu and the slope for leaky_relu.
    weights = [torch.ones(1, 3, 2, dtype=torch.float64), torch.ones(1, 1, 3, dtype=torch.float64)]
    given = Given(torch.zeros(1, 2).double(), weights, [None, None], torch.ones(1), torch.ones(1, 1).double(), None)
    for options in ({}, {"activation": "leaky_relu", "negative_slope": 0.1}):
        ours, theirs = (run(f, given, **options) for f in (feature_gradient_norms, reference.feature_gradient_norms))
        torch.testing.assert_close(ours.norms, theirs[0], rtol=1e-12, atol=0)
    assert theirs[0].item() > 0


def test_sample_weights_are_a_constant() -> None:
    given = make(CASES["three layers"])
    p = given.sample_weights.clone().requires_grad_()
    found = run(feature_gradient_norms, dataclasses.replace(given, sample_weights=p))
    assert torch.autograd.grad([t.sum() for t in found], p, allow_unused=True) == (None,)


def test_gradients_are_contiguous_whatever_the_layout_of_their_tensors() -> None:
    given = make(CASES["shared layer"])
    turned = [t.detach().mT.contiguous().mT.requires_grad_() for t in (given.features, *given.weights)]
    found = run(feature_gradient_norms, dataclasses.replace(given, features=turned[0], weights=turned[1:]))
    expected = run(feature_gradient_norms, given)
    of_turned = torch.autograd.grad([t.sum() for t in found], turned)
    of_given = torch.autograd.grad([t.sum() for t in expected], [given.features, *given.weights])
    for a, b in zip(of_turned, of_given, strict=True):
        torch.testing.assert_close(a, b)
        # As the shape function says, by which a compiled program reads them.
        assert a.is_contiguous()


def test_without_a_bound_any_batch_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = make(CASES["void pairs"])
    expected = run(feature_gradient_norms, given)
    monkeypatch.setattr(discriminator_groups, "WORKSPACE_BYTES", 10)
    found = run(feature_gradient_norms, given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    for leaf, a in zip(given.leaves, torch.autograd.grad([t.sum() for t in found], given.leaves), strict=True):
        assert a.shape == leaf.shape


def test_double_backward_raises_in_words_and_the_reference_has_it() -> None:
    # Wide enough that no norm is zero, where it cannot be differentiated twice.
    given = make(Case(hidden=(40, 40)))
    for backend in ("eager", "reference"):
        found = run(feature_gradient_norms, given, backend=backend)
        (gradient,) = torch.autograd.grad(found.norms.sum(), given.weights[0], create_graph=True)
        if backend == "reference":
            gradient.square().sum().backward()
            assert given.weights[1].grad.abs().sum() > 0
            continue
        with pytest.raises(RuntimeError, match="feature_gradient_norms has no double backward"):
            gradient.square().sum().backward()


def test_forward_mode_is_refused_in_words() -> None:
    given = make(CASES["three layers"])

    def function(features: torch.Tensor) -> torch.Tensor:
        return run(feature_gradient_norms, dataclasses.replace(given, features=features)).norms

    features = given.features.detach()
    with pytest.raises(RuntimeError, match="feature_gradient_norms has no forward-mode derivative"):
        torch.func.jvp(function, (features,), (torch.ones_like(features),))


def test_an_explicit_backend_says_why_it_cannot_run() -> None:
    message = 'backend="triton" cannot run these feature_gradient_norms: .*'
    for case in (Case(), CASES["shared layer"]):
        with pytest.raises(ValueError, match=message):
            run(feature_gradient_norms, make(case), backend="triton")


def test_the_reference_backend_is_the_oracle() -> None:
    given = make(CASES["dropout"], torch.float32)
    found = run(feature_gradient_norms, given, backend="reference")
    expected = run(reference.feature_gradient_norms, given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


BAD = {
    "backend": ({"backend": "native"}, ValueError, "backend must be one of auto, eager, triton, reference"),
    "activation": ({"activation": "tanh"}, ValueError, "activation must be one of relu, leaky_relu or a function"),
    "activation type": ({"activation": 3}, TypeError, "activation must be one of relu"),
    "slope": ({"activation": "leaky_relu", "negative_slope": -0.1}, ValueError, "negative_slope must be at least 0"),
    "workspace": ({"workspace_bytes": 10}, ValueError, "workspace_bytes must hold one discriminator"),
    "workspace type": ({"workspace_bytes": 1e9}, TypeError, "workspace_bytes must be an int or None"),
    "workspace of any activation": (
        {"workspace_bytes": 2**30, "activation": torch.tanh},
        ValueError,
        "workspace_bytes bounds the closed form",
    ),
    "activation of the kernels": ({"backend": "triton", "activation": torch.tanh}, ValueError, "relu and leaky_relu"),
    "features": ({"features": torch.rand(7)}, ValueError, "features must have 2 dimensions"),
    "features type": ({"features": torch.ones(7, 6, dtype=torch.int32)}, TypeError, "features must be a floating"),
    "weights type": ({"weights": torch.rand(4, 1, 6)}, TypeError, "weights must be a sequence with one entry per"),
    "no weights": ({"weights": []}, ValueError, "weights must hold at least one layer"),
    "weight None": ({"weights": [None, None, None]}, TypeError, r"weights\[0\] must be a Tensor; got NoneType"),
    "inputs": ({"features": torch.rand(7, 5)}, ValueError, r"weights\[0\] must have .* 5 inputs that features gives"),
    "biases": ({"biases": [None]}, ValueError, "biases must have one entry per layer, 3; got 1"),
    "bias": ({"biases": [torch.rand(4, 8), None, None]}, ValueError, r"biases\[0\] must have shape .* = \(4, 9\)"),
    "masks": ({"dropout_masks": [None]}, ValueError, "dropout_masks must have one entry per hidden layer, 2; got 1"),
    "mask": ({"dropout_masks": [torch.rand(4, 6, 9), None]}, ValueError, r"\(M, N, H\) = \(4, 7, 9\), or 1 for M"),
    "mask grad": ({"dropout_masks": [torch.ones(4, 7, 9, requires_grad=True), None]}, ValueError, "detach it"),
    "targets": ({"targets": torch.full((7,), 0.5)}, ValueError, r"targets must be 1 .*; got values in \[0.5, 0.5\]"),
    "targets shape": ({"targets": torch.ones(7, 1)}, ValueError, r"targets must have shape \(N,\) = \(7,\)"),
    "targets type": ({"targets": [1] * 7}, TypeError, "targets must be a Tensor; got list"),
    "targets device": ({"targets": torch.ones(7, device="meta")}, ValueError, "targets is on meta, features on cpu"),
    "p shape": ({"sample_weights": torch.rand(4, 7)}, ValueError, r"sample_weights must have shape .* = \(7, 4\)"),
    "p negative": ({"sample_weights": -torch.ones(7, 4)}, ValueError, r"sample_weights must hold finite numbers of at"),
    "p infinite": ({"sample_weights": torch.full((7, 4), math.inf)}, ValueError, r"values in \[inf, inf\]"),
    "p nan": ({"sample_weights": torch.full((7, 4), math.nan)}, ValueError, r"values in \[nan, nan\]"),
    "dtype": ({"features": torch.rand(7, 6).double()}, TypeError, r"weights\[0\] has dtype torch.float32; expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name: str) -> None:
    changes, error, message = BAD[name]
    given = make(Case(), torch.float32)
    arguments = {
        "features": given.features,
        "weights": given.weights,
        "biases": given.biases,
        "targets": given.targets,
        "sample_weights": given.sample_weights,
    } | changes
    with pytest.raises(error, match=message):
        feature_gradient_norms(**arguments)


def test_a_wrong_layer_is_named() -> None:
    given = make(Case(), torch.float32)
    for layer, shape, message in (
        (0, (3, 9, 6), r"weights\[0\] must have the leading dimension M = 4 of the last layer, or 1"),
        (1, (4, 5, 8), r"weights\[1\] must have .* with the 9 inputs that weights\[0\] gives it; got \(4, 5, 8\)"),
        (2, (4, 2, 5), r"weights\[2\], the last, must have shape \(M, 1, 5\); got \(4, 2, 5\)"),
    ):
        weights = list(given.weights)
        weights[layer] = torch.rand(shape)
        with pytest.raises(ValueError, match=message):
            run(feature_gradient_norms, dataclasses.replace(given, weights=weights))

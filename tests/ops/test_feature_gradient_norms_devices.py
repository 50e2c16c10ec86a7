"""`feature_gradient_norms` by device and backend: the CPU's parameters prove the bodies, those of CUDA run with -m gpu.

What a backend that does not run on the other device alone must hold is in test_feature_gradient_norms.py (eager, CPU)
and in tests/kernels/test_feature_gradient_norms.py (the Triton kernels themselves).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo.testing
from ops.discriminator_cases import CASES, Case, Given, check_against_the_oracle, make, run, upstream
from torch import Tensor

from dynconv import backends, reference
from dynconv.functional import feature_gradient_norms

GPU = [
    pytest.param("cuda", backend, id=f"cuda-{backend}", marks=pytest.mark.gpu)
    for backend in ("auto", "eager", "triton")
]
EAGER = pytest.param("cpu", "eager", id="cpu-eager")
WAYS = [EAGER, pytest.param("cpu", "triton", id="cpu-triton"), *GPU]
# Of what takes Triton's interpreter several seconds.
SLOW = pytest.param("cpu", "triton", id="cpu-triton", marks=pytest.mark.slow)
# Cases for the interpreter; tests/kernels has the others.
INTERPRETED = ("three layers", "leaky, dropout", "linear", "no sample")
DTYPES = [torch.float64, torch.float32]

pytestmark = pytest.mark.usefixtures("exact_float32", "poisoned_memory")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """What nobody writes is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def skip_without(device: str, backend: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if backend == "triton" and (reason := backends.triton_missing(torch.device(device))):
        pytest.skip(reason)


def agreements() -> list[object]:
    """Every case, dtype, device and backend that there is."""
    found = []
    for way, (name, case), dtype in itertools.product(WAYS, CASES.items(), DTYPES):
        device, backend = way.values
        refused = backend == "triton" and (dtype == torch.float64 or (case.shared > 0 and case.num > 1))
        if not refused and (way.id != "cpu-triton" or name in INTERPRETED):
            found.append(pytest.param(name, dtype, device, backend, id=f"{name}-{dtype}-{way.id}", marks=way.marks))
    return found


@pytest.mark.parametrize(("name", "dtype", "device", "backend"), agreements())
def test_agrees_with_the_oracle(name: str, dtype: torch.dtype, device: str, backend: str) -> None:
    skip_without(device, backend)
    check_against_the_oracle(make(CASES[name], dtype, device=device), CASES[name], dtype, backend=backend)


@pytest.mark.parametrize(("device", "backend"), [EAGER, SLOW, *GPU])
@pytest.mark.parametrize("name", ["three layers", "leaky, dropout", "void pairs", "linear"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_agrees_with_the_oracle(name: str, dtype: torch.dtype, device: str, backend: str) -> None:
    skip_without(device, backend)
    check_half_precision(CASES[name], dtype, device, backend)


@pytest.mark.parametrize(("device", "backend"), [EAGER, *GPU[:2]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_shared_layer_in_half_precision_agrees_with_the_oracle(dtype: torch.dtype, device: str, backend: str) -> None:
    skip_without(device, backend)
    check_half_precision(CASES["shared layer"], dtype, device, backend)


def check_half_precision(case: Case, dtype: torch.dtype, device: str, backend: str) -> None:
    # Wider layers: with five units, one whose sign rounding turns would be a fifth of a gradient.
    case = dataclasses.replace(case, features=32, hidden=tuple(8 * width for width in case.hidden))
    given = make(case, dtype, device=device)
    exact = given.to(torch.float64)
    ours = run(feature_gradient_norms, given, backend=backend, **case.options)
    theirs = run(reference.feature_gradient_norms, exact, **case.options)
    upward = upstream(theirs)
    found = torch.autograd.grad(ours, given.leaves, [u.float() for u in upward])
    expected = torch.autograd.grad(theirs, exact.leaves, upward)
    tolerance = {torch.bfloat16: 0.06, torch.float16: 0.01}[dtype]
    for a, b in zip((*ours, *found), (*theirs, *expected), strict=True):
        assert (a.double() - b).norm() <= tolerance * b.norm()


def results_and_gradients(given: Given, **options: object) -> list[Tensor]:
    found = run(feature_gradient_norms, given, **options)
    return [*found, *torch.autograd.grad(found, given.leaves, upstream(found))]


@pytest.mark.parametrize(("device", "backend"), WAYS)
def test_the_gradient_of_the_features_alone_is_the_same(device: str, backend: str) -> None:
    """Less is kept for it, and nothing of the parameters is computed."""
    skip_without(device, backend)
    case = CASES["leaky, dropout"]
    given, frozen = (make(case, torch.float32, device=device) for _ in range(2))
    for leaf in frozen.leaves[1:]:
        leaf.requires_grad_(False)
    for each in (given, frozen):
        run(feature_gradient_norms, each, backend=backend, **case.options).losses.sum().backward()
    torch.testing.assert_close(frozen.features.grad, given.features.grad)
    assert all(leaf.grad is None for leaf in frozen.leaves[1:])


@pytest.mark.parametrize(("device", "backend"), WAYS)
def test_a_small_workspace_changes_nothing(device: str, backend: str) -> None:
    """Two discriminators' results are kept, the others' are computed again."""
    skip_without(device, backend)
    given = make(Case(dropout=True), torch.float32, device=device)
    for a, b in zip(
        results_and_gradients(given, backend=backend, workspace_bytes=8000),
        results_and_gradients(given, backend=backend),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("device", "backend"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_give_the_same_bits(dtype: torch.dtype, device: str, backend: str) -> None:
    skip_without(device, backend)
    # Beyond one tile in every size.
    case = Case(num=3, batch=70, features=70, hidden=(66, 40), dropout=True) if device == "cuda" else Case(dropout=True)
    given = make(case, dtype, device=device)
    first, second = (results_and_gradients(given, backend=backend) for _ in range(2))
    assert all(a.isfinite().all() and torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("device", "backend"), WAYS)
def test_a_zero_gradient_has_norm_zero_and_subgradient_zero(device: str, backend: str) -> None:
    skip_without(device, backend)
    given = make(CASES["three layers"], torch.float32, device=device)
    with torch.no_grad():
        given.biases[0][0] = -1e3  # every unit of discriminator 0 is dead
        given.weights[2][1] = 0.0  # discriminator 1 does not look at the features
    found = run(feature_gradient_norms, given, backend=backend)
    assert (found.norms[:, :2] == 0).all() and (found.norms[:, 2:] > 0).any(dim=0).all()
    gradients = torch.autograd.grad(found.norms.sum(), given.leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)
    for gradient in gradients[1:]:
        assert (gradient[:2] == 0).all() and (gradient[2:] != 0).any()


@pytest.mark.parametrize(("device", "backend"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("logit", [80.0, 1e4])
def test_sure_discriminators(dtype: torch.dtype, logit: float, device: str, backend: str) -> None:
    skip_without(device, backend)
    check_sure_discriminators(dtype, logit, device, backend)


@pytest.mark.parametrize(("device", "backend"), [EAGER, *GPU[:2]])
@pytest.mark.parametrize("logit", [80.0, 1e4])
def test_sure_discriminators_in_float64(logit: float, device: str, backend: str) -> None:
    skip_without(device, backend)
    check_sure_discriminators(torch.float64, logit, device, backend)


def check_sure_discriminators(dtype: torch.dtype, logit: float, device: str, backend: str) -> None:
    features = torch.tensor([[1.0], [1.0]], dtype=dtype, device=device, requires_grad=True)
    weights = [torch.tensor([[[logit]], [[-logit]]], dtype=dtype, device=device, requires_grad=True)]
    size = weights[0][0].item()
    targets, p = torch.tensor([1, 0], device=device), torch.ones(2, 2, device=device)
    found = feature_gradient_norms(features, weights, [None], targets, p, backend=backend)
    wrong, right = size, math.exp(-size) * size
    expected = torch.tensor([[right, wrong], [wrong, right]], dtype=torch.float64)
    torch.testing.assert_close(found.norms.double().cpu(), expected, rtol=1e-5, atol=0)
    losses = torch.full((2,), size, dtype=torch.float64)
    torch.testing.assert_close(found.losses.double().cpu(), losses, rtol=1e-6, atol=0)
    (found.norms.sum() + found.losses.sum()).backward()
    # d norm / d z is p sigmoid (1 - sigmoid) g, which vanishes; the losses give 1 where they are wrong; the norm's own
    # derivative is sigmoid there, for each discriminator's sign.
    assert features.grad.isfinite().all() and weights[0].grad.isfinite().all()
    torch.testing.assert_close(weights[0].grad.flatten().double().tolist(), [2.0, -2.0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("device", "backend"), [EAGER, SLOW, *GPU])
def test_autocast_takes_the_products_in_its_dtype_and_keeps_sums_in_float32(device: str, backend: str) -> None:
    skip_without(device, backend)
    case = Case(features=32, hidden=(40, 24), dropout=True)
    given = make(case, torch.float32, device=device)
    low = make(case, torch.float32, device=device).to(torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = run(feature_gradient_norms, given, backend=backend)
    expected = run(feature_gradient_norms, low, backend=backend)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    gradients = torch.autograd.grad([t.sum() for t in found], given.leaves)
    for a, b in zip(gradients, torch.autograd.grad([t.sum() for t in expected], low.leaves), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b.float(), rtol=0, atol=0)
    # What a network gives under autocast is half precision already, and the parameters are not.
    with torch.autocast(device, dtype=torch.bfloat16):
        mixed = run(feature_gradient_norms, dataclasses.replace(given, features=low.features), backend=backend)
    for a, b in zip(mixed, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    if backend != "triton":
        exact = make(case, device=device)
        with torch.autocast(device, dtype=torch.bfloat16):
            assert run(feature_gradient_norms, exact, backend=backend).norms.dtype == torch.float64


@pytest.mark.parametrize(("device", "backend"), [EAGER, SLOW, *GPU])
@pytest.mark.parametrize("name", ["void pairs", "linear"])
def test_compiles_without_a_break_for_any_batch(name: str, device: str, backend: str) -> None:
    skip_without(device, backend)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    check_compiled(name, device, backend, counter, (10, 11, 13))
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize(("device", "backend"), GPU)
def test_inductor_compiles_it_whole(device: str, backend: str) -> None:
    skip_without(device, backend)
    check_compiled("void pairs", device, backend, "inductor", (10,))
    torch._dynamo.reset()


def check_compiled(name: str, device: str, backend: str, compiler: object, batches: tuple[int, ...]) -> None:
    def function(features, weights, biases, targets, p, masks):
        return feature_gradient_norms(features, weights, biases, targets, p, dropout_masks=masks, backend=backend)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=compiler)
    for batch in batches:
        # Dense tensors: torch would take the offsets of slices for sizes.
        given = make(dataclasses.replace(CASES[name], batch=batch), device=device).to(torch.float32)
        p = given.sample_weights.contiguous()
        arguments = (given.features, given.weights, given.biases, given.targets, p, given.masks)
        found, expected = compiled(*arguments), function(*arguments)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(
            *(torch.autograd.grad([t.sum() for t in results], given.leaves) for results in (found, expected)),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


# Eager on the CPU is checked beside all other operators, in test_opcheck.py.
@pytest.mark.parametrize(("device", "backend"), [SLOW, *GPU[1:]])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_opcheck(direction: str, device: str, backend: str) -> None:
    skip_without(device, backend)
    given = make(Case(dropout=True), device=device).to(torch.float32)
    biases = [given.biases[0], given.features.new_empty(0).detach(), given.biases[2]]
    arguments = (given.features, given.weights, biases, given.masks)
    # A workspace that keeps the first discriminators' results and computes the others' again.
    options = (None, 0.1, "all", True, 8000, backend)
    operators = torch.ops.dynconv
    if direction == "forward":
        torch.library.opcheck(operators.feature_gradient_norms, (*arguments, *options))
        return
    plain = [t.detach() if isinstance(t, Tensor) else [item.detach() for item in t] for t in arguments]
    logits, gains, kept = operators.feature_gradient_norms(*plain, *options)
    needs = (True, [True, False, True], [True, True, False])
    upward = (torch.ones_like(logits), torch.ones_like(gains), gains, kept)
    torch.library.opcheck(operators.feature_gradient_norms_backward, (*upward, *plain, *options, *needs))


def recorded(call: Callable[[], list[Tensor]], device: str) -> Callable[[], list[Tensor]]:
    """Computes ``call`` again from what its tensors hold by then: a CUDA graph's replay, or the call itself."""
    if device == "cpu":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> list[Tensor]:
        graph.replay()
        return results

    return replay


@pytest.mark.parametrize(("device", "backend"), WAYS)
def test_a_graph_replays_new_features(device: str, backend: str) -> None:
    skip_without(device, backend)
    case = CASES["three layers"]
    given, other = (make(case, torch.float32, seed=seed, device=device) for seed in (0, 1))
    upward = upstream(run(feature_gradient_norms, given))

    def call() -> list[Tensor]:
        found = run(feature_gradient_norms, given, backend=backend)
        return [*found, *torch.autograd.grad(found, given.leaves, upward)]

    again = recorded(call, device)
    with torch.no_grad():
        given.features.copy_(other.features)
    # Copies, for a replay writes to the same tensors.
    replayed = [t.clone() for t in again()]
    for a, b in zip(replayed, call(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("device", "backend"), WAYS)
def test_no_value_is_waited_for(device: str, backend: str) -> None:
    """Neither void pairs nor values out of range are looked at where the host would wait for the device."""
    skip_without(device, backend)
    given = make(CASES["void pairs, two layers"], torch.float32, device=device)
    upward = upstream(run(feature_gradient_norms, given, backend=backend))
    before = torch.cuda.get_sync_debug_mode() if device == "cuda" else 0
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = run(feature_gradient_norms, given, backend=backend)
        torch.autograd.grad(found, given.leaves, upward)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode(before)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_a_second_device_computes_on_itself(backend: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices; there are {torch.cuda.device_count()}")
    case = CASES["dropout"]
    check_against_the_oracle(make(case, torch.float32, device="cuda:1"), case, torch.float32, backend=backend)

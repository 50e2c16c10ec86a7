from __future__ import annotations

import itertools

import pytest
import torch
import torch._dynamo.testing
from ops.cases import CASES, Case, gradients, in_double, on_device, run, strategies_for, tensors
from tolerances import assert_agrees

from dynconv import backends, reference
from dynconv.functional import coefficients, dynamic_conv2d
from dynconv.ops.dynamic_conv2d import _run_backward
from dynconv.ops.eager import split
from dynconv.ops.problem import Mask, Problem

BRANCH = {"num_bases": 2, "num_scales": 0}
EVERY = [(name, backend) for name, case in CASES.items() for backend in strategies_for(case)]


def incoming(shape: torch.Size, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    """A gradient of the output that is not contiguous: every second row of a wider tensor."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(*shape[:3], 2 * shape[3], generator=generator, dtype=torch.float64).to(dtype)
    return wide[..., ::2]


def check(case: Case, backend: str, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
    given = on_device(tensors(case, dtype), device)
    exact = in_double(given)
    y, expected = run(dynamic_conv2d, given, case, backend=backend), run(reference.dynamic_conv2d, exact, case)
    assert y.dtype == dtype
    assert_agrees(y, expected, what="y")
    dy = incoming(y.shape, dtype).to(device)
    ours, theirs = gradients(y, given, dy), gradients(expected, exact, dy.double())
    for name, gradient in ours.items():
        assert gradient.dtype == given[name].dtype
        assert_agrees(gradient, theirs[name], dtype, what=f"gradient of {name}")


@pytest.mark.parametrize(("name", "backend"), EVERY)
def test_every_strategy_agrees_with_the_oracle_in_float64(name: str, backend: str) -> None:
    check(CASES[name], backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["combined", "combined channels_last", "full basis channels_last", "groups", "stride"])
def test_every_strategy_agrees_with_the_oracle_in_low_precision(name: str, dtype: torch.dtype) -> None:
    for backend in strategies_for(CASES[name]):
        check(CASES[name], backend, dtype)


WITHOUT_INTERPRETER = backends.triton_missing(torch.device("cpu"))
interpreted = pytest.mark.skipif(WITHOUT_INTERPRETER is not None, reason=str(WITHOUT_INTERPRETER))
QUICK = ("combined", "batch 1 channels_last", "empty batch", "one pixel")


@interpreted
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_the_triton_backend_agrees_with_the_oracle_under_the_interpreter(name: str) -> None:
    check(CASES[name], "triton", torch.float32)


@interpreted
def test_the_triton_backend_passes_opcheck_and_compiles_without_a_break() -> None:
    case = CASES["batch 1"]
    given = {k: t.detach().clone().requires_grad_() for k, t in tensors(case, torch.float32).items()}
    geometry = [list(case.stride), list(case.padding), list(case.dilation), case.groups]
    torch.library.opcheck(torch.ops.dynconv.dynamic_conv2d, (*given.values(), *geometry, "triton", False))

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return run(dynamic_conv2d, dict(zip(given, tensors, strict=True)), case, backend="triton")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given.values()), function(*given.values()))
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_backend_agrees_with_the_oracle_on_the_gpu(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's default for convolutions is TF32, whose products carry 11 bits.
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")
    for backend in (*strategies_for(CASES[name]), "triton"):
        check(CASES[name], backend, dtype, "cuda")


def test_gradcheck() -> None:
    for case, backend in ((Case(batch=2, scale=True), "split"), (Case(batch=2, basis=3, scale=True), "loop")):
        given = tensors(case, num_bases=2)
        leaves = [t for t in given.values() if t is not None]

        def function(*leaves: torch.Tensor, case: Case = case, backend: str = backend) -> torch.Tensor:
            x, weight, bias, scale, basis, coefficients = leaves
            named = {"scale": scale, "basis": basis, "coefficients": coefficients}
            return dynamic_conv2d(x, weight, bias, **named, **case.geometry, backend=backend)

        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


OPCHECKED = ("channel", "combined channels_last", "full basis channels_last", "groups", "empty batch", "batch 1")


@pytest.mark.parametrize(("name", "backend"), [p for p in EVERY if p[0] in OPCHECKED and p[1] not in ("auto", "loop")])
def test_opcheck(name: str, backend: str) -> None:
    case = CASES[name]
    given = tensors(case, torch.float32)
    if case.batch == 0:
        # opcheck copies its inputs by their strides, and computes a negative size for an empty slice.
        dense = {"memory_format": torch.contiguous_format}
        given = {k: t if t is None else t.detach().clone(**dense).requires_grad_() for k, t in given.items()}
    geometry = [list(case.stride), list(case.padding), list(case.dilation), case.groups]
    keep_static = backend == "split" and case.scale
    torch.library.opcheck(torch.ops.dynconv.dynamic_conv2d, (*given.values(), *geometry, backend, keep_static))


@pytest.mark.parametrize("backend", ["split", "linear", "aggregate", "loop"])
def test_no_strategy_computes_a_gradient_that_is_not_wanted(backend: str) -> None:
    case = CASES["combined"]
    given = {name: t.detach() for name, t in tensors(case).items()}
    grad = torch.ones(3, 6, 9, 7, dtype=torch.float64)
    problem = Problem(**given, **case.geometry)
    for wanted in itertools.product((True, False), repeat=6):
        found = _run_backward(problem, grad, None, backend, Mask(*wanted))
        assert [gradient is not None for gradient in found] == list(wanted)


def test_every_choice_of_wanted_gradients_gives_their_values() -> None:
    case = CASES["combined"]
    for wanted in itertools.product((True, False), repeat=6):
        given, exact = tensors(case), in_double(tensors(case))
        for (name, tensor), want in zip(given.items(), wanted, strict=True):
            tensor.requires_grad_(want)
            exact[name].requires_grad_(want)
        if not any(wanted):
            continue
        for backend in ("split", "linear", "aggregate"):
            y, expected = run(dynamic_conv2d, given, case, backend=backend), run(reference.dynamic_conv2d, exact, case)
            leaves = [name for name in given if given[name].requires_grad]
            ours = torch.autograd.grad(y.sum(), [given[name] for name in leaves])
            theirs = torch.autograd.grad(expected.sum(), [exact[name] for name in leaves])
            for name, a, b in zip(leaves, ours, theirs, strict=True):
                assert_agrees(a, b, what=f"{backend}: gradient of {name} alone")


def test_split_sums_its_parameter_gradients_over_chunks_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    per_sample = 6 * 2 * torch.finfo(torch.float64).bits // 8
    for samples in (1, 2):
        monkeypatch.setattr(split, "_CHUNK_BYTES", samples * per_sample)
        check(Case(groups=2, scale=True), "split")


@pytest.mark.parametrize("backend", ["auto", "linear", "aggregate"])
def test_channels_last_in_channels_last_out(backend: str) -> None:
    for basis in (1, 3):
        given = tensors(Case(channels_last=True, basis=basis), torch.float32)
        y = run(dynamic_conv2d, given, Case(), backend=backend)
        assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
        plain = tensors(Case(basis=basis), torch.float32)
        assert run(dynamic_conv2d, plain, Case(), backend=backend).is_contiguous()


def test_same_and_valid_padding_as_in_torch() -> None:
    for kernel, dilation in ((3, (2, 1)), (4, (2, 1)), (4, (1, 2))):
        case = Case(kernel=kernel, basis=kernel)
        given = tensors(case)
        geometry = {"dilation": dilation, "groups": 1}
        for padding in ("same", "valid"):
            zero = {"basis": given["basis"], "coefficients": torch.zeros(3, 3, dtype=torch.float64)}
            y = dynamic_conv2d(given["x"], given["weight"], given["bias"], padding=padding, **zero, **geometry)
            expected = torch.conv2d(given["x"], given["weight"], given["bias"], padding=padding, **geometry)
            torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)


def test_compiles_without_a_break_and_without_a_graph_per_batch_size() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(x, weight, bias, scale, basis, coefficients):
        named = {"scale": scale, "basis": basis, "coefficients": coefficients}
        return dynamic_conv2d(x, weight, bias, **named, padding=1).sin()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for batch in (2, 5, 9, 4):
        # Of its own memory: for a view, Dynamo would also guard on the sizes of what it is a view of.
        given = {k: t.detach().clone().requires_grad_() for k, t in tensors(Case(batch=batch, scale=True)).items()}
        y, expected = compiled(*given.values()), function(*given.values())
        torch.testing.assert_close(y, expected)
        for a, b in zip(
            gradients(y, given, torch.ones_like(y)).values(),
            gradients(expected, given, torch.ones_like(y)).values(),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_autocast_computes_in_its_dtype_and_mixes_in_float32() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        given = tensors(Case(scale=True), torch.float32)
        exact = in_double(given)
        with torch.autocast("cpu", dtype=dtype):
            y = run(dynamic_conv2d, given, Case())
        assert y.dtype == dtype
        expected = run(reference.dynamic_conv2d, exact, Case())
        assert_agrees(y, expected, dtype)
        ours = gradients(y, given, torch.ones_like(y))
        for name, gradient in gradients(expected, exact, torch.ones_like(expected)).items():
            assert ours[name].dtype == torch.float32
            assert_agrees(ours[name], gradient, dtype, what=name)


def test_on_the_meta_device_shapes_come_out_and_nothing_is_computed() -> None:
    given = {name: tensor.detach().to("meta") for name, tensor in tensors(Case(scale=True)).items()}
    y = run(dynamic_conv2d, given, Case())
    assert y.device.type == "meta" and y.shape == (3, 6, 9, 7)
    pi, _ = coefficients(given["x"], torch.empty(4, 4, device="meta"), torch.empty(2, 4, device="meta"), **BRANCH)
    assert pi.device.type == "meta" and pi.shape == (3, 2)


def test_autocast_leaves_the_scale_in_float32() -> None:
    # 1 + 2^-10 rounds to 1 in bf16, and 256 * 2^-10 is what then would be missing.
    scale, bias = torch.full((2, 1), 1 + 2**-10), torch.full((1,), -256.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, weight = torch.full((2, 1, 1, 1), 256.0), torch.ones(1, 1, 1, 1)
        y = dynamic_conv2d(image, weight, bias, scale=scale, backend="linear")
    assert y.flatten().tolist() == [0.25, 0.25]


def test_low_precision_bases_are_summed_in_float32() -> None:
    # 64 bases of +c and -c whose sum is their small difference: summed in bf16 it would be lost.
    x, ones = torch.ones(2, 1, 1, 1, dtype=torch.bfloat16), torch.ones(32, 1, 1, 1, dtype=torch.bfloat16)
    basis = torch.cat([256 * ones, -256 * ones, ones[:1]])
    mixing = torch.ones(2, 65)
    for backend in ("split", "linear", "aggregate", "loop"):
        y = dynamic_conv2d(x, torch.zeros_like(x[:1]), basis=basis, coefficients=mixing, backend=backend)
        assert y.flatten().tolist() == [1.0, 1.0], backend


@pytest.mark.parametrize(("name", "backend"), [p for p in EVERY if p[0] in ("combined", "full basis", "batch 1")])
def test_a_nan_pixel_reaches_every_output_that_reads_it_and_no_other_sample(name: str, backend: str) -> None:
    case = CASES[name]
    given = {k: t.detach() if t is not None else None for k, t in tensors(case).items()}
    given["x"] = given["x"].clone()
    given["x"][0, 0, 4, 4] = float("nan")
    y = run(dynamic_conv2d, given, case, backend=backend)
    assert y[0, :, 3:6, 3:6].isnan().all()
    assert not y[1:].isnan().any() and not y[0, :, 0].isnan().any()


def test_double_backward_raises_in_words_and_the_reference_offers_it() -> None:
    given = tensors(Case(batch=2))
    y = run(dynamic_conv2d, given, Case(batch=2))
    (dx,) = torch.autograd.grad(y.square().sum(), given["x"], create_graph=True)
    with pytest.raises(RuntimeError, match='no double backward.*backend="reference"'):
        dx.sum().backward()
    y = run(dynamic_conv2d, given, Case(batch=2), backend="reference")
    (dx,) = torch.autograd.grad(y.square().sum(), given["x"], create_graph=True)
    dx.sum().backward()
    assert given["weight"].grad.abs().sum() > 0


def test_saves_the_inputs_only() -> None:
    for basis, backend in itertools.product((1, 3), ("aggregate", "loop", "linear", "auto")):
        given = tensors(Case(basis=basis), torch.float32)
        known = {t.data_ptr() for t in given.values() if t is not None}
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            run(dynamic_conv2d, given, Case(), backend=backend)
        assert {t.data_ptr() for t in saved} <= known, (basis, backend)


def test_forward_mode_is_refused_in_words_and_the_reference_has_it() -> None:
    given = {name: t.detach() for name, t in tensors(Case(scale=True)).items()}

    def function(x: torch.Tensor, backend: str) -> torch.Tensor:
        return run(dynamic_conv2d, {**given, "x": x}, Case(), backend=backend)

    ones = torch.ones_like(given["x"])
    _, tangent = torch.func.jvp(lambda x: function(x, "reference"), (given["x"],), (ones,))
    assert tangent.abs().sum() > 0
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: function(x, "auto"), (given["x"],), (ones,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(given["x"], ones)
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            function(dual, "auto")
        function(given["x"], "auto")


def test_the_static_part_is_kept_only_for_the_gradient_of_a_scale() -> None:
    for learned in (True, False):
        given = tensors(Case(scale=True), torch.float32)
        given["scale"].requires_grad_(learned)
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            y = run(dynamic_conv2d, given, Case())
        kept = [t for t in saved if t.shape == y.shape and t.data_ptr() != y.data_ptr()]
        assert len(kept) == learned
        if learned:
            torch.testing.assert_close(kept[0], torch.conv2d(given["x"], given["weight"], padding=1))


def bad(**changes) -> tuple[dict, dict]:
    given = {k: t.detach() for k, t in tensors(Case(scale=True), torch.float32).items()}
    options = {"padding": 1}
    for name, value in changes.items():
        (given if name in given else options)[name] = value
    return given, options


rand = torch.rand
BAD = {
    "x of rank 3": (bad(x=rand(4, 9, 7)), ValueError, r"x must have 4 dimensions; got shape \(4, 9, 7\)"),
    "no tensor": (bad(x=[1.0]), TypeError, "x must be a Tensor; got list"),
    "integer x": (bad(x=torch.ones(3, 4, 9, 7, dtype=torch.int64)), TypeError, "x must be a floating-point"),
    "channels": (bad(x=rand(3, 5, 9, 7)), ValueError, r"weight must have Cin / groups = 5 / 1"),
    "basis channels": (bad(basis=rand(18, 3, 1, 1)), ValueError, "basis must have Cin / groups"),
    "K differs": (bad(coefficients=rand(3, 4)), ValueError, r"basis must have K \* Cout = 4 \* 6 rows"),
    "K does not divide": (
        bad(weight=None, scale=None, basis=rand(17, 4, 1, 1)),
        ValueError,
        "basis has 17 rows, which 3 columns",
    ),
    "K = 0": (bad(coefficients=rand(3, 0)), ValueError, "at least one column"),
    "rows": (bad(coefficients=rand(2, 3)), ValueError, "one row per sample"),
    "float32 beside float64": (
        bad(x=rand(3, 4, 9, 7).double(), weight=rand(6, 4, 3, 3).double(), bias=None, basis=None, coefficients=None),
        TypeError,
        "scale has dtype torch.float32; expected torch.float64, for x",
    ),
    "scale shape": (bad(scale=rand(3, 5)), ValueError, r"scale must have shape \(B, Cout\) = \(3, 6\)"),
    "bias shape": (bad(bias=rand(5)), ValueError, r"bias must have shape \(Cout,\) = \(6,\)"),
    "even kernel": (bad(weight=rand(6, 4, 4, 4)), ValueError, "even size"),
    "basis size": (bad(basis=rand(18, 4, 2, 2)), ValueError, "basis must be 1x1 or"),
    "nothing": (bad(weight=None, basis=None, coefficients=None, scale=None), ValueError, "got neither"),
    "scale without weight": (bad(weight=None), ValueError, "scale multiplies the static weight"),
    "basis alone": (bad(coefficients=None), ValueError, "got basis without coefficients"),
    "coefficients alone": (bad(basis=None), ValueError, "got coefficients without basis"),
    "mixed dtypes": (bad(weight=rand(6, 4, 3, 3, dtype=torch.float64)), TypeError, "weight has dtype torch.float64"),
    "mixed devices": (bad(weight=torch.empty(6, 4, 3, 3, device="meta")), ValueError, "weight is on meta, x on cpu"),
    "groups": (bad(groups=3), ValueError, "groups must divide x's 4 channels"),
    "groups 0": (bad(groups=0), ValueError, "groups must divide"),
    "groups type": (bad(groups=1.5), TypeError, "groups must be an int"),
    "stride": (bad(stride=0), ValueError, "stride must be at least 1; got 0"),
    "stride type": (bad(stride=(1, 2, 3)), TypeError, "stride must be an int or a pair"),
    "stride of no int": (bad(stride=None), TypeError, "stride must be an int or a pair of ints; got None"),
    "stride float": (bad(stride=1.0), TypeError, "stride must be an int or a pair of ints; got 1.0"),
    "same with a weight of rank 3": (bad(padding="same", weight=rand(6, 4, 3)), ValueError, "weight must have 4 dim"),
    "padding": (bad(padding=-1), ValueError, "padding must be at least 0"),
    "padding word": (bad(padding="reflect"), ValueError, 'padding must be .*"valid" or "same"; got \'reflect\''),
    "same with a stride": (bad(padding="same", stride=2), ValueError, "needs stride 1"),
    "too small": (bad(x=rand(3, 4, 1, 1), padding=0), ValueError, "smaller than the kernel's reach"),
    "backend": (bad(backend="cuda"), ValueError, "backend must be one of auto, eager"),
    "split with a full basis": (
        bad(basis=rand(18, 4, 3, 3), backend="split"),
        ValueError,
        'backend="split" cannot run this dynamic_conv2d: .*must be 1x1',
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name: str) -> None:
    (given, options), error, message = BAD[name]
    with pytest.raises(error, match=message):
        named = {name: given[name] for name in ("scale", "basis", "coefficients")}
        dynamic_conv2d(given["x"], given["weight"], given["bias"], **named, **options)


def test_triton_refuses_cpu_tensors_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    given = tensors(Case(), torch.float32)
    with pytest.raises(ValueError, match='backend="triton" cannot run.*(on cpu|not installed)'):
        run(dynamic_conv2d, given, Case(), backend="triton")

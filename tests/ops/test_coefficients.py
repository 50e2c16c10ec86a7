from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing
from tolerances import assert_agrees

from dynconv import backends, reference
from dynconv.functional import coefficients

BACKENDS = [
    "eager",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(bool(backends.native_missing("cpu")), reason=str(backends.native_missing("cpu"))),
    ),
]
LAYOUTS = ("contiguous", "channels_last", "sliced")


def inputs(
    dtype: torch.dtype = torch.float64, *, batch: int = 3, bases: int = 4, scales: int = 5, layout: str = "contiguous"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 10, 7, 5, generator=generator, dtype=torch.float64).to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        x = torch.cat([x, x * float("nan")], dim=3)[..., :5]
    w1 = torch.randn(6, 10, generator=generator, dtype=torch.float64).to(dtype)
    w2 = torch.randn(bases + scales, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(), w1.requires_grad_(), w2.requires_grad_()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("bases", "scales"), [(4, 5), (4, 0), (0, 5)])
def test_agrees_with_the_oracle(backend: str, layout: str, dtype: torch.dtype, bases: int, scales: int) -> None:
    sizes = {"num_bases": bases, "num_scales": scales}
    for activation, temperature, batch in (("sigmoid", 0.7, 3), ("hard", 30.0, 1), ("sigmoid", 1.0, 0)):
        given = inputs(dtype, bases=bases, scales=scales, layout=layout, batch=batch)
        exact = [t.detach().double().requires_grad_() for t in given]
        options = {"temperature": temperature, "scale_activation": activation, **sizes}
        ours = [t for t in coefficients(*given, **options, backend=backend) if t is not None]
        theirs = [t for t in reference.coefficients(*exact, **options) if t is not None]
        # Low-precision inputs are read as they are and computed in float32, so the result is as good as float32's.
        accurate = torch.float64 if dtype == torch.float64 else torch.float32
        upstream = [torch.linspace(-1, 2, t.numel(), dtype=torch.float64).view(t.shape) for t in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == accurate
            assert_agrees(a, b)
        g = torch.autograd.grad(ours, given, [u.to(accurate) for u in upstream])
        h = torch.autograd.grad(theirs, exact, upstream)
        for a, b, tensor in zip(g, h, given, strict=True):
            assert a.dtype == tensor.dtype
            assert_agrees(a, b, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_opcheck(backend: str) -> None:
    given = inputs()

    def function(*given: torch.Tensor) -> torch.Tensor:
        return torch.cat(coefficients(*given, num_bases=4, num_scales=5, backend=backend), dim=1)

    assert torch.autograd.gradcheck(function, given, fast_mode=True)
    if backend == "native":
        operator = torch.ops.dynconv.coefficients_native_forward
        torch.library.opcheck(operator, (*inputs(torch.float32), torch.tensor(1.0), 4, 0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_break_for_any_batch_and_temperature(backend: str) -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(x, w1, w2, temperature):
        return coefficients(x, w1, w2, num_bases=4, num_scales=5, temperature=temperature, backend=backend)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for batch, temperature in ((3, 1.0), (5, 0.5), (2, 30.0)):
        given = (*inputs(torch.float32, batch=batch), torch.tensor(temperature))
        for a, b in zip(compiled(*given), function(*given), strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_softmax_runs_in_float32_under_autocast() -> None:
    x, w1, w2 = inputs(torch.float32)
    expected = coefficients(x, w1, w2, num_bases=4, num_scales=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b in zip(coefficients(x, w1, w2, num_bases=4, num_scales=5), expected, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_pixel_makes_its_own_sample_nan(backend: str) -> None:
    x, w1, w2 = (t.detach() for t in inputs(torch.float32))
    x[1, 2, 3, 4] = float("nan")
    pi, s = coefficients(x, w1, w2, num_bases=4, num_scales=5, backend=backend)
    for part in (pi, s):
        assert part[1].isnan().all() and not part[[0, 2]].isnan().any()


def test_native_double_backward_raises_in_words() -> None:
    if backends.native_missing("cpu") is not None:
        pytest.skip(str(backends.native_missing("cpu")))
    x, w1, w2 = inputs()
    pi, _ = coefficients(x, w1, w2, num_bases=4, num_scales=5, backend="native")
    (dw1,) = torch.autograd.grad(pi.square().sum(), w1, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        dw1.sum().backward()


def test_forward_mode_is_refused_in_words_and_eager_has_it() -> None:
    x, w1, w2 = (t.detach() for t in inputs())

    def function(x: torch.Tensor, backend: str) -> torch.Tensor:
        return coefficients(x, w1, w2, num_bases=4, num_scales=5, backend=backend)[0]

    _, tangent = torch.func.jvp(lambda x: function(x, "eager"), (x,), (torch.ones_like(x),))
    assert tangent.abs().sum() > 0
    if backends.native_missing("cpu") is None:
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(lambda x: function(x, "native"), (x,), (torch.ones_like(x),))


def test_a_missing_native_build_is_logged_once_and_refused_where_it_was_chosen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(backends._NATIVE_MISSING, "cpu", "no compiler was found")
    backends.note_fallback.cache_clear()
    x, w1, w2 = inputs(torch.float32)
    for _ in range(2):
        coefficients(x, w1, w2, num_bases=4, num_scales=5)
    assert [record.message for record in caplog.records] == [
        "coefficients runs in plain PyTorch on cpu tensors: no compiler was found (dynconv info)"
    ]
    with pytest.raises(ValueError, match='backend="native" cannot run these coefficients: no compiler was found'):
        coefficients(x, w1, w2, num_bases=4, num_scales=5, backend="native")
    backends.note_fallback.cache_clear()


BAD = {
    "rank": ({"x": torch.rand(3, 10)}, ValueError, "x must have 4 dimensions"),
    "integer": ({"x": torch.ones(3, 10, 7, 5, dtype=torch.int32)}, TypeError, "x must be a floating-point tensor"),
    "w1": ({"w1": torch.rand(6, 9)}, ValueError, r"w1 must have shape \(hidden, C\) with x's C = 10"),
    "w2": ({"w2": torch.rand(8, 6)}, ValueError, r"w2 must have shape .* = \(9, 6\); got \(8, 6\)"),
    "no output": ({"num_bases": 0, "num_scales": 0}, ValueError, "one of them positive"),
    "negative": ({"num_bases": -1}, ValueError, "at least 0"),
    "temperature": ({"temperature": 0.0}, ValueError, "temperature must be positive and finite; got 0.0"),
    "temperature tensor": ({"temperature": torch.tensor(-1.0)}, ValueError, "positive and finite; got -1.0"),
    "temperature nan": ({"temperature": float("nan")}, ValueError, "positive and finite; got nan"),
    "temperature type": ({"temperature": "1"}, TypeError, "temperature must be a float or a tensor"),
    "temperature device": ({"temperature": torch.ones((), device="meta")}, ValueError, "temperature is on meta"),
    "number type": ({"num_bases": 4.0}, TypeError, "num_bases must be an int; got 4.0"),
    "temperature grad": ({"temperature": torch.ones((), requires_grad=True)}, ValueError, "requires no gradient"),
    "activation": ({"scale_activation": "tanh"}, ValueError, "scale_activation must be one of sigmoid, hard"),
    "backend": ({"backend": "triton"}, ValueError, "backend must be one of auto, eager, native"),
    "no pixel": ({"x": torch.rand(3, 10, 0, 5)}, ValueError, "at least one pixel"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name: str) -> None:
    changes, error, message = BAD[name]
    x, w1, w2 = inputs(torch.float32)
    arguments = {"x": x, "w1": w1, "w2": w2, "num_bases": 4, "num_scales": 5} | changes
    with pytest.raises(error, match=message):
        coefficients(**arguments)

"""Every backend against the float64 oracle over drawn problems: values and all gradients.

Allocations are filled with NaN, inputs are slices of larger buffers of NaN, and the bound is entrywise: with every
input replaced by its absolute value the oracle gives the sum of the absolute values of the terms, of which the error
may be no more than the dtype's tolerance. So a cancellation needs no slack, and no entry hides behind a larger one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tolerances import RELATIVE
from torch import Tensor

from dynconv import backends, reference
from dynconv.functional import coefficients, dynamic_conv2d
from dynconv.ops.coefficients import BACKENDS as COEFFICIENT_BACKENDS
from dynconv.ops.coefficients import SCALE_ACTIVATIONS
from dynconv.ops.dynamic_conv2d import BACKENDS, _reasons
from dynconv.ops.problem import Problem

NAMES = ("x", "weight", "bias", "scale", "basis", "coefficients")
# "eager" is one of the strategies that are drawn here by name, and "reference" is the oracle itself.
HAS_AMX = Path("/proc/cpuinfo").exists() and "amx_bf16" in Path("/proc/cpuinfo").read_text()
CHECKED = [name for name in BACKENDS if name not in ("reference", "eager")]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "slice", "slice of channels_last", "channels")
GRADIENT_LAYOUTS = ("contiguous", "channels_last", "every second column", "one number", "one number per plane")
TIERS = [40, pytest.param(300, marks=pytest.mark.slow)]


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Deterministic algorithms, float32 without TF32, and NaN in whatever memory nobody wrote."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    # Not by cudnn.flags, which refuses to stand beside the newer switch.
    convolutions, matrices = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    precisions = convolutions.fp32_precision, matrices.fp32_precision
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    convolutions.fp32_precision = matrices.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision, matrices.fp32_precision = precisions
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before)


def placed(values: Tensor, layout: str, dtype: torch.dtype, device: str) -> Tensor:
    """``values`` in another dtype and memory layout; what is not 4-D knows only dense and sliced."""
    values = values.to(device, dtype)
    if layout == "contiguous" or (values.dim() != 4 and "slice" not in layout):
        return values.clone(memory_format=torch.contiguous_format)
    if layout == "channels_last":
        return values.clone(memory_format=torch.channels_last)
    # Only the channels of a dense buffer, or a window of it in every dimension.
    margin = [1 if layout != "channels" or dim == 1 else 0 for dim in range(values.dim())]
    holder = torch.full(
        [size + 3 * m for size, m in zip(values.shape, margin, strict=True)], float("nan"), dtype=dtype, device=device
    )
    if layout == "slice of channels_last" and values.dim() == 4:
        holder = holder.contiguous(memory_format=torch.channels_last)
    window = tuple(slice(m, m + size) for m, size in zip(margin, values.shape, strict=True))
    holder[window] = values
    return holder[window]


def upstream(shape: torch.Size, layout: str, generator: torch.Generator) -> Tensor:
    """A gradient of the output, in float64."""
    if layout == "one number":
        return torch.randn((), generator=generator, dtype=torch.float64).expand(shape)
    if layout == "one number per plane":
        return torch.randn(*shape[:2], 1, 1, generator=generator, dtype=torch.float64).expand(shape)
    if layout == "every second column":
        return torch.randn(*shape[:3], 2 * shape[3], generator=generator, dtype=torch.float64)[..., ::2]
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else values


@dataclass(frozen=True)
class Drawn:
    """One problem; ``basis`` and ``static`` say which kernels it has, ``learned`` which gradients are asked for."""

    batch: int
    groups: int
    inputs_per_group: int
    outputs_per_group: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    basis: str
    num_bases: int
    static: bool
    scale: bool
    bias: bool
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    dtype: torch.dtype
    wide: bool
    layouts: tuple[str, str, str, str]
    learned: frozenset[str]
    seed: int

    def kind(self) -> tuple:
        channels = (self.groups, self.inputs_per_group, self.outputs_per_group)
        kernels = (self.kernel, self.basis, self.num_bases, self.static, self.scale)
        return self.batch == 0, self.dtype, *channels, *kernels

    def values(self) -> dict[str, Tensor]:
        """The tensors in float64, of such a size that results are about one."""
        generator = torch.Generator().manual_seed(self.seed)
        outputs = self.groups * self.outputs_per_group
        kernels = {"1x1": (1, 1), "full": self.kernel}
        shapes = {"x": (self.batch, self.groups * self.inputs_per_group, *self.size)}
        if self.static:
            shapes["weight"] = (outputs, self.inputs_per_group, *self.kernel)
        if self.bias:
            shapes["bias"] = (outputs,)
        if self.scale:
            shapes["scale"] = (self.batch, outputs)
        if self.basis != "none":
            shapes["basis"] = (self.num_bases * outputs, self.inputs_per_group, *kernels[self.basis])
            shapes["coefficients"] = (self.batch, self.num_bases)
        found = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for name in found.keys() & {"weight", "basis"}:
            found[name] /= found[name][0].numel() ** 0.5
        return found

    def tensors(self, device: str) -> dict[str, Tensor]:
        """The tensors of the dtype and in the layouts drawn, leaves where a gradient is asked for."""
        low = self.dtype in (torch.bfloat16, torch.float16)
        layouts = dict(zip(("x", "weight", "basis"), self.layouts, strict=False))
        found = {}
        for name, values in self.values().items():
            wide = low and self.wide and name in ("scale", "coefficients")
            layout = layouts.get(name, "slice" if "slice" in self.layouts[0] else "contiguous")
            tensor = placed(values, layout, torch.float32 if wide else self.dtype, device)
            found[name] = tensor.requires_grad_(name in self.learned)
        return found

    def geometry(self) -> dict:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def problem(self, device: str) -> Problem:
        found = {name: tensor.detach() for name, tensor in self.tensors(device).items()}
        return Problem(**{name: found.get(name) for name in NAMES}, **self.geometry())


@dataclass(frozen=True)
class Limits:
    """The largest of what is drawn."""

    batch: int = 4
    groups: int = 3
    channels_per_group: int = 9
    kernel: int = 5
    num_bases: int = 5
    padding: int = 3
    extra_pixels: int = 7


# The interpreter takes about 10 ms for each tap of each basis.
INTERPRETED = {
    40: Limits(batch=2, groups=2, channels_per_group=3, kernel=3, num_bases=2, padding=1, extra_pixels=1),
    300: Limits(batch=2, channels_per_group=3, kernel=3, num_bases=3, extra_pixels=2),
}


# Beyond one block of lanes (8 to 32 channels) and of outputs (6 to 14).
BLOCKED = Limits(groups=2, channels_per_group=40, kernel=4)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw: st.DrawFn, limits: Limits) -> Drawn:
    static = draw(st.sampled_from([True, True, False]))
    basis = draw(st.sampled_from(["none", "1x1", "full"])) if static else "full"
    # A 1x1 basis stands at the centre of an odd kernel.
    side = st.integers(1, limits.kernel)
    kernels = st.tuples(side, side).filter(lambda sides: basis != "1x1" or all(k % 2 for k in sides))
    # Often 1x1: there every strategy takes a full basis.
    kernel = draw(kernels | st.just((1, 1)))
    dilation, padding, stride = draw(pairs(1, 2)), draw(pairs(0, limits.padding)), draw(pairs(1, 3))
    reach = [dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i] for i in (0, 1)]
    extra = draw(pairs(0, limits.extra_pixels))
    dtype = draw(st.sampled_from(DTYPES))
    return Drawn(
        batch=draw(st.integers(1, limits.batch) | st.integers(0, limits.batch)),
        groups=draw(st.just(1) | st.integers(1, limits.groups)),
        inputs_per_group=draw(st.integers(1, limits.channels_per_group)),
        outputs_per_group=draw(st.integers(1, limits.channels_per_group)),
        size=(max(1, reach[0]) + extra[0], max(1, reach[1]) + extra[1]),
        kernel=kernel,
        basis=basis,
        num_bases=draw(st.integers(1, limits.num_bases)),
        static=static,
        scale=static and draw(st.booleans()),
        bias=draw(st.booleans()),
        stride=stride,
        padding=padding,
        dilation=dilation,
        dtype=dtype,
        wide=draw(st.booleans()),
        layouts=(*(draw(st.sampled_from(LAYOUTS)) for _ in range(3)), draw(st.sampled_from(GRADIENT_LAYOUTS))),
        # Half of the cases ask for every gradient.
        learned=frozenset(NAMES) if draw(st.booleans()) else draw(st.frozensets(st.sampled_from(NAMES))),
        seed=draw(st.integers(0, 2**16)),
    )


def differentiated(function, tensors: dict[str, Tensor], dy: Tensor, **options) -> tuple[Tensor, dict[str, Tensor]]:
    named = {name: tensors.get(name) for name in ("scale", "basis", "coefficients")}
    y = function(tensors["x"], tensors.get("weight"), tensors.get("bias"), **named, **options)
    leaves = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    found = torch.autograd.grad(y, list(leaves.values()), dy.to(y.device, y.dtype)) if leaves else ()
    return y, dict(zip(leaves, found, strict=True))


def assert_within(actual: Tensor, expected: Tensor, terms: Tensor, dtype: torch.dtype, what: str) -> None:
    assert actual.shape == expected.shape and actual.dtype == dtype, f"{what}: {actual.shape}, {actual.dtype}"
    # The smallest numbers of a dtype are coarse: float16 has steps of 6e-8 below 6e-5.
    allowed = RELATIVE[dtype] * (terms + 1e-3)
    # Written so that a NaN is outside.
    outside = ~((actual.double() - expected).abs() <= allowed)
    if outside.any():
        at = tuple(outside.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(outside.sum())} of {outside.numel()} entries, the first at {at}: "
            f"got {actual[at].item():.6g}, expected {expected[at].item():.6g} within {allowed[at].item():.2g}"
        )


def check(case: Drawn, backend: str, device: str) -> None:
    tensors = case.tensors(device)
    generator = torch.Generator().manual_seed(case.seed + 1)
    exact = {k: t.detach().cpu().double().contiguous().requires_grad_(k in case.learned) for k, t in tensors.items()}
    absolute = {k: t.detach().abs().requires_grad_(k in case.learned) for k, t in exact.items()}
    shape = torch.Size((case.batch, case.groups * case.outputs_per_group, *case.problem(device).output_size))
    dy = upstream(shape, case.layouts[3], generator).to(case.dtype)
    expected = differentiated(reference.dynamic_conv2d, exact, dy, **case.geometry())
    terms = differentiated(reference.dynamic_conv2d, absolute, dy.abs(), **case.geometry())
    # On processors with AMX oneDNN's convolutions are wrong in bfloat16 at some borders, nn.Conv2d's too: forward where
    # one column of output has strides across (https://github.com/pytorch/pytorch/issues/169688), and gradients of taps
    # that lie in the padding alone. torch's own kernels take their place there.
    is_wrong = HAS_AMX and device == "cpu" and case.dtype == torch.bfloat16
    with poisoned(), torch.backends.mkldnn.flags(enabled=False) if is_wrong else contextlib.nullcontext():
        y, gradients = differentiated(dynamic_conv2d, tensors, dy, backend=backend, **case.geometry())
    assert_within(y.cpu(), expected[0].detach(), terms[0].detach(), case.dtype, "y")
    for name, gradient in gradients.items():
        assert gradient.dtype == tensors[name].dtype
        found = gradient.cpu().to(case.dtype)
        assert_within(found, expected[1][name], terms[1][name], case.dtype, f"gradient of {name}")


def over_examples(count: int, strategy: st.SearchStrategy, body) -> None:
    """Run ``body`` on ``count`` drawn examples, the same ones each time, no two of one kind."""
    # Hypothesis follows each example by a few that differ from it in a stride or a size; they would be most of 40.
    kinds = set()

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(drawn) -> None:
        assume(drawn.kind() not in kinds)
        body(drawn)
        # Only now: a failing example must fail again when it is repeated.
        kinds.add(drawn.kind())

    run()
    assert len(kinds) >= count, f"only {len(kinds)} examples that this backend runs were found"


# torch says it whenever oneDNN's flags are set.
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("count", TIERS)
@pytest.mark.parametrize("backend", CHECKED)
def test_every_backend_agrees_with_the_oracle(
    backend: str, device: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "triton" and backends.triton_missing(torch.device(device)):
        pytest.skip(str(backends.triton_missing(torch.device(device))))
    interpreted = (backend, device) == ("triton", "cpu")
    if interpreted:
        from triton.runtime.interpreter import interpreter_builder

        # Checks of 32-bit overflow, more than half of the interpreter's time; these problems are tiny.
        unchecked = replace(interpreter_builder.options, sanitize_overflow=False)
        monkeypatch.setattr(interpreter_builder, "options", unchecked)
    if backend == "native" and (device != "cpu" or backends.native_missing(device)):
        pytest.skip(f"no native dynamic_conv2d for {device}")

    threads = torch.get_num_threads()

    def body(case: Drawn) -> None:
        assume(not _reasons(case.problem(device), backend))
        if backend == "native":
            torch.set_num_threads(1 + case.seed % 5)
        check(case, backend, device)

    limits = INTERPRETED[count] if interpreted else BLOCKED if backend == "native" else Limits()
    try:
        over_examples(count, problems(limits), body)
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Branch:
    """One problem of ``coefficients``."""

    shape: tuple[int, int, int, int]
    hidden: int
    num_bases: int
    num_scales: int
    dtype: torch.dtype
    weights: torch.dtype
    layout: str
    temperature: float
    on_device: bool
    activation: str
    wants: tuple[bool, bool]
    seed: int

    def kind(self) -> tuple:
        sizes = (self.shape[0] == 0, self.shape[1], self.hidden, self.num_bases, self.num_scales)
        return *sizes, self.dtype, self.weights, self.layout

    def tensors(self, device: str) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        channels, outputs = self.shape[1], self.num_bases + self.num_scales
        shapes = (self.shape, (self.hidden, channels), (outputs, self.hidden))
        x, w1, w2 = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        # A mean over pixels would leave nothing of centred noise for the branch to see.
        x = x + torch.randn(*self.shape[:2], 1, 1, generator=generator, dtype=torch.float64)
        found = [
            placed(x, self.layout, self.dtype, device),
            placed(w1 / channels**0.5, self.layout, self.weights, device),
            placed(w2 / self.hidden**0.5, "contiguous", self.weights, device),
        ]
        return [tensor.requires_grad_() for tensor in found]


@st.composite
def branches(draw: st.DrawFn) -> Branch:
    num_bases, num_scales = draw(st.integers(0, 5) | st.integers(33, 40)), draw(st.integers(0, 20))
    dtype = draw(st.sampled_from(DTYPES))
    return Branch(
        shape=(
            draw(st.integers(0, 4)),
            draw(st.integers(1, 12) | st.sampled_from([64, 130, 515])),
            draw(st.integers(1, 17)),
            draw(st.integers(1, 17)),
        ),
        hidden=draw(st.integers(1, 9) | st.just(40)),
        num_bases=num_bases,
        num_scales=num_scales if num_bases + num_scales else 1,
        dtype=dtype,
        weights=draw(st.sampled_from([dtype, *DTYPES])),
        layout=draw(st.sampled_from(LAYOUTS)),
        temperature=draw(st.sampled_from([0.5, 1.0, 30.0])),
        on_device=draw(st.booleans()),
        activation=draw(st.sampled_from(SCALE_ACTIVATIONS)),
        wants=draw(st.sampled_from([(True, True), (True, False), (False, True)])),
        seed=draw(st.integers(0, 2**16)),
    )


def check_branch(case: Branch, backend: str, device: str) -> None:
    tensors = case.tensors(device)
    exact = [t.detach().cpu().double().contiguous().requires_grad_() for t in tensors]
    options = {"num_bases": case.num_bases, "num_scales": case.num_scales, "scale_activation": case.activation}
    tau = torch.tensor(case.temperature, device=device) if case.on_device else case.temperature
    with poisoned():
        ours = coefficients(*tensors, **options, temperature=tau, backend=backend)
        theirs = reference.coefficients(*exact, **options, temperature=case.temperature)
        generator = torch.Generator().manual_seed(case.seed + 1)
        chosen = [
            (a, b, torch.randn(b.shape, generator=generator, dtype=torch.float64))
            for a, b, wanted in zip(ours, theirs, case.wants, strict=True)
            if wanted and a is not None and b is not None
        ]
        if chosen:
            outputs, expected, dy = zip(*chosen, strict=True)
            incoming = [d.to(o.device, o.dtype) for o, d in zip(outputs, dy, strict=True)]
            got = torch.autograd.grad(outputs, tensors, incoming)
            wanted = torch.autograd.grad(expected, exact, dy)
    accurate = torch.float64 if case.dtype == torch.float64 else torch.float32
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_within(one.cpu(), other.detach(), other.detach().abs() + 1, accurate, "value")
    if chosen:
        for name, one, other, tensor in zip(("x", "w1", "w2"), got, wanted, tensors, strict=True):
            assert one.dtype == tensor.dtype
            # Rounded to the tensor's dtype, computed in the accumulation dtype.
            coarser = max(accurate, tensor.dtype, key=RELATIVE.__getitem__)
            terms = other.abs() + other.abs().max() + 1 if other.numel() else other
            assert_within(one.cpu().to(coarser), other, terms, coarser, f"gradient of {name}")


@pytest.mark.parametrize("count", TIERS)
@pytest.mark.parametrize("backend", [name for name in COEFFICIENT_BACKENDS if name != "reference"])
def test_every_backend_of_the_coefficients_agrees_with_the_oracle(backend: str, device: str, count: int) -> None:
    if backend == "native" and backends.native_missing(device):
        pytest.skip(f"no native operators for {device}: {backends.native_missing(device)}")
    over_examples(count, branches(), lambda case: check_branch(case, backend, device))


def test_memory_that_nobody_wrote_shows() -> None:
    """The poison reaches Python's allocations and those of torch's own operators."""
    with poisoned():
        assert torch.empty(3).isnan().all()
        assert torch.zeros(2, 3).new_empty(4).isnan().all()
        assert torch.ops.aten.empty_like(torch.zeros(2)).isnan().all()


@pytest.mark.parametrize("backend", CHECKED)
@pytest.mark.parametrize("basis", ["1x1", "full"])
def test_two_runs_of_a_backend_give_the_same_bits(basis: str, backend: str, device: str) -> None:
    case = Drawn(
        batch=4, groups=1, inputs_per_group=20, outputs_per_group=24, size=(11, 9), kernel=(3, 3), basis=basis,
        num_bases=4, static=True, scale=True, bias=True, stride=(1, 1), padding=(1, 1), dilation=(1, 1),
        dtype=torch.float32, wide=False, layouts=("channels_last", "channels_last", "contiguous", "contiguous"),
        learned=frozenset(NAMES), seed=0,
    )  # fmt: skip
    if (backend, device) == ("triton", "cpu"):
        pytest.skip("the interpreter runs one program after the other")
    if reasons := _reasons(case.problem(device), backend):
        pytest.skip("; ".join(reasons))
    dy = upstream(torch.Size((4, 24, 11, 9)), "contiguous", torch.Generator().manual_seed(1)).float()
    with poisoned():
        runs = [
            differentiated(dynamic_conv2d, case.tensors(device), dy, backend=backend, **case.geometry())
            for _ in range(3)
        ]
    for y, gradients in runs[1:]:
        assert torch.equal(y, runs[0][0])
        assert all(torch.equal(gradients[name], runs[0][1][name]) for name in NAMES)

"""Triton kernels of dynamic_conv2d against the float64 oracle; on the CPU they run in Triton's interpreter."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="Triton kernels need triton")

from dynconv import reference  # noqa: E402
from dynconv.kernels import dynamic_conv2d as kernels  # noqa: E402
from dynconv.kernels import layout, variants  # noqa: E402
from dynconv.kernels.tiles import Tile  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton kernels need a CUDA device, or TRITON_INTERPRET=1 set before the first import of triton",
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Largest error over largest value. Half types round the output once, and dy*s once more in the gradient.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}
# cuDNN may take Winograd's or the Fourier form, whose sums in float32 cancel.
VENDOR_FLOAT32 = 2e-5


@dataclass(frozen=True)
class Case:
    batch: int = 2
    channels: int = 3
    outputs: int = 5
    size: tuple[int, int] = (5, 6)
    kernel: tuple[int, int] = (3, 3)
    basis: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    parts: str = "weight bias scale basis"

    @property
    def geometry(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
        return self.stride, self.padding, self.dilation, self.groups


CASES = {
    "3x3 with a 1x1 basis": Case(),
    "full basis": Case(basis=(3, 3)),
    "pointwise": Case(kernel=(1, 1), padding=(0, 0)),
    "5x5 without padding": Case(kernel=(5, 5), padding=(0, 0), size=(7, 6)),
    "even kernel": Case(kernel=(2, 4), basis=(2, 4)),
    "stride 2": Case(stride=(2, 2), size=(7, 6)),
    "strides 3 and 2": Case(stride=(3, 2), basis=(3, 3), size=(8, 7)),
    "stride beyond the kernel": Case(kernel=(1, 1), stride=(3, 2), padding=(0, 0), size=(7, 5)),
    "stride beyond the input": Case(size=(2, 1), stride=(3, 2)),
    "dilation": Case(dilation=(2, 1), size=(8, 5), basis=(3, 3)),
    "stride and dilation with a common factor": Case(stride=(2, 2), dilation=(2, 1), padding=(2, 1), size=(9, 8)),
    "stride and dilation without one": Case(
        stride=(2, 3), dilation=(3, 2), padding=(3, 1), size=(7, 6), basis=(3, 3), parts="weight basis"
    ),
    "padding beyond the centre": Case(padding=(3, 2)),
    "padding beyond the kernel": Case(padding=(4, 4), size=(2, 2)),
    "groups": Case(channels=4, outputs=6, groups=2),
    "depthwise": Case(channels=3, outputs=3, groups=3, stride=(2, 1)),
    # Few taps: of each the interpreter multiplies every block of channels.
    "channels beyond one block": Case(channels=37, outputs=70, size=(4, 3), kernel=(1, 3), padding=(0, 1)),
    "channels in multiples of 16": Case(
        channels=32, outputs=80, size=(3, 2), kernel=(3, 1), padding=(1, 0), parts="weight scale basis"
    ),
    "samples sharing a tile": Case(batch=5, size=(3, 3)),
    "rows beyond one tile": Case(batch=3, size=(11, 7), stride=(2, 1), channels=2, outputs=2),
    "one sample": Case(batch=1),
    "static": Case(parts="weight"),
    "channel attention": Case(parts="weight scale"),
    "subspace": Case(parts="weight basis", stride=(2, 1)),
    "mixture of kernels": Case(parts="bias basis", basis=(3, 3), stride=(1, 2)),
}


def tensors(case: Case, dtype: torch.dtype = torch.float32, num_bases: int = 3) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(7)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(DEVICE, dtype)

    per_group = case.channels // case.groups
    parts = case.parts.split()
    return {
        "x": normal(case.batch, case.channels, *case.size),
        "weight": normal(case.outputs, per_group, *case.kernel) if "weight" in parts else None,
        "bias": normal(case.outputs) if "bias" in parts else None,
        "scale": normal(case.batch, case.outputs).float() if "scale" in parts else None,
        "basis": normal(num_bases * case.outputs, per_group, *case.basis) if "basis" in parts else None,
        "coefficients": normal(case.batch, num_bases).float() if "basis" in parts else None,
    }


def oracle(case: Case, given: dict[str, Tensor | None], dy: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """y, dy and dx in float64; dy is drawn where none is given."""
    wide = {name: None if tensor is None else tensor.detach().double() for name, tensor in given.items()}
    x = wide.pop("x").requires_grad_()
    stride, padding, dilation, groups = case.geometry
    y = reference.dynamic_conv2d(x, **wide, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if dy is None:
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(8)).to(given["x"])
    (dx,) = torch.autograd.grad(y, x, dy.double())
    return y.detach(), dy, dx


def forward(case: Case, given: dict[str, Tensor | None], **options) -> Tensor:
    return kernels.forward(*given.values(), *case.geometry, **options)


def gradient(case: Case, given: dict[str, Tensor | None], dy: Tensor, **options) -> Tensor:
    rest = (given["weight"], given["scale"], given["basis"], given["coefficients"])
    return kernels.input_gradient(dy, *rest, tuple(given["x"].shape), *case.geometry, **options)


def reasons(variant: str, given: dict[str, Tensor | None]) -> list[str]:
    sizes = (layout.size(given["weight"]), layout.size(given["basis"]), given["scale"] is not None)
    return variants.variant_reasons(variant, *sizes, 0 if given["basis"] is None else given["coefficients"].shape[1])


def check(got: Tensor, expected: Tensor, variant: str = "linear") -> None:
    assert got.shape == expected.shape
    error = (got.double() - expected).abs().max() / expected.abs().max()
    is_vendors = variant.startswith("vendor") and got.dtype == torch.float32
    # Written so that NaN fails.
    assert error <= (VENDOR_FLOAT32 if is_vendors else TOLERANCE[got.dtype]), f"relative error {error:.2e}"


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """On a GPU torch's convolutions, and with them the kernels, take TF32 by default."""
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    yield
    convolutions.fp32_precision = before


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(float("nan")))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_forward_and_input_gradient_agree_with_the_oracle(case: Case) -> None:
    given = tensors(case)
    y, dy, dx = oracle(case, given)
    check(forward(case, given), y)
    check(gradient(case, given, dy), dx)


# The cases that differ in what the variants do, of those that the linear form runs above.
QUICK = ("3x3 with a 1x1 basis", "full basis", "strides 3 and 2", "groups", "channel attention")
OTHERS = [name for name in variants.VARIANTS if name != "linear"]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
@pytest.mark.parametrize("variant", OTHERS)
def test_every_variant_agrees_with_the_oracle_where_it_can_run(variant: str, name: str) -> None:
    case = CASES[name]
    given = tensors(case)
    if found := reasons(variant, given):
        with pytest.raises(ValueError, match=re.escape(found[0])):
            forward(case, given, variant=variant)
        return
    y, dy, dx = oracle(case, given)
    check(forward(case, given, variant=variant), y, variant)
    check(gradient(case, given, dy, variant=variant), dx, variant)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_half_types_accumulate_in_float32(variant: str, dtype: torch.dtype) -> None:
    row = (1, 3)
    case = Case(channels=40, kernel=row, padding=(0, 1), basis=row if variant == "basis-shared" else (1, 1))
    given = tensors(case, dtype)
    y, dy, dx = oracle(case, given)
    check(forward(case, given, variant=variant), y, variant)
    check(gradient(case, given, dy, variant=variant), dx, variant)


@pytest.mark.parametrize("num_bases", [1, 5, pytest.param(9, marks=pytest.mark.slow), 17])
def test_any_number_of_bases(num_bases: int) -> None:
    """Variants that hold the bases in registers take as many as fit, and refuse more in words."""
    case = Case(kernel=(1, 1), padding=(0, 0), size=(2, 2))
    given = tensors(case, num_bases=num_bases)
    y, dy, dx = oracle(case, given)
    most = {"aggregated": 8, "vendor-aggregated": 8, "basis-shared": 4, "materialised": 16}
    for variant in variants.VARIANTS:
        found = reasons(variant, given)
        assert (found == []) == (num_bases <= most.get(variant, num_bases)), f"{variant}: {found}"
        if not found:
            check(forward(case, given, variant=variant), y, variant)
            check(gradient(case, given, dy, variant=variant), dx, variant)


@pytest.mark.parametrize(("variant", "batch"), [("basis-shared", 3), ("materialised", 17)])
def test_samples_that_do_not_fill_a_program(variant: str, batch: int) -> None:
    case = Case(batch=batch, kernel=(1, 1), padding=(0, 0), size=(2, 2))
    given = tensors(case)
    y, dy, dx = oracle(case, given)
    check(forward(case, given, variant=variant), y, variant)
    check(gradient(case, given, dy, variant=variant), dx, variant)


@pytest.mark.parametrize("variant", ["vendor-linear", "vendor-aggregated"])
def test_the_residual_joins_the_vendors_result_in_any_layout(variant: str) -> None:
    case = Case(channels=4, stride=(2, 1))
    plain = tensors(case)
    y, dy, dx = oracle(case, plain)
    for last in (False, True):
        memory_format = torch.channels_last if last else torch.contiguous_format
        given = plain | {name: plain[name].contiguous(memory_format=memory_format) for name in ("x", "weight")}
        for got, expected in (
            (forward(case, given, variant=variant), y),
            (gradient(case, given, dy.contiguous(memory_format=memory_format), variant=variant), dx),
        ):
            check(got, expected)


def test_a_given_tile_is_used() -> None:
    case = Case(channels=17, outputs=2, size=(2, 2), kernel=(1, 1), padding=(0, 0))
    given = tensors(case)
    y, dy, dx = oracle(case, given)
    tile = Tile(16, 16, 16, warps=4, stages=2, samples=3)
    for variant in variants.VARIANTS:
        check(forward(case, given, variant=variant, tile=tile), y, variant)
        check(gradient(case, given, dy, variant=variant, tile=tile), dx, variant)


def test_a_variant_that_does_not_exist_is_refused() -> None:
    case = Case()
    with pytest.raises(ValueError, match="'winograd' cannot run .* there is no such variant; there are linear"):
        forward(case, tensors(case), variant="winograd")
    with (
        pytest.raises(ValueError, match="variant must be one of linear, .*; got 'winograd'"),
        variants.forced("winograd"),
    ):
        pass


def test_bases_are_mixed_in_float32() -> None:
    """Two large bases that cancel leave the static part untouched: bfloat16 partial sums would leave 2^-9 of them."""
    case = Case(basis=(3, 3), parts="weight basis", channels=16)
    given = tensors(case, torch.bfloat16, num_bases=2)
    half = given["basis"][: case.outputs] * 1024
    given["basis"] = torch.cat([half, -half])
    given["coefficients"] = torch.full((case.batch, 2), 1 / 3, device=DEVICE)
    y, dy, dx = oracle(case, given)
    check(forward(case, given), y)
    check(gradient(case, given, dy), dx)


def test_half_coefficients_and_scale_are_read_as_they_are() -> None:
    case = Case()
    given = tensors(case, torch.bfloat16)
    given["scale"], given["coefficients"] = given["scale"].bfloat16(), given["coefficients"].bfloat16()
    y, dy, dx = oracle(case, given)
    check(forward(case, given), y)
    check(gradient(case, given, dy), dx)


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "channels of a wider tensor": lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : -t.shape[1]],
    "channels_last slice": lambda t: torch.cat([t, t], 1).contiguous(memory_format=torch.channels_last)[
        :, -t.shape[1] :
    ],
    "every other column": lambda t: t.repeat_interleave(2, 3)[..., ::2],
    "offset by one": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout_gives_the_same_values(layout) -> None:
    case = Case(channels=4, kernel=(2, 2), basis=(2, 2), stride=(1, 2))
    plain = tensors(case)
    y, dy, dx = oracle(case, plain)
    given = {name: layout(t) if t is not None and t.dim() == 4 else t for name, t in plain.items()}
    given |= {name: plain[name].t().contiguous().t() for name in ("scale", "coefficients")}
    check(forward(case, given), y)
    check(gradient(case, given, layout(dy)), dx)


def test_expanded_gradients_give_the_same_values() -> None:
    case = Case()
    given = tensors(case)
    shape = oracle(case, given)[0].shape
    _, dy, dx = oracle(case, given, torch.ones(1, device=DEVICE).expand(shape))
    check(gradient(case, given, dy), dx)


def test_empty_batch_gives_empty_results() -> None:
    case = Case(batch=0)
    given = tensors(case)
    assert forward(case, given).shape == (0, 5, 5, 6)
    assert gradient(case, given, torch.zeros(0, 5, 5, 6, device=DEVICE)).shape == (0, 3, 5, 6)


def test_nan_stays_in_its_sample() -> None:
    case = Case(batch=3, kernel=(2, 2), basis=(2, 2))
    given = tensors(case)
    y, dy, dx = oracle(case, given)
    given["x"][1], dy[1] = float("nan"), float("nan")
    for got, expected in ((forward(case, given), y), (gradient(case, given, dy), dx)):
        assert got[1].isnan().all()
        check(got[::2], expected[::2])


def test_wide_offsets_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples so large that 32 bits cannot span a tile take 64-bit offsets: here the limit is lowered to reach them."""
    case = Case(batch=3, stride=(2, 1))
    given = tensors(case)
    y, dy, dx = oracle(case, given)
    monkeypatch.setattr(layout, "NARROW_REACH", 0)
    for variant in ("linear", "aggregated", "vendor-linear"):
        check(forward(case, given, variant=variant), y, variant)
        check(gradient(case, given, dy, variant=variant), dx, variant)


def test_wide_offsets_in_shared_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(batch=3, basis=(3, 3))
    given = tensors(case)
    y, dy, dx = oracle(case, given)
    monkeypatch.setattr(layout, "NARROW_REACH", 0)
    check(forward(case, given, variant="basis-shared"), y)
    check(gradient(case, given, dy, variant="basis-shared"), dx)


def test_reasons_are_empty_for_what_runs_and_name_what_does_not() -> None:
    given = tensors(Case())
    order = ("x", "weight", "basis", "scale", "coefficients")

    def found(groups: int = 1, **changed: Tensor) -> str:
        return "; ".join(layout.reasons(*((given | changed)[name] for name in order), groups))

    assert found() == ""
    assert "float64 runs on the eager path" in found(x=given["x"].double())
    assert "x has dtype torch.int32" in found(x=given["x"].int())
    assert "basis has dtype torch.float16, x has torch.float32" in found(basis=given["basis"].half())
    assert "scale is on meta" in found(scale=given["scale"].to("meta"))
    assert "weight has 3 channels for each of 2 groups" in found(groups=2)
    assert "the kernels run on CUDA devices" in found(x=given["x"].to("meta"))
    huge = torch.empty_strided((1, 3, 2**15, 2**15), (0, 0, 0, 0), device=DEVICE)
    assert "pixels a sample" in found(x=huge)
    assert "elements" in found(weight=huge[:, :, ::2, ::2])


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The options of each launch; nothing runs."""
    recorded: list[dict[str, object]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args, **options: recorded.append(options)

    monkeypatch.setattr(kernels, "implicit_gemm", Recorder())
    monkeypatch.setattr(kernels, "basis_shared", Recorder())
    return recorded


@pytest.mark.parametrize("variant", variants.VARIANTS)
@pytest.mark.parametrize("channels", [4, 1])
def test_output_is_channels_last_whatever_the_input_is(
    variant: str, channels: int, launches: list[dict[str, object]]
) -> None:
    """The kernels write neighbouring channels to neighbouring places; into NCHW they would write each one alone."""
    case = Case(channels=channels, basis=(3, 3) if variant == "basis-shared" else (1, 1), parts="weight basis")
    given = tensors(case)
    dy = torch.zeros(2, 5, 5, 6, device=DEVICE)
    for last in (torch.contiguous_format, torch.channels_last):
        given |= {name: given[name].contiguous(memory_format=last) for name in ("x", "weight")}
        y = forward(case, given, variant=variant)
        dx = gradient(case, given, dy.contiguous(memory_format=last), variant=variant)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert dx.is_contiguous(memory_format=torch.channels_last)
    assert len(launches) == 4


class CopiesAreRefused(TorchDispatchMode):
    """torch's operators may not copy a tensor, be it into another layout."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten.clone, torch.ops.aten.copy_), str(func)
        return func(*args, **(kwargs or {}))


# Not "materialised": its first kernel runs, and the interpreter copies.
@pytest.mark.parametrize("variant", [name for name in variants.VARIANTS if name != "materialised"])
def test_channels_last_problems_are_not_copied(variant: str, launches: list[dict[str, object]]) -> None:
    case = Case(channels=4, basis=(3, 3) if variant == "basis-shared" else (1, 1), parts="weight basis")
    given = tensors(case)
    dy = torch.zeros(2, 5, 5, 6, device=DEVICE).contiguous(memory_format=torch.channels_last)
    for name in ("x", "weight", "basis"):
        given[name] = given[name].contiguous(memory_format=torch.channels_last)
    with CopiesAreRefused():
        forward(case, given, variant=variant)
        gradient(case, given, dy, variant=variant)
    assert len(launches) == 2


def test_samples_that_32_bits_cannot_span_take_wide_offsets(launches: list[dict[str, object]]) -> None:
    case = Case(batch=1, channels=4)
    given = tensors(case)
    forward(case, given)
    given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
    given["x"] = given["x"].as_strided(given["x"].shape, (2**30, *given["x"].stride()[1:]))
    forward(case, given)
    assert [str(launch["OFFSET"]) for launch in launches] == ["int32", "int64"]


def test_a_samples_span_counts_where_the_batch_is_not_outermost(launches: list[dict[str, object]]) -> None:
    """Samples side by side within a row: few elements from one to the next, many from row to row."""
    case = Case(batch=2, channels=4, size=(1, 6))
    given = tensors(case)
    for row in (48, 2**31):
        # A single row: its stride moves no element, so that little memory stands for much.
        given["x"] = given["x"].new_zeros(48).as_strided((2, 4, 1, 6), (4, 1, row, 8))
        forward(case, given, variant="aggregated")
        gradient(case, given, given["x"].new_zeros(60).as_strided((2, 5, 1, 6), (5, 1, row, 10)), variant="aggregated")
    assert [str(launch["OFFSET"]) for launch in launches] == ["int32", "int32", "int64", "int64"]


def test_tf32_is_used_only_where_torch_allows_it(launches: list[dict[str, object]]) -> None:
    case = Case()
    given = tensors(case)
    forward(case, given)
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    forward(case, given)
    forward(case, tensors(case, torch.bfloat16))
    assert [launch["PRECISION"] for launch in launches] == ["ieee", "tf32", "ieee"]


def test_empty_batch_launches_nothing(launches: list[dict[str, object]]) -> None:
    """A grid without programs is an error on a GPU; the interpreter would let it pass."""
    case = Case(batch=0)
    given = tensors(case)
    for variant in variants.VARIANTS:
        if variant != "basis-shared":
            forward(case, given, variant=variant)
            gradient(case, given, torch.zeros(0, 5, 5, 6, device=DEVICE), variant=variant)
    assert launches == []

"""The fused parameter gradient against the float64 oracle; on the CPU it runs in Triton's interpreter."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from ops import cases
from ops.cases import CASES, Case
from tolerances import assert_agrees
from torch import Tensor

pytest.importorskip("triton", reason="Triton kernels need triton")

from dynconv import reference  # noqa: E402
from dynconv.kernels import dynamic_conv2d_parameters as kernels  # noqa: E402
from dynconv.kernels import layout  # noqa: E402
from dynconv.kernels.parameter_tiles import (  # noqa: E402
    MAX_BASES,
    TILES,
    ParameterTile,
    Split,
    choose_parameter_tile,
    choose_split,
    shipped_parameter_tiles,
)

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton kernels need a CUDA device, or TRITON_INTERPRET=1 set before the first import of triton",
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PARAMETERS = ("weight", "scale", "basis", "coefficients")
ALL = (True, True, True, True)
# A few pixels and one tap, for the interpreter takes 20 ms for a program; and the same with nine taps.
POINTWISE = Case(batch=3, height=3, width=2, kernel=1, padding=(0, 0), scale=True)
FULL = Case(batch=2, height=2, width=2, basis=3, scale=True)
CENTRE = Case(batch=2, height=2, width=2, scale=True)


def incoming(case: Case, dtype: torch.dtype) -> Tensor:
    """A gradient of the output that is not contiguous: every second column of a wider tensor."""
    height, width = (
        (size + 2 * case.padding[i] - case.dilation[i] * (case.kernel - 1) - 1) // case.stride[i] + 1
        for i, size in enumerate((case.height, case.width))
    )
    generator = torch.Generator().manual_seed(1)
    return torch.randn(case.batch, case.outputs, height, 2 * width, generator=generator).to(DEVICE, dtype)[..., ::2]


def gradients(
    case: Case, given: dict[str, Tensor | None], dy: Tensor, wanted: tuple[bool, bool, bool, bool] = ALL
) -> dict[str, Tensor | None]:
    detached = [None if (tensor := given[name]) is None else tensor.detach() for name in ("x", *PARAMETERS)]
    geometry = (case.stride, case.padding, case.dilation, case.groups)
    found = kernels.parameter_gradients(dy, *detached, *geometry, wanted=wanted)
    return dict(zip(PARAMETERS, found, strict=True))


def oracle(case: Case, given: dict[str, Tensor | None], dy: Tensor) -> dict[str, Tensor]:
    exact = cases.in_double(given)
    return cases.gradients(cases.run(reference.dynamic_conv2d, exact, case), exact, dy.double())


def problem(
    case: Case, dtype: torch.dtype = torch.float32, num_bases: int = 3
) -> tuple[dict[str, Tensor | None], Tensor]:
    given = cases.on_device(cases.tensors(case, dtype, num_bases=num_bases), DEVICE)
    return given, incoming(case, dtype)


def check(
    case: Case,
    dtype: torch.dtype = torch.float32,
    num_bases: int = 3,
    wanted: tuple[bool, bool, bool, bool] = ALL,
) -> None:
    """Every wanted gradient agrees as float32 does whatever the inputs are, for products and sums are in float32."""
    given, dy = problem(case, dtype, num_bases)
    expected = oracle(case, given, dy)
    found = gradients(case, given, dy, wanted)
    for name, is_wanted in zip(PARAMETERS, wanted, strict=True):
        gradient = found[name]
        if given[name] is None or not is_wanted:
            assert gradient is None, name
        else:
            assert gradient is not None and gradient.dtype == torch.float32, name
            assert_agrees(gradient, expected[name], what=name)


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


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 channels and 16 pixels, so that small problems have several of each."""
    tile = ParameterTile(16, 16, 16, warps=4, stages=2, bases=MAX_BASES)
    monkeypatch.setattr(kernels, "choose_parameter_tile", lambda *args: tile)


QUICK = ("empty batch", "stride", "one pixel")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_every_case_agrees_with_the_oracle(name: str) -> None:
    check(CASES[name])


MIXTURE = Case(height=3, width=2, kernel=1, padding=(0, 0), static=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [CENTRE, FULL, MIXTURE], ids=["centre", "full", "mixture"])
def test_half_types_are_multiplied_and_summed_in_float32(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


def test_half_scale_and_coefficients_are_read_as_they_are() -> None:
    given, dy = problem(POINTWISE, torch.bfloat16)
    for name in ("scale", "coefficients"):
        given[name] = given[name].detach().bfloat16().requires_grad_()
    expected = oracle(POINTWISE, given, dy)
    for name, gradient in gradients(POINTWISE, given, dy).items():
        assert_agrees(gradient, expected[name], what=name)


@pytest.mark.parametrize("num_bases", [1, 2, 5, 9, 2 * MAX_BASES + 1])
def test_any_number_of_bases(num_bases: int) -> None:
    check(POINTWISE, num_bases=num_bases)


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=4)), ids=str)
def test_only_what_is_wanted_is_computed(wanted: tuple[bool, bool, bool, bool]) -> None:
    check(POINTWISE, wanted=wanted)


@pytest.mark.parametrize("wanted", [(True, False, False, True), (False, True, True, False)], ids=str)
def test_only_what_is_wanted_is_computed_apart_from_a_pointwise_basis(wanted: tuple[bool, bool, bool, bool]) -> None:
    check(CENTRE, wanted=wanted)


def test_weight_gradient_without_scale() -> None:
    for basis in (1, 3):
        check(Case(batch=1, height=2, width=2, basis=basis), wanted=(True, False, False, False))


def test_channels_beyond_one_tile(small_tiles: None) -> None:
    check(Case(2, inputs=40, outputs=74, height=3, width=2, kernel=1, padding=(0, 0), groups=2, scale=True))


# Three samples of 35 pixels: three blocks of 16 each.
SPLITS = (Split(1, 3, 1, 3), Split(1, 3, 2, 2), Split(3, 1, 1, 9), Split(3, 1, 4, 3), Split(2, 2, 6, 1))


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_over_samples_and_pixels_agrees(
    small_tiles: None, monkeypatch: pytest.MonkeyPatch, split: Split
) -> None:
    monkeypatch.setattr(kernels, "choose_split", lambda *args: split)
    check(Case(height=5, width=7, kernel=1, padding=(0, 0), scale=True))
    # Without s, Phi and pi nothing is contracted sample by sample.
    check(Case(height=5, width=7, kernel=1, padding=(0, 0), basis=0))


def test_two_runs_agree_in_every_bit(small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "choose_split", lambda *args: Split(3, 1, 2, 5))
    case = Case(height=5, width=7, kernel=1, padding=(0, 0), scale=True)
    given, dy = problem(case)
    first, second = (gradients(case, given, dy) for _ in range(2))
    for name in PARAMETERS:
        assert torch.equal(first[name], second[name]), name


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "channels_last slice": lambda t: torch.cat([t, t], 1).contiguous(memory_format=torch.channels_last)[
        :, -t.shape[1] :
    ],
    "every other column": lambda t: t.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("memory", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout_gives_the_same_values(memory: Callable[[Tensor], Tensor]) -> None:
    case = Case(batch=2, height=3, width=2, kernel=1, padding=(0, 0), stride=(1, 2), scale=True)
    plain, dy = problem(case)
    expected = oracle(case, plain, dy)
    given = {name: memory(t.detach()) if t is not None and t.dim() == 4 else t for name, t in plain.items()}
    given |= {name: plain[name].detach().t().contiguous().t() for name in ("scale", "coefficients")}
    for name, gradient in gradients(case, given, memory(dy)).items():
        assert_agrees(gradient, expected[name], what=name)
    ones = torch.ones(1, device=DEVICE).expand(dy.shape)
    expected = oracle(case, plain, ones)
    for name, gradient in gradients(case, given, ones).items():
        assert_agrees(gradient, expected[name], what=name)


def test_wide_offsets_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that 32 bits cannot span take 64-bit offsets: here the limit is lowered to reach them."""
    monkeypatch.setattr(layout, "NARROW_REACH", 0)
    check(Case(batch=2, height=3, width=4, stride=(2, 1), scale=True))


def test_nan_stays_in_its_sample() -> None:
    given, dy = problem(POINTWISE)
    expected = oracle(POINTWISE, given, dy)
    dy[1] = float("nan")
    found = gradients(POINTWISE, given, dy)
    for name in ("scale", "coefficients"):
        assert found[name][1].isnan().all()
        assert_agrees(found[name][::2], expected[name][::2], what=name)


class Recorder:
    """Stands for the kernel; nothing runs."""

    def __init__(self) -> None:
        self.launches: list[tuple[int, dict[str, object]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.launches.append((grid[0], options))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    stand_in = Recorder()
    monkeypatch.setattr(kernels, "contract", stand_in)
    monkeypatch.setattr(kernels, "choose_split", lambda *args: Split(1, 1, 1, 1))
    return stand_in


def test_a_pointwise_basis_takes_the_centre_tap_alone(recorder: Recorder) -> None:
    given, dy = problem(CENTRE)
    gradients(CENTRE, given, dy)
    gradients(CENTRE, given, dy, (False, False, True, True))
    assert [(grid, options["BASES"]) for grid, options in recorder.launches] == [(9, 0), (1, 3), (1, 3)]


def test_a_full_basis_shares_one_launch_with_the_static_part(recorder: Recorder) -> None:
    given, dy = problem(FULL)
    gradients(FULL, given, dy)
    gradients(FULL, given, dy, (True, True, False, False))
    assert [(grid, options["BASES"]) for grid, options in recorder.launches] == [(9, 3), (9, 0)]


def test_launches_without_work_are_left_out(recorder: Recorder) -> None:
    """A grid without programs is an error on a GPU; the interpreter would let it pass."""
    case = CASES["empty batch"]
    given, dy = problem(case)
    assert all((gradient == 0).all() for gradient in gradients(case, given, dy).values())
    given, dy = problem(FULL)
    gradients(FULL, given, dy, (False, False, False, False))
    assert recorder.launches == []


def test_tf32_is_used_only_where_torch_allows_it(recorder: Recorder) -> None:
    gradients(POINTWISE, *problem(POINTWISE))
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    gradients(POINTWISE, *problem(POINTWISE))
    gradients(POINTWISE, *problem(POINTWISE, torch.bfloat16))
    assert [options["PRECISION"] for _, options in recorder.launches] == ["ieee", "tf32", "ieee"]


def test_samples_that_32_bits_cannot_span_take_wide_offsets(recorder: Recorder) -> None:
    given, dy = problem(POINTWISE)
    given = {name: None if tensor is None else tensor.detach().to("meta") for name, tensor in given.items()}
    for row in (2**28, 2**30):
        given["x"] = torch.empty_strided(given["x"].shape, (0, 1, row, 4), device="meta")
        gradients(POINTWISE, given, dy.to("meta"))
    assert [str(options["OFFSET"]) for _, options in recorder.launches] == ["int32", "int64"]


SIZES = ((1, 1), (1, 64), (9, 1), (9, 3), (64, 16), (576, 64), (10_000, 128))


@pytest.mark.parametrize("blocks", [1, 2, 7, 13, 49, 1000])
@pytest.mark.parametrize(("tiles", "batch"), SIZES)
def test_a_split_covers_every_block_once_and_leaves_no_program_idle(tiles: int, batch: int, blocks: int) -> None:
    for contractions in (0, 1, 5):
        split = choose_split(tiles, batch, blocks, contractions)
        items = batch * split.chunks
        assert (split.chunks - 1) * split.blocks < blocks <= split.chunks * split.blocks
        assert (split.programs - 1) * split.items < items <= split.programs * split.items


def test_few_tiles_are_dealt_to_every_multiprocessor_and_many_are_not_split() -> None:
    # ResNet at batch 64 with a 1x1 basis, K = 4: 64 channels are one tile, of 49 blocks of pixels a sample.
    assert choose_split(1, 64, 49, 4).programs > 100
    assert 1 < choose_split(4, 64, 13, 4).programs <= 66
    # 512 channels with a full basis: 9 x 8 x 8 tiles.
    assert choose_split(576, 64, 1, 5) == Split(1, 1, 64, 1)
    # A single sample is cut by pixels.
    assert choose_split(1, 1, 49, 4).chunks > 1


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("kind", TILES)
def test_every_choice_is_a_shipped_tile_that_carries_its_bases(kind: str, capability: int) -> None:
    sizes = (1, 3, 16, 17, 32, 33, 64, 128, 512)
    shipped, chosen = shipped_parameter_tiles(kind, capability), set()
    for outputs, inputs, bases in itertools.product(sizes, sizes, range(MAX_BASES + 1)):
        tile = choose_parameter_tile(kind, outputs, inputs, bases, capability)
        assert tile in shipped and tile.bases >= bases and tile.capability <= capability
        chosen.add(tile)
    assert chosen == set(shipped)


def test_tiles_are_as_wide_as_registers_and_channels_allow() -> None:
    def tile(outputs: int, inputs: int, bases: int, capability: int = 90) -> tuple[int, int]:
        return choose_parameter_tile("half", outputs, inputs, bases, capability)[:2]

    assert [tile(512, 512, bases) for bases in (0, 1, 4, 8)] == [(128, 128), (128, 64), (64, 64), (64, 32)]
    assert tile(512, 512, 0, capability=80) == (64, 64)
    assert tile(64, 64, 0) == (64, 64)
    assert tile(512, 10, 4) == (64, 16)
    assert tile(1, 1, 4) == (16, 16)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "index"), [(kind, i) for kind, tiles in TILES.items() for i in range(len(tiles))])
def test_every_tile_agrees_with_the_oracle(monkeypatch: pytest.MonkeyPatch, kind: str, index: int) -> None:
    tile = TILES[kind][index]
    monkeypatch.setattr(kernels, "choose_parameter_tile", lambda *args: tile)
    dtype = torch.bfloat16 if kind == "half" else torch.float32
    case = Case(batch=2, inputs=70, outputs=130, height=9, width=8, kernel=1, padding=(0, 0), scale=True)
    if tile.bases:
        check(case, dtype, num_bases=tile.bases)
    check(case, dtype, wanted=(True, True, False, False))


RESNET = ((64, 56), (128, 28), (256, 14), (512, 7))


@pytest.mark.gpu
@pytest.mark.parametrize("basis", [1, 3])
@pytest.mark.parametrize(("channels", "size"), RESNET)
def test_resnet_stages_agree_with_the_oracle_and_repeat_bit_for_bit(channels: int, size: int, basis: int) -> None:
    case = Case(16, channels, channels, size, size, basis=basis, scale=True, channels_last=True)
    given, dy = problem(case, torch.bfloat16, num_bases=4)
    expected = oracle(case, given, dy)
    first, second = (gradients(case, given, dy) for _ in range(2))
    for name in PARAMETERS:
        assert torch.equal(first[name], second[name]), name
        # Sums of up to 50,000 float32 products.
        assert_agrees(first[name], expected[name], torch.float16, what=name)

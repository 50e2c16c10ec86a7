from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from dynconv import backends
from dynconv.ops import cost_model, cost_shape_cuda, native
from dynconv.ops.cost_model import choose_strategy, prefers_split
from dynconv.ops.problem import Problem

RESULTS = Path(__file__).parents[2] / "bench" / "results"
TABLES = sorted(RESULTS.glob("dynamic_conv2d_*.csv"))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
without_native = pytest.mark.skipif(
    backends.native_missing("cpu") is not None, reason=f"native CPU operators: {backends.native_missing('cpu')}"
)


def problem(
    batch: int,
    inputs: int,
    outputs: int,
    side: int,
    kernel: int,
    basis: int | None,
    *,
    stride: int = 1,
    groups: int = 1,
    num_bases: int = 4,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    static: bool = True,
    scale: bool = False,
    device: str = "cpu",
) -> Problem:
    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    x = empty(batch, inputs, side, side)
    return Problem(
        x.contiguous(memory_format=torch.channels_last) if channels_last else x,
        empty(outputs, inputs // groups, kernel, kernel) if static else None,
        None,
        empty(batch, outputs) if scale else None,
        None if basis is None else empty(num_bases * outputs, inputs // groups, basis, basis),
        None if basis is None else empty(batch, num_bases),
        (stride, stride),
        (kernel // 2, kernel // 2),
        (1, 1),
        groups,
    )


def measured(table: Path) -> list[tuple[Problem, bool, dict[str, float]]]:
    """Each measured problem of a table, whether forward alone, and every backend's time over the static convolution."""
    rows: dict[tuple, dict[str, float]] = defaultdict(dict)
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row["provider"].removeprefix("dynconv:")
            if name == row["provider"] or row["status"] != "ok" or row["graph"] == "True":
                continue
            sizes = ("batch", "in_channels", "out_channels", "size", "kernel", "stride", "groups", "num_bases")
            key = (row["device"], *(int(row[size]) for size in sizes), *(row[k] for k in ("dtype", "basis", "layout")))
            rows[(*key, row["residual"], row["mode"])][name] = float(row["ratio_to_static"])
    found = []
    for key, times in rows.items():
        device, batch, inputs, outputs, side, kernel, stride, groups, num_bases, *words = key
        dtype, basis, layout, residual, mode = words
        described = problem(
            batch, inputs, outputs, side, kernel, kernel if basis == "full" else 1, stride=stride, groups=groups,
            num_bases=num_bases, dtype=DTYPES[dtype], channels_last=layout == "nhwc", device=device,
            static=residual != "mixture", scale=residual == "combined",
        )  # fmt: skip
        found.append((described, mode == "forward", times))
    return found


@without_native
@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.name)
def test_its_choice_is_within_a_tenth_of_the_fastest_for_nine_rows_in_ten(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A GPU's table is held against the model without a GPU: its tensors are fakes, and it is an H200.
    monkeypatch.setattr(cost_shape_cuda, "_multiprocessors", lambda device: cost_shape_cuda.Machine().multiprocessors)
    # The CPU's tables are of a processor without units for bfloat16, whatever this one has.
    monkeypatch.setattr(cost_model, "_HAS_BF16_UNITS", False)
    monkeypatch.setattr(cost_model, "_CHOICES", {})
    with torch._subclasses.FakeTensorMode():
        table_rows = measured(table)
        assert len(table_rows) >= 20, f"{table.name}: {len(table_rows)} problems"
        missed = []
        for described, inference, times in table_rows:
            choice = choose_strategy(described, inference=inference)
            assert choice in times, f"{choice} was not timed on {described.x.shape}"
            if times[choice] > 1.1 * min(times.values()):
                fastest = min(times, key=times.__getitem__)
                ratio = times[choice] / times[fastest]
                missed.append(f"{tuple(described.x.shape)} {described.x.dtype}: {choice} {ratio:.2f} x {fastest}")
    assert len(missed) <= len(table_rows) / 10, f"{len(missed)} of {len(table_rows)}:\n" + "\n".join(missed)


def test_there_is_a_table_of_a_cpu() -> None:
    assert RESULTS / "dynamic_conv2d_cpu.csv" in TABLES


@without_native
def test_native_runs_what_it_can_and_an_eager_strategy_the_rest() -> None:
    assert choose_strategy(problem(16, 256, 256, 14, 3, 3)) == "native"
    assert choose_strategy(problem(16, 256, 256, 14, 3, 3, dtype=torch.float64)) in ("loop", "aggregate")
    assert choose_strategy(problem(16, 256, 256, 14, 3, 3), eager=True) in ("loop", "aggregate")
    assert choose_strategy(problem(16, 64, 64, 28, 3, 3, groups=16)) in ("loop", "aggregate")


@without_native
@pytest.mark.parametrize("basis", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 16])
def test_depthwise_convolutions_run_native_whatever_the_processor_has_for_bfloat16(
    batch: int, dtype: torch.dtype, channels_last: bool, basis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has_units in (False, True):
        monkeypatch.setattr(cost_model, "_HAS_BF16_UNITS", has_units)
        monkeypatch.setattr(cost_model, "_CHOICES", {})
        for channels, side in ((192, 28), (960, 7)):
            options = {"groups": channels, "dtype": dtype, "channels_last": channels_last}
            given = problem(batch, channels, channels, side, 3, basis, **options)
            assert choose_strategy(given) == "native"
            assert not prefers_split(given, eager=False)
        # Vectors of channels would be mostly empty.
        assert choose_strategy(problem(batch, 8, 8, 56, 3, basis, groups=8, dtype=dtype)) != "native"


def test_a_depthwise_convolution_without_native_operators_is_one_convolution_of_kernels_per_sample() -> None:
    for side in (28, 14, 7):
        assert choose_strategy(problem(16, 960, 960, side, 3, 1, groups=960), eager=True) == "aggregate"


def test_without_native_operators_an_eager_strategy_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "reasons", lambda problem: ["not built"])
    monkeypatch.setattr(cost_model, "_CHOICES", {})
    assert choose_strategy(problem(16, 256, 256, 14, 3, 1)) == "split"
    assert choose_strategy(problem(16, 512, 512, 7, 3, 3)) == "linear"
    assert choose_strategy(problem(128, 3, 16, 8, 5, 5)) == "aggregate"


@without_native
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("channels", "side"), [(64, 56), (256, 14), (512, 7), (64, 8)])
def test_what_torch_compile_decides_is_what_the_costs_say(
    channels: int, side: int, groups: int, channels_last: bool
) -> None:
    # With fewer samples of 64 channels and 8 x 8 pixels calls decide, which the other does not count.
    batch = 16 if side > 8 or channels > 64 else 2048
    given = problem(batch, channels, channels, side, 3, 1, groups=groups, channels_last=channels_last)
    assert prefers_split(given, eager=False) == (choose_strategy(given) == "split")
    assert prefers_split(given, eager=True)
    attention = problem(
        batch, channels, channels, side, 3, None, groups=groups, channels_last=channels_last, scale=True
    )
    assert prefers_split(attention, eager=False) == (choose_strategy(attention) == "split")
    # Where W0 is all there is to scale, forming a kernel per sample costs no more.
    assert choose_strategy(attention, eager=True) in ("split", "aggregate")
    assert not prefers_split(problem(16, channels, channels, side, 3, 3), eager=False)


@without_native
def test_bfloat16_goes_to_native_only_where_the_processor_has_no_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(16, 256, 256, 14, 3, 3, dtype=torch.bfloat16)
    for has_units in (False, True):
        monkeypatch.setattr(cost_model, "_CHOICES", {})
        monkeypatch.setattr(cost_model, "_HAS_BF16_UNITS", has_units)
        assert (choose_strategy(given) == "native") == (not has_units)


@without_native
@pytest.mark.parametrize(("batch", "channels", "side"), [(2, 16, 4), (1, 64, 4), (8, 32, 8), (16, 64, 8)])
def test_small_problems_are_one_call(batch: int, channels: int, side: int) -> None:
    for basis in (1, 3):
        for channels_last in (False, True):
            given = problem(batch, channels, channels, side, 3, basis, channels_last=channels_last)
            assert choose_strategy(given) == "native"


def test_small_problems_do_not_pay_for_many_calls() -> None:
    for batch, channels, side in ((1, 32, 1), (1, 4, 5), (4, 8, 3)):
        assert choose_strategy(problem(batch, channels, channels, side, 1, 1, static=False), eager=True) != "linear"
        assert choose_strategy(problem(batch, channels, channels, side, 3, 3), eager=True) != "linear"

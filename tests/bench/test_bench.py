"""The benchmarks end to end on tiny shapes: complete rows, and nothing timed that disagrees with the oracle."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from benchmark_rows import QUICK, measured
from torch import Tensor

from dynconv.bench import bench_coefficients, bench_drt_step, bench_dynamic_conv2d, harness, providers
from dynconv.bench.harness import CommonOptions
from dynconv.bench.memory import MemoryMeter
from dynconv.bench.problems import SHAPES
from dynconv.bench.providers import PROVIDERS, Call, Provider
from dynconv.bench.rows import COLUMNS, IDENTITY
from dynconv.bench.supervised_step import GroupedConv2d
from dynconv.nn import DynamicConv2d

HAS_TIMM = importlib.util.find_spec("timm") is not None
TINY = [*QUICK, "--shapes", "4-6@5k3"]
MEASURED = ("p20_ms", "p50_ms", "p80_ms", "min_ms", "rounds", "ratio_to_static", "ratio_p20", "ratio_p80")
ROOFLINE = ("gflop", "mbytes", "floor_ms", "percent_of_floor", "gbytes_per_s", "gflop_per_s")
ORIGIN = ("device_name", "threads", "torch", "timm", "cuda", "commit", "dirty", "date")


def bench(tmp_path: Path, *words: str, module=bench_dynamic_conv2d, code: int = 0) -> list[dict[str, str]]:
    return measured(module.main, tmp_path, *words, code=code)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch):
    """Add a provider for one test; it counts its calls."""

    def add(name: str, forward, **fields: object) -> list[int]:
        calls: list[int] = []

        def build(spec, t) -> Call:
            def counted() -> Tensor:
                calls.append(1)
                return forward(spec, t)

            return Call(counted, providers._leaves(spec, t))

        monkeypatch.setitem(PROVIDERS, name, Provider(name, build, **fields))
        return calls

    return add


@pytest.mark.usefixtures("quick_rates")
def test_every_row_is_complete_and_measured_in_every_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], provider
) -> None:
    rows = bench(tmp_path, *TINY, "--batch", "2", "--residual", "combined", "subspace", "--no-memory")
    assert list(rows[0]) == list(COLUMNS)
    # Two residuals, bases, modes and layouts.
    default = [name for name, p in PROVIDERS.items() if not p.is_compiled]
    assert len(rows) == 2 * 2 * 2 * 2 * len(default)
    for row in rows:
        assert row["status"] in ("ok", "skipped") and all(row[name] for name in ORIGIN), row
        if row["status"] == "skipped":
            assert row["note"] and not row["p50_ms"]
            continue
        assert all(float(row[name]) > 0 for name in (*MEASURED, *ROOFLINE, "error", "ratio_to_grouped")), row
        assert float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert float(row["error"]) < 1e-5
        if row["provider"] == "static":
            assert float(row["ratio_to_static"]) == float(row["ratio_of_minima"]) == 1
        if row["provider"] == "grouped":
            assert float(row["ratio_to_grouped"]) == 1
    timed = {(row["provider"], row["basis"]) for row in rows if row["status"] == "ok"}
    assert {("dynconv:split", "1x1"), ("vmap", "full"), ("released", "1x1")} <= timed
    assert (("timm", "full") in timed) == HAS_TIMM
    assert not {("timm", "1x1"), ("dynconv:split", "full"), ("dynconv:triton", "1x1")} & timed
    captured = capsys.readouterr()
    assert "4-6@5k3 batch 2 fp32 forward full subspace" in captured.out
    assert "skipped: timm" in captured.out and "[8/8" in captured.err
    assert "measured on the CPU: " in captured.out and "x static: time over that of static" in captured.out
    out = next(tmp_path.glob("*.csv"))
    assert f"{len(rows)} rows are in {out}; python -m dynconv.bench.plot {out} draws them" in captured.err.splitlines()


@pytest.mark.usefixtures("quick_rates")
def test_a_provider_that_is_wrong_is_refused_and_never_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], provider
) -> None:
    right = providers._grouped_forward
    off = provider("off", lambda spec, t: right(spec, t) * 1.001)
    nan = provider("nan", lambda spec, t: right(spec, t) * float("nan"))

    def without_gradient(spec, t) -> Tensor:
        return right(spec, t | {"coefficients": t["coefficients"].detach()}) + 0 * t["coefficients"].sum()

    deaf = provider("deaf", without_gradient)
    words = [*TINY, "--batch", "2", "--basis", "full", "--layout", "nchw", "--no-memory"]
    rows = bench(tmp_path, *words, "--providers", "off", "nan", "deaf", "grouped", code=1)
    status = {(row["provider"], row["mode"]): row["status"] for row in rows}
    assert {name for (name, mode), found in status.items() if found == "refused"} == {"off", "nan", "deaf"}
    # The wrong gradient shows where gradients are asked for.
    assert status["deaf", "forward"] == "ok" and status["grouped", "forward+backward"] == "ok"
    assert len(off) == len(nan) == 2
    refused = [row for row in rows if row["status"] == "refused"]
    assert all(not row["p50_ms"] and "not timed" in row["note"] for row in refused)
    assert "the gradient of coefficients" in next(row["note"] for row in refused if row["provider"] == "deaf")
    assert "refused: off" in capsys.readouterr().out and len(deaf) > 2


@pytest.mark.usefixtures("quick_rates")
def test_an_error_of_ours_is_refused_and_one_of_another_is_skipped(tmp_path: Path, provider) -> None:
    def broken(spec, t) -> Tensor:
        raise RuntimeError("a fault\nand its trace")

    provider("ours", broken, is_ours=True)
    provider("theirs", broken)
    words = [*TINY, "--batch", "1", "--basis", "1x1", "--mode", "forward", "--layout", "nchw", "--no-memory"]
    rows = bench(tmp_path, *words, "--providers", "ours", "theirs", code=1)
    found = {row["provider"]: (row["status"], row["note"]) for row in rows}
    assert found["ours"] == ("refused", "RuntimeError: a fault")
    assert found["theirs"] == ("skipped", "RuntimeError: a fault") and found["static"][0] == "ok"


@pytest.mark.usefixtures("quick_rates")
@pytest.mark.parametrize("name", [name for name in PROVIDERS if name.startswith("compiled")] + ["timm", "dynconv"])
@pytest.mark.slow
def test_the_mixture_and_bf16_agree_for_every_provider(tmp_path: Path, name: str) -> None:
    if name == "timm" and not HAS_TIMM:
        pytest.skip("timm is not installed (pip install 'dynconv[bench]')")
    words = [*TINY, "--batch", "2", "--residual", "mixture", "--basis", "full", "--dtype", "fp32", "bf16"]
    rows = bench(tmp_path, *words, "--providers", name, "--no-memory")
    assert {row["status"] for row in rows if row["provider"] == name} == {"ok"}
    if name.startswith("compiled"):
        assert all(float(row["compile_s"]) > 0 for row in rows if row["provider"] == name)


@pytest.mark.usefixtures("quick_rates")
def test_a_depthwise_shape_and_a_stride_are_right_for_every_provider(tmp_path: Path) -> None:
    words = [*QUICK, "--shapes", "6-6@5k3g6", "4-6@5k5s2g2", "--batch", "2", "--layout", "nhwc", "--no-memory"]
    rows = bench(tmp_path, *words, "--mode", "forward+backward", "--residual", "combined", "mixture")
    assert {row["status"] for row in rows} == {"ok", "skipped"}
    assert {(row["shape"], row["groups"]) for row in rows} == {("6-6@5k3g6", "6"), ("4-6@5k5s2g2", "2")}


@pytest.mark.usefixtures("quick_rates")
def test_what_does_not_fit_into_memory_is_skipped_with_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_dynamic_conv2d, "free_bytes", lambda device: 50_000)
    words = [*TINY, "--batch", "4", "--basis", "full", "--mode", "forward+backward", "--layout", "nchw", "--no-memory"]
    rows = bench(tmp_path, *words, "--providers", "grouped", "static")
    found = {row["provider"]: row for row in rows}
    assert found["grouped"]["status"] == "skipped" and "GB are free" in found["grouped"]["note"]
    assert found["static"]["status"] == "ok"
    monkeypatch.setattr(bench_dynamic_conv2d, "free_bytes", lambda device: 10)
    assert {row["status"] for row in bench(tmp_path, *words)} == {"skipped"}


@pytest.mark.usefixtures("quick_rates")
def test_coefficients_are_measured_and_a_wrong_branch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, "--batch", "2", "--layout", "nhwc", "--no-memory"]
    rows = bench(tmp_path, *words, module=bench_coefficients)
    timed = {row["provider"] for row in rows if row["status"] == "ok"}
    assert {"static", "pool", "plain", "dynconv", "dynconv:eager"} <= timed
    assert all(float(row["ratio_to_static"]) > 0 for row in rows if row["status"] == "ok")
    assert {row["residual"] for row in rows} == {"subspace", "combined"}
    assert all(float(row[name]) > 0 for row in rows if row["status"] == "ok" for name in (*ROOFLINE, "error"))
    plain = bench_coefficients._plain

    def wrong(spec, t):
        pi, s = plain(spec, t)
        return pi, None if s is None else s - 1

    monkeypatch.setitem(bench_coefficients.PROVIDERS, "plain", wrong)
    rows = bench(tmp_path, *words, "--providers", "plain", module=bench_coefficients, code=1)
    status = {(row["residual"], row["status"]) for row in rows if row["provider"] == "plain"}
    assert status == {("subspace", "ok"), ("combined", "refused")}


@pytest.mark.usefixtures("quick_rates")
def test_the_yardsticks_of_the_coefficients_are_held_against_an_oracle_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, static = bench_coefficients._pool, PROVIDERS["static"]
    words = [*TINY, "--batch", "2", "--layout", "nchw", "--residual", "subspace", "--no-memory", "--providers", "pool"]

    def off(spec, t) -> Call:
        call = static.build(spec, t)
        return Call(lambda: call.forward() * 1.001, call.leaves)

    def off_pool(spec, t) -> tuple[Tensor, ...]:
        (mean,) = pool(spec, t)
        # The value is right, the gradient is not.
        return (mean + 0.01 * (mean - mean.detach()),)

    monkeypatch.setattr(bench_coefficients, "_pool", off_pool)
    monkeypatch.setitem(bench_coefficients.PROVIDERS, "pool", off_pool)
    monkeypatch.setitem(PROVIDERS, "static", dataclasses.replace(static, build=off))
    rows = bench(tmp_path, *words, module=bench_coefficients, code=1)
    found = {(row["provider"], row["mode"]): row["status"] for row in rows}
    assert found == {
        ("static", "forward"): "refused",
        ("static", "forward+backward"): "refused",
        ("pool", "forward"): "ok",
        ("pool", "forward+backward"): "refused",
    }
    assert "the gradient of x is off" in rows[-1]["note"]


@pytest.mark.usefixtures("quick_rates")
@pytest.mark.parametrize("module", [bench_dynamic_conv2d, bench_coefficients, bench_drt_step])
def test_a_selection_given_twice_is_measured_once_and_in_the_order_given(tmp_path: Path, module) -> None:
    sizes = ["--shapes", "4-6@5k3", "4-4@3k3", "4-6@5k3", "--batch", "3", "2", "3", "--mode", "forward", "forward"]
    if module is bench_drt_step:
        sizes = ["--models", "lenet-small", "lenet-small", "--batch", "2"]
    words = [*QUICK, *sizes, "--layout", "nhwc", "nhwc", "--dtype", "fp32", "fp32", "--no-memory"]
    rows = bench(tmp_path, *words, "--providers", "dynconv", "dynconv", module=module)
    identities = [tuple(row[name] for name in IDENTITY) for row in rows]
    assert len(set(identities)) == len(identities)
    if module is bench_dynamic_conv2d:
        places = list(dict.fromkeys((row["shape"], row["batch"]) for row in rows))
        assert places == [("4-6@5k3", "3"), ("4-6@5k3", "2"), ("4-4@3k3", "3"), ("4-4@3k3", "2")]


def test_the_default_grid_of_a_cpu_has_batch_1_and_bf16_where_they_are_telling() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def sizes(name: str, device: torch.device = cpu, **fields: object) -> list[tuple[int, str]]:
        return bench_dynamic_conv2d.sizes(SHAPES[name], bench_dynamic_conv2d.Options(**fields), device)

    assert sizes("r64") == sizes("r512") == [(16, "fp32"), (1, "fp32"), (16, "bf16")]
    assert sizes("r128") == sizes("r256") == [(16, "fp32"), (1, "fp32")]
    assert sizes("l128") == [(128, "fp32")] and sizes("m192") == [(16, "fp32")]
    assert sizes("r64", quick=True) == [(4, "fp32")]
    assert sizes("r64", cuda) == [(64, "fp32"), (64, "bf16")]
    # What is given is taken as it is.
    assert sizes("r64", batch=(8,)) == [(8, "fp32")]
    assert sizes("l128", batch=(1, 2), dtype=("bf16",)) == [(1, "bf16"), (2, "bf16")]
    grid = bench_dynamic_conv2d.grid(bench_dynamic_conv2d.Options(), cpu)
    assert len(grid) == len(set(grid)) == 4 * (7 + 4 + 2)


def test_peak_memory_counts_what_the_provider_reads_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_rates: None
) -> None:
    # Peaks and results of nothing: what is left are the inputs.
    monkeypatch.setattr(MemoryMeter, "measure", lambda self, function, arguments: (0.0, 0.0))
    words = [*TINY, "--batch", "2", "--layout", "nchw", "--basis", "full", "--residual", "subspace", "mixture"]
    found = {}
    for row in bench(tmp_path, *words, "--providers", "dynconv"):
        found[row["provider"], row["residual"], row["mode"]] = round(float(row["peak_mb"]) * 1e6 / 4)
    x, dy, weight = 2 * 4 * 25, 2 * 6 * 25, 6 * 4 * 9
    basis = 4 * weight + 2 * 4
    assert found["static", "subspace", "forward"] == found["static", "mixture", "forward"] == x + weight
    assert found["dynconv", "subspace", "forward"] == x + weight + basis
    assert found["dynconv", "mixture", "forward"] == x + basis
    assert found["dynconv", "subspace", "forward+backward"] == x + weight + basis + dy
    words = [*TINY, "--batch", "2", "--layout", "nchw", "--residual", "combined", "--providers", "pool", "dynconv"]
    found = {}
    for row in bench(tmp_path, *words, module=bench_coefficients):
        found[row["provider"], row["mode"]] = round(float(row["peak_mb"]) * 1e6 / 4)
    branch = 4 * 4 + (4 + 6) * 4
    assert found["static", "forward+backward"] == x + weight + dy
    assert found["pool", "forward"] == found["pool", "forward+backward"] == x
    assert found["dynconv", "forward"] == x + branch
    assert found["dynconv", "forward+backward"] == x + branch + 2 * (4 + 6)


def test_a_result_of_another_shape_is_infinitely_wrong() -> None:
    expected = torch.ones(2, 3, dtype=torch.float64)
    assert harness.relative_error(torch.ones(2, 3), expected) == 0
    for shape in ((3, 2), (6,), (1, 2, 3), (1, 3)):
        assert harness.relative_error(torch.ones(shape), expected) == float("inf")


@pytest.mark.usefixtures("quick_rates")
def test_a_training_step_is_measured_and_a_wrong_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, "--models", "lenet-small", "--batch", "2", "--no-memory"]
    rows = bench(tmp_path, *words, "--residual", "combined", "--basis", "full", module=bench_drt_step)
    assert [(row["provider"], row["status"]) for row in rows] == [(n, "ok") for n in ("static", "dynconv", "grouped")]
    for row in rows:
        assert all(float(row[name]) > 0 for name in (*MEASURED, *ROOFLINE, "images_per_s", "ratio_to_grouped"))
    forward = DynamicConv2d.forward
    monkeypatch.setattr(DynamicConv2d, "forward", lambda self, x, context=None: forward(self, x, context) * 1.01)
    rows = bench(tmp_path, *words, module=bench_drt_step, code=1)
    assert [row["status"] for row in rows] == ["ok", "refused", "ok"] and "not timed" in rows[1]["note"]


def test_a_step_changes_the_weights_and_leaves_no_gradient() -> None:
    step = bench_drt_step.Step("lenet-small", 2, 32, "fp32", "nhwc", "subspace", "1x1", 2, "cpu")
    own = bench_drt_step.training(step, "dynconv")
    before = {name: p.detach().clone() for name, p in own.model.named_parameters()}
    own()
    moved = {name for name, p in own.model.named_parameters() if not torch.equal(p, before[name])}
    expected = {name for name in before if name.endswith(("basis", "0.weight", "linear.0.weight"))}
    assert expected and expected <= moved
    assert all(p.grad is None for p in own.model.parameters())
    kinds = {type(m) for m in bench_drt_step.model_of(step, "grouped").modules() if isinstance(m, DynamicConv2d)}
    assert kinds == {GroupedConv2d}


def test_an_interruption_keeps_the_rows_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick_rates: None
) -> None:
    group, seen = bench_dynamic_conv2d.Bench.group, []

    def interrupted(self, spec, session) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(spec)
        group(self, spec, session)

    monkeypatch.setattr(bench_dynamic_conv2d.Bench, "group", interrupted)
    words = [*TINY, "--batch", "1", "--layout", "nchw", "--no-memory", "--providers", "dynconv"]
    rows = bench(tmp_path, *words, code=130)
    assert [row["provider"] for row in rows] == ["static", "dynconv"]
    assert "interrupted; 2 rows are in" in capsys.readouterr().err


def test_options_out_of_range_are_named(tmp_path: Path) -> None:
    kept = tmp_path / "kept.csv"
    kept.touch()
    for fields, word in (
        ({"budget": 0.0}, "--budget"),
        ({"budget": float("nan")}, "--budget"),
        ({"threads": 0}, "--threads"),
        ({"min_rounds": 0}, "--min-rounds"),
        ({"out": kept}, "--overwrite"),
    ):
        with pytest.raises(ValueError, match=word):
            CommonOptions(**fields).check()
    CommonOptions(out=kept, overwrite=True).check()


@pytest.mark.gpu
@pytest.mark.parametrize("module", [bench_dynamic_conv2d, bench_coefficients])
def test_a_gpu_is_measured_with_and_without_graphs(tmp_path: Path, module) -> None:
    words = ["--device", "cuda", "--budget", "0.01", "--shapes", "64-64@14k3", "--batch", "4", "--graphs"]
    rows = bench(tmp_path, *words, "--providers", "all", module=module)
    timed = {(row["provider"], row["graph"]) for row in rows if row["status"] == "ok"}
    assert {("static", "True"), ("static", "False"), ("dynconv", "True"), ("dynconv", "False")} <= timed
    assert all(row["peak_extra_mb"] for row in rows if row["status"] == "ok")


@pytest.mark.gpu
def test_a_training_step_is_measured_on_a_gpu(tmp_path: Path) -> None:
    words = ["--device", "cuda", "--budget", "0.1", "--models", "resnet50", "--batch", "8", "--image-size", "64"]
    words.append("--graphs")
    rows = bench(tmp_path, *words, module=bench_drt_step)
    assert [row["status"] for row in rows] == ["ok"] * 4 and {row["dtype"] for row in rows} == {"bf16"}


def test_a_graph_is_checked_and_one_that_cannot_be_captured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(run, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    row = {"provider": "any", "layout": "nchw"}
    cuda = torch.device("cuda")
    for captured, status, word in (
        (fails, "refused", "no CUDA graph: RuntimeError"),
        (lambda run, device: lambda: 0.5, "refused", "off the oracle by 0.5"),
        (lambda run, device: lambda: 1e-6, None, ""),
    ):
        monkeypatch.setattr(harness, "captured", captured)
        entry = harness._graph(row, lambda: 0.0, lambda result: (result, "y"), 1e-4, cuda, is_ours=True)
        assert entry.row.get("status") == status and word in entry.row.get("note", "")
        assert entry.row["graph"] is True and (entry.run is None) == (status == "refused")

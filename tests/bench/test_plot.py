"""The pictures come from the CSV alone, one set per group of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_rows import ROW, table

from dynconv.bench import plot, plot_frame
from dynconv.bench.plot_roofline import spread

TIMED = {
    "dtype": "fp32",
    "mode": "forward",
    "basis": "1x1",
    "residual": "subspace",
    "threads": "2",
    "ratio_p20": "0.9",
    "ratio_p80": "2.5",
    "gflop": "1",
    "mbytes": "4",
    "floor_ms": "2",
    "gbytes_per_s": "20",
    "gflop_per_s": "500",
}


def rows(**changes: str) -> list[dict[str, str]]:
    ratios = {"static": "1", "dynconv": "1.2", "unheard-of": "2"}
    return [ROW | TIMED | {"provider": name, "ratio_to_static": r} | changes for name, r in ratios.items()]


def test_a_picture_of_ratios_and_one_of_the_roofline_per_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*rows(), *rows(mode="forward+backward"), *rows(layout="nhwc", gflop="", floor_ms="")]
    skipped = rows(dtype="bf16", status="skipped", p50_ms="")
    path = table(tmp_path / "t.csv", *given, *skipped)
    assert plot.main([path, "--out", str(tmp_path / "pictures")]) == 0
    written = {Path(line).name for line in capsys.readouterr().out.split()}
    names = {"t_fp32_subspace_nchw_ratio.png", "t_fp32_subspace_nchw_roofline.png", "t_fp32_subspace_nhwc_ratio.png"}
    assert written == names == {file.name for file in (tmp_path / "pictures").iterdir()}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "pictures").iterdir())


def test_ours_and_the_usual_way_have_a_picture_of_their_own(tmp_path: Path) -> None:
    both = [*rows(), ROW | TIMED | {"provider": "grouped", "ratio_to_static": "3"}]
    names = {path.name for path in plot.draw(Path(table(tmp_path / "t.csv", *both)), tmp_path)}
    assert names == {f"t_fp32_subspace_nchw_{kind}.png" for kind in ("ratio", "speed", "roofline")}


def test_a_loader_has_images_per_second_and_no_ratios(tmp_path: Path) -> None:
    own = {"op": "loader", "residual": "", "layout": "", "ratio_to_static": "", "floor_ms": "", "images_per_s": "226"}
    path = Path(table(tmp_path / "t.csv", *rows(**own), *rows(**own, mode="training step")))
    assert [each.name for each in plot.draw(path, tmp_path)] == ["t_fp32_images_per_s.png"]


def test_a_problem_is_named_by_what_it_computes() -> None:
    kernel = {"in_channels": "192", "out_channels": "192", "size": "28", "kernel": "3", "stride": "1", "groups": "192"}
    assert plot_frame.problem_of(ROW | kernel) == ["192 @28", "3x3 depthwise"]
    others = {"out_channels": "96", "stride": "2", "groups": "4"}
    assert plot_frame.problem_of(ROW | kernel | others) == ["192→96 @28", "3x3 s2 g4"]
    norms = {"op": "feature_gradient_norms", "shape": "38 x 256-1024, 3 layers"}
    assert plot_frame.problem_of(ROW | norms) == ["38 x 256-1024", "3 layers"]


def test_words_on_the_roofline_keep_apart_around_their_middle() -> None:
    assert spread([0.0, 1.0, 1.0, 5.0], 0.5) == [0.0, 0.75, 1.25, 5.0]
    # The middle pair pushes into the first, and the three share their middle.
    assert spread([0.5, 1.0, 1.0], 0.5) == pytest.approx([1 / 3, 5 / 6, 4 / 3])
    assert spread([], 0.5) == []


def test_a_table_without_timed_rows_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([table(tmp_path / "t.csv", *rows(status="skipped"))]) == 2
    assert "has no timed row" in capsys.readouterr().err
    assert plot.main([str(tmp_path / "none.csv")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    there = tmp_path / "there.csv"
    assert plot.main([table(there, *rows()), "--out", str(there)]) == 2
    assert f"--out {there} is a file; expected a folder" in capsys.readouterr().err

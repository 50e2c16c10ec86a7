"""The pictures come from the CSV alone, one set per group of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_rows import ROW, table

from dynconv.bench import plot

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


def test_neighbours_on_the_roofline_share_a_label(tmp_path: Path) -> None:
    near = [*rows(), *rows(shape="r128", gflop="1.2"), *rows(shape="m192", gflop="0.01")]
    assert plot._labels(near, tmp_path) == [(2.5, "m192 x16"), (250.0, "r128 x16\nr64 x16")]


def test_a_table_without_timed_rows_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([table(tmp_path / "t.csv", *rows(status="skipped"))]) == 2
    assert "has no timed row" in capsys.readouterr().err
    assert plot.main([str(tmp_path / "none.csv")]) == 2
    assert "cannot be read" in capsys.readouterr().err

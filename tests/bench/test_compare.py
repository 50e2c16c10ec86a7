"""Comparing tables: what got slower is found, what drifted with the machine is not, foreign files are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_rows import ROW, table

from dynconv.bench import compare


def row(provider: str, ratio: float, **changes: str) -> dict[str, str]:
    return ROW | {"provider": provider, "ratio_to_static": str(ratio)} | changes


def test_what_became_slower_is_printed_with_both_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table(tmp_path / "a.csv", row("a", 1.0), row("b", 1.0), row("c", 2.0), row("d", 1.0), row("gone", 1.0))
    # Everything took twice as long: another machine. Beside the static convolution b became slower and c faster.
    slow = {"p50_ms": "20", "device_name": "there"}
    rows = [row("a", 1.05, **slow), row("b", 1.2, **slow), row("c", 1.0, **slow)]
    after = table(tmp_path / "b.csv", *rows, row("d", 1.0, status="refused"), row("new", 9.0))
    assert compare.main([before, after]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "slower by more than 10 % (ratio_to_static):"
    assert "+20.0 %" in lines[1] and "1 -> 1.2" in lines[1] and lines[1].endswith("r64 batch 16 nchw b")
    assert "-50.0 %" in lines[3] and lines[3].endswith(" c")
    assert lines[4] == "refused now:" and lines[5].endswith(" d")
    assert lines[6].startswith("not in ") and lines[7].endswith(" gone")
    assert lines[8] == "3 rows compared: 1 slower, 1 faster, 1 refused"


def test_nothing_slower_is_0_and_the_threshold_moves_the_line(tmp_path: Path) -> None:
    before, after = table(tmp_path / "a.csv", row("a", 1.0)), table(tmp_path / "b.csv", row("a", 1.2))
    assert compare.main([before, after]) == 1
    assert compare.main([before, after, "--threshold", "25"]) == 0
    assert compare.main([after, before]) == 0
    refused = table(tmp_path / "c.csv", row("a", 1.0, status="refused"))
    assert compare.main([before, refused]) == 1


def test_other_metrics_say_what_they_include(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table(tmp_path / "a.csv", row("a", 1.0))
    after = table(tmp_path / "b.csv", row("a", 1.0, p50_ms="20", peak_extra_mb="8.9", device_name="there"))
    assert compare.main([before, after, "--metric", "p50_ms"]) == 1
    assert "not the same device_name: here and there" in capsys.readouterr().out
    assert compare.main([before, after, "--metric", "peak_extra_mb"]) == 0
    larger = table(tmp_path / "c.csv", row("a", 1.0, peak_extra_mb="12"))
    assert compare.main([before, larger, "--metric", "peak_extra_mb"]) == 1
    assert "larger by more than 10 % (peak_extra_mb)" in capsys.readouterr().out


def test_rows_that_measure_something_else_are_not_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table(tmp_path / "a.csv", row("a", 1.0))
    for change in ({"batch": "32"}, {"layout": "nhwc"}, {"graph": "True"}, {"device": "cuda"}, {"mode": "forward"}):
        assert compare.main([before, table(tmp_path / "b.csv", row("a", 9.0, **change))]) == 2
        assert "no row in common" in capsys.readouterr().err


def test_files_of_another_kind_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = table(tmp_path / "good.csv", row("a", 1.0))
    torn = tmp_path / "torn.csv"
    torn.write_text((tmp_path / "good.csv").read_text() + "dynamic_conv2d,cpu\n")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    for name, reason in (
        (tmp_path / "none.csv", "cannot be read"),
        (tmp_path, "cannot be read"),
        (binary, "cannot be read"),
        (table(tmp_path / "foreign.csv", columns=("shape", "provider")), "lacks the columns op, device"),
        (table(tmp_path / "empty.csv"), "has no rows"),
        (torn, "is damaged"),
        (table(tmp_path / "twice.csv", row("a", 1.0), row("a", 2.0)), "two rows of"),
        (table(tmp_path / "word.csv", row("a", 1.0, ratio_to_static="fast")), "'fast', not a number"),
    ):
        assert compare.main([good, str(name)]) == 2
        message = capsys.readouterr().err
        assert str(name) in message and reason in message and "Traceback" not in message

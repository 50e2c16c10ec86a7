"""The figure of a device that moves, and the commands that load runs of calibrator."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from command_line import fails
from known_calibrators import known_run

from dynconv import cli
from dynconv.engine.stream import Schedule
from dynconv.report.figures.stream import save_stream_figure, stream_table

DARK = [(110, 1), (10, 0)]


def test_every_batch_is_written_and_the_table_has_means_of_each_domain(tmp_path: Path) -> None:
    out = tmp_path / "stream.png"
    found = save_stream_figure([known_run("dark", DARK, 64)], out, Schedule(6, 1, 4, 0))
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert len(rows) == 12 and rows[-1]["batch"] == "6" and out.read_bytes().startswith(b"\x89PNG")
    assert {(row["domain"], row["way"]): row["accuracy"] for row in rows} == {
        ("source", "no calibrator"): "100.000",
        ("source", "one calibrator"): "75.000",
        ("dark", "no calibrator"): "50.000",
        ("dark", "one calibrator"): "100.000",
    }
    table = stream_table(found)
    columns = [str(column.header).split("\n")[0] for column in table.columns]
    cells = dict(zip(columns, (list(column.cells) for column in table.columns), strict=True))
    assert (cells["source"], cells["dark"]) == (["100.0", "75.0"], ["50.0", "100.0"])
    of_source = found.domains.count("source")
    assert cells["all"][0] == f"{(100 * of_source + 50 * (6 - of_source)) / 6:.1f}"


def test_commands_take_trained_runs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = trained / "runs" / "source-only" / "seed0" / "checkpoints" / "last.pt"
    short = ["--max-steps", "1", "--batch-size", "4", "--device", "cpu", "--backbone", "lenet-small"]
    own = ["--width", "1", "--blocks", "1", "--source-checkpoint", str(classifier)]
    for name in ("two", "three"):
        data = ["--source", f"one={trained / 'data' / 'one'}", "--target", f"{name}={trained / 'data' / 'two'}"]
        assert cli.main(["train", "calibrator", *data, *short, *own, "--out", str(tmp_path / name)]) == 0
    out = tmp_path / "x.png"
    few = ["--blocks", "4", "--block-batches", "2", "--batch-size", "3", "--device", "cpu", "--out", str(out)]
    capsys.readouterr()
    assert cli.main(["plot", "stream", str(tmp_path / "two"), str(tmp_path / "three"), *few]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    assert "calibrator of three" in printed and "calibrator of the domain" in printed
    assert out.with_suffix(".csv").read_text().count("\n") == 1 + 8 * 4
    sweep = ["plot", "epsilon", str(tmp_path / "two"), "--sweep", "--device", "cpu", "--out", str(out)]
    assert cli.main(sweep) == 0
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert len(rows) == 22 and rows[-1]["epsilon"] == "0.4"
    other = str(trained / "runs" / "mcd" / "seed0")
    assert "is a run of mcd, which has no calibrator" in fails(capsys, "plot", "stream", other, *few)
    assert "--batch-size must be at least 1" in fails(capsys, "plot", "stream", other, *few, "--batch-size", "0")
    assert "--seed must be 0 or more" in fails(capsys, "plot", "stream", other, *few, "--seed", "-1")

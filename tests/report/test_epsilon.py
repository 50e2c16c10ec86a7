"""Accuracy over the bound of the perturbation, by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import torch
from command_line import fails
from known_calibrators import KnownRun, known_run
from report_runs import config_of, row_of, write_run

from dynconv import cli
from dynconv.engine.loaded_run import calibrating
from dynconv.metrics import NonFiniteError
from dynconv.report.collect import readable_runs
from dynconv.report.figures.calibrated import CalibratedRun
from dynconv.report.figures.epsilon import EpsilonLine, epsilon_lines, sweep


def add(root: Path, epsilon: float, seed: int, source: float, target: float, **options: Any) -> Path:
    """A finished run whose classifier alone has 96 % on the source and 70 + `seed` % on the target."""
    config = config_of("calibrator", seed=seed, options={"epsilon": epsilon, **options})
    path = root / f"{epsilon}-{seed}-{'-'.join(map(str, options.values()))}"
    start = row_of(config, 50, 0.96, 0.70 + 0.01 * seed)
    write_run(path, config, [row_of(config, 0, 0.1, 0.1), start, row_of(config, 100, source, target)])
    return path


def lines(root: Path) -> list[EpsilonLine]:
    return epsilon_lines(readable_runs([root], "RUN"), "last")


def swept(run: KnownRun) -> EpsilonLine:
    return sweep(CalibratedRun(run, calibrating(run)))


def test_runs_that_differ_in_epsilon_and_seed_alone_are_one_line(tmp_path: Path) -> None:
    add(tmp_path, 0.4, 0, 0.94, 0.90)
    add(tmp_path, 0.4, 1, 0.92, 0.80)
    add(tmp_path, 0.05, 0, 0.95, 0.75)
    add(tmp_path, 0.4, 0, 0.93, 0.60, form="nonnegative")
    (tanh, other) = sorted(lines(tmp_path), key=lambda line: -len(line.points))
    assert (tanh.task, tanh.label, other.label) == (
        "mnist-usps",
        "calibrator (form=tanh)",
        "calibrator (form=nonnegative)",
    )
    assert list(tanh.points) == [0.05, 0.4] and list(other.points) == [0.4]
    assert tanh.points[0.4] == {0: pytest.approx((94.0, 90.0)), 1: pytest.approx((92.0, 80.0))}
    assert tanh.points[0.05] == {0: pytest.approx((95.0, 75.0))}
    # Of seed 0 two runs tell the classifier alone, and they agree.
    assert tanh.without == {0: pytest.approx((96.0, 70.0)), 1: pytest.approx((96.0, 71.0))}


def test_the_untrained_network_is_no_classifier_without_calibrator(tmp_path: Path) -> None:
    config = config_of("calibrator")
    write_run(tmp_path / "blind", config, [row_of(config, 0, 0.1, 0.1), row_of(config, 100, 0.9, 0.8)])
    assert lines(tmp_path)[0].without == {}
    options = {"backbone": "dtn"}
    write_run(tmp_path / "alone", alone := config_of("source-only", options=options), [row_of(alone, 100, 0.97, 0.6)])
    assert lines(tmp_path)[0].without == {0: pytest.approx((97.0, 60.0))}


def test_a_sweep_clamps_what_was_trained(tmp_path: Path) -> None:
    # It adds 64 of 255. The image of 110 is right from 17.5 on, that of 80 wrong from 47.5 on: 0.069 and 0.186.
    line = swept(known_run("dark", [(110, 1), (10, 0)], 64))
    assert [round(bound * 255, 1) for bound in line.points] == [
        0,
        6.4,
        12.8,
        19.2,
        25.6,
        32,
        38.4,
        44.8,
        51.2,
        57.6,
        64,
    ]
    sources, targets = zip(*(point[0] for point in line.points.values()), strict=True)
    assert sources == (100.0,) * 8 + (75.0,) * 3 and targets == (50.0,) * 3 + (100.0,) * 8
    assert line.without == {0: (100.0, 50.0)}
    # White cannot be brightened: within the range nothing is left of the perturbation.
    white = swept(known_run("white", [(255, 1)], 64))
    assert {point[0][1] for point in white.points.values()} == {100.0}
    # And of both signs.
    dark = swept(known_run("bright", [(150, 0), (250, 1)], -64))
    assert [point[0][1] for point in dark.points.values()] == [50.0] * 4 + [100.0] * 7


def test_scores_that_are_no_numbers_are_no_accuracy() -> None:
    run = known_run("dark", [(110, 1), (10, 0)], 64)
    run.method.heads[0].threshold.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="scores: 8 of 8 are not finite"):
        swept(run)


def test_sources_without_test_images_are_measured_on_those_held_out() -> None:
    run = known_run("dark", [(110, 1), (10, 0)], 64)
    (source,) = run.own.sources
    untested = replace(run.own, sources=(replace(source, test=None),))
    assert swept(replace(run, own=untested)).points == swept(run).points


def test_seeds_whose_starts_are_gone_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = [f"gone/seed{seed}/checkpoints/last.pt" for seed in (0, 1)]
    runs = [str(add(tmp_path, 0.4, seed, 0.9, 0.8, source_checkpoint=path)) for seed, path in enumerate(gone)]
    assert cli.main(["plot", "epsilon", *runs, "--out", str(tmp_path / "x.svg")]) == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be read" in line]
    assert told.startswith("dynconv: ") and all(path in told for path in gone)


def test_plot_draws_a_line_and_writes_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    for seed, target in ((0, 0.90), (1, 0.80)):
        add(root, 0.4, seed, 0.94, target)
        add(root, 0.01, seed, 0.96, 0.72)
    out = tmp_path / "figures" / "epsilon.svg"
    assert cli.main(["plot", "epsilon", str(root), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    assert "85.0 ± 7.1" in printed and "<svg" in out.read_text()
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [(row["epsilon"], row["domain"], row["mean"]) for row in rows] == [
        ("0", "source", "96.000"),
        ("0", "target", "70.500"),
        ("0.01", "source", "96.000"),
        ("0.01", "target", "72.000"),
        ("0.4", "source", "94.000"),
        ("0.4", "target", "85.000"),
    ]
    assert list(rows[-1].values())[5:] == [f"{stdev([90, 80]):.3f}", "2", "0 1"]


def test_what_cannot_be_drawn_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.png")
    config = config_of("mcd")
    write_run(tmp_path / "mcd", config, [row_of(config, 100, 0.9, 0.8)])
    assert "is a run of mcd, which has no epsilon" in fails(
        capsys, "plot", "epsilon", str(tmp_path / "mcd"), "--out", out
    )
    alone = config_of("source-only")
    write_run(tmp_path / "alone", alone, [row_of(alone, 100, 0.9, 0.8)])
    assert "source-only alone" in fails(capsys, "plot", "epsilon", str(tmp_path / "alone"), "--out", out)
    run = str(add(tmp_path, 0.4, 0, 0.9, 0.8))
    assert "--sweep is for a single RUN, got 2" in fails(capsys, "plot", "epsilon", run, run, "--sweep", "--out", out)
    assert "are for --sweep" in fails(capsys, "plot", "epsilon", run, "--device", "cpu", "--out", out)
    folder = config_of("calibrator", options={"epsilon": 0.4})
    write_run(tmp_path / "same", folder, [row_of(folder, 100, 0.9, 0.8)])
    assert "configuration and seed of another" in fails(
        capsys, "plot", "epsilon", run, str(tmp_path / "same"), "--out", out
    )

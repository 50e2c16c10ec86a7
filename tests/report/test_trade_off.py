"""The trade-off between source and target, by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import torch
from command_line import fails
from matplotlib.figure import Figure
from report_runs import config_of, row_of, write_run

from dynconv import cli
from dynconv.engine.checkpoint import load_checkpoint, save_checkpoint
from dynconv.plots.trade_off import Change, trade_off_figure
from dynconv.report.before import before
from dynconv.report.collect import FoundRun, readable_runs
from dynconv.report.figures.trade_off import TradeOff, measure_as_target, trade_off_table, trade_offs


def add(root: Path, method: str, *points: tuple[int, float, float], name: str = "", **more: Any) -> Path:
    """A finished run with (step, source, target) as its evaluations; of one batch size, which tells kinds apart."""
    config = config_of(method, **{"batch_size": 64, **more})
    path = root / (name or f"{method}-{more.get('seed', 0)}-{more.get('protocol', 'mnist-usps')}")
    write_run(path, config, [row_of(config, *point) for point in points])
    return path


def found(root: Path, measure: Any = None) -> dict[tuple[str, str], TradeOff]:
    return {(each.task, each.label): each for each in trade_offs(readable_runs([root], "RUN"), "last", measure)}


def start(path: Path, root: Path) -> tuple[str, int, str] | None:
    runs = readable_runs([root], "RUN")
    own = before(next(run for run in runs if run.folder.path == path.resolve()), runs, "last")
    return None if own is None else (own.what, own.row["step"], own.run)


def test_before_is_the_classifier_that_the_adaptation_begins_with(tmp_path: Path) -> None:
    add(tmp_path, "source-only", (0, 0.1, 0.1), (100, 0.97, 0.6))
    rows = ((0, 0.1, 0.1), (25, 0.8, 0.4), (50, 0.95, 0.7), (75, 0.9, 0.8), (100, 0.9, 0.85))
    # Half of its 100 steps learn the source, so the evaluation after the 50th is of the classifier alone.
    assert start(add(tmp_path, "calibrator", *rows), tmp_path) == ("own classifier", 50, "calibrator-0-mnist-usps")
    (own,) = (each for (_, label), each in found(tmp_path).items() if label.startswith("calibrator"))
    assert (own.starts, own.steps) == (("own classifier",), {0: 50})
    third = add(tmp_path, "adda", *rows, options={"pretrain": 0.3})
    assert start(third, tmp_path) == ("own classifier", 25, "adda-0-mnist-usps")
    # It learnt the source for five steps more.
    (adda,) = (each for (_, label), each in found(tmp_path).items() if label.startswith("adda"))
    assert (adda.starts, adda.steps) == (("own classifier at step 25 of 30",), {0: 25})
    assert "before: own classifier at step 25 of 30" in str(trade_off_table([adda]).caption)
    # Trained by the first step: its step 0 is no untrained network.
    given = {"source_checkpoint": "elsewhere/checkpoints/last.pt"}
    loaded = add(tmp_path, "calibrator", (0, 0.95, 0.7), (100, 0.94, 0.9), name="loaded", options=given)
    assert start(loaded, tmp_path) == ("own classifier", 0, "loaded")
    # Nothing was measured between the first step and the adaptation's.
    blind = add(tmp_path, "adda", (0, 0.1, 0.1), (100, 0.9, 0.8), name="blind", seed=5)
    assert start(blind, tmp_path) == ("step 0", 0, "blind")
    # Methods that never have a classifier of the source are compared with a run that has.
    mcd = add(tmp_path, "mcd", (0, 0.1, 0.1), (100, 0.9, 0.8), options={"backbone": "lenet-small"})
    assert start(mcd, tmp_path) == ("source-only", 100, "source-only-0-mnist-usps")


def test_runs_that_start_from_runs_of_one_kind_are_seeds_of_one_kind(tmp_path: Path) -> None:
    for seed in (0, 1):
        source = add(tmp_path, "source-only", (100, 0.97, 0.6), seed=seed)
        given = {"source_checkpoint": str(source / "checkpoints" / "last.pt")}
        add(tmp_path, "calibrator", (0, 0.97, 0.6), (100, 0.96, 0.9), seed=seed, options=given)
    other = add(tmp_path, "source-only", (100, 0.97, 0.6), name="longer", max_steps=200)
    given = {"source_checkpoint": str(other / "checkpoints" / "last.pt")}
    add(tmp_path, "calibrator", (0, 0.97, 0.6), (100, 0.96, 0.9), name="other", options=given)
    seeds = [list(each.after) for (_, label), each in found(tmp_path).items() if label.startswith("calibrator")]
    assert sorted(seeds) == [[0], [0, 1]]


def test_means_are_over_seeds_and_the_change_leads_from_mean_to_mean(tmp_path: Path) -> None:
    for seed in (0, 1):
        add(tmp_path, "mcd", (0, 0.1, 0.1), (100, 0.90 + 0.02 * seed, 0.8), seed=seed)
        add(tmp_path, "source-only", (100, 0.95 + 0.04 * seed, 0.5), seed=seed)
    add(tmp_path, "mcd", (0, 0.1, 0.2), (100, 0.7, 0.6), protocol="usps-mnist")
    kinds = found(tmp_path)
    assert list(kinds) == [("mnist-usps", "source-only"), ("mnist-usps", "mcd"), ("usps-mnist", "mcd")]
    change = kinds["mnist-usps", "mcd"].change()
    assert change.after == pytest.approx((91.0, 80.0)) and change.before == pytest.approx((97.0, 50.0))
    assert change.seeds == (pytest.approx((90.0, 80.0)), pytest.approx((92.0, 80.0))) and not change.untrained
    # Training on the source adapts nothing; without such a run the start is the untrained network.
    assert kinds["mnist-usps", "source-only"].change().before is None
    untrained = kinds["usps-mnist", "mcd"].change()
    assert untrained.untrained and untrained.before == pytest.approx((10.0, 20.0))


def test_the_source_is_judged_by_the_network_that_the_target_has(tmp_path: Path) -> None:
    rows = ((0, 0.1, 0.1), (50, 0.95, 0.5), (100, 0.95, 0.8))
    add(tmp_path, "adda", *rows)
    add(tmp_path, "adda", *rows, name="shared", options={"weight_sharing": "shared"})
    add(tmp_path, "dann", *rows, options={"normalisation_policy": "domain-specific"})
    add(tmp_path, "mcd", *rows)
    asked = []

    def measure(run: FoundRun) -> float:
        asked.append(run.name)
        return 60.0

    kinds = found(tmp_path, measure)
    assert sorted(asked) == ["adda-0-mnist-usps", "dann-0-mnist-usps"]
    after = {label: (each.after[0][0], each.anew) for (_, label), each in kinds.items()}
    assert after["adda (weight_sharing=unshared)"] == after["dann"] == (60.0, True)
    assert after["adda (weight_sharing=shared)"] == after["mcd"] == (pytest.approx(95.0), False)
    own = found(tmp_path)["mnist-usps", "adda (weight_sharing=unshared)"]
    assert own.after[0][0] == pytest.approx(95.0) and not own.anew, "from the rows where nothing is to be measured"


def test_measuring_takes_the_targets_encoder(trained: Path, tmp_path: Path) -> None:
    data = ["--source", f"one={trained / 'data' / 'one'}", "--target", f"two={trained / 'data' / 'two'}"]
    run = tmp_path / "adda"
    words = ["--max-steps", "2", "--batch-size", "8", "--device", "cpu", "--out", str(run)]
    assert cli.main(["train", "adda", *data, *words]) == 0
    last = run / "checkpoints" / "last.pt"
    state = load_checkpoint(last, torch.device("cpu"))
    for name, value in state["method"].items():
        if name.startswith("features.target."):
            value.zero_()
    save_checkpoint(last, state)
    (own,) = readable_runs([run], "RUN")
    assert own.config.options.has_source_network
    # An encoder that sees nothing gives one of three classes to all, and each has as many images.
    assert measure_as_target(own, "last", device="cpu", data_root=None) == pytest.approx(100 / 3)


def test_plot_draws_means_and_seeds_and_writes_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    for seed, target in ((0, 0.8), (1, 0.9)):
        add(root, "calibrator", (0, 0.1, 0.1), (50, 0.95, 0.7), (100, 0.94, target), seed=seed)
    add(root, "source-only", (0, 0.1, 0.1), (100, 0.97, 0.6), options={"backbone": "dtn"})
    out = tmp_path / "figures" / "fig2.svg"
    assert cli.main(["plot", "trade-off", str(root), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    assert "85.0 ± 7.1" in printed and "<svg" in out.read_text()
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    lines = {(row["run"], row["domain"], row["when"]): row for row in rows}
    assert len(lines) == len(rows) == 2 + 4, "source-only has no before"
    row = lines["calibrator", "target", "after"]
    assert list(row.values())[4:] == ["85.000", f"{stdev([80, 90]):.3f}", "2", "0 1", "own", "", ""]
    row = lines["calibrator", "source", "before"]
    assert (row["mean"], row["std"], row["start"], row["step"]) == ("95.000", "0.000", "own classifier", "50 50")
    assert lines["source-only", "target", "after"]["std"] == ""


def test_seeds_are_small_points_of_their_mean() -> None:
    change = Change("mcd", "a-b", (90.0, 70.0), (95.0, 50.0), seeds=((88.0, 60.0), (92.0, 80.0)))
    figure = trade_off_figure([change])
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    placed = {round(float(part.get_sizes()[0])): part.get_offsets().tolist() for part in axis.collections}
    assert placed == {9: [[95.0, 50.0]], 10: [[88.0, 60.0], [92.0, 80.0]], 44: [[90.0, 70.0]]}
    assert axis.get_ylim()[1] > 80, "the seeds have room"


def test_what_cannot_be_drawn_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.png")
    first = add(tmp_path, "mcd", (100, 0.9, 0.8))
    again = add(tmp_path, "mcd", (100, 0.9, 0.8), name="again")
    assert "same configuration and seed" in fails(capsys, "plot", "trade-off", str(first), str(again), "--out", out)
    config = config_of("mcd", seed=3)
    write_run(tmp_path / "half", config, [row_of(config, 50, 0.9, 0.8)], finish=False)
    assert "unfinished at step 50" in fails(capsys, "plot", "trade-off", str(tmp_path / "half"), "--out", out)
    bare = {"step": 100, "epoch": 1.0, "seconds": 1.0, "config_hash": config.hash, "source-test/a/accuracy": 0.5}
    write_run(tmp_path / "bare", config, [bare])
    assert "lack the accuracy" in fails(capsys, "plot", "trade-off", str(tmp_path / "bare"), "--out", out)
    assert "--out" in fails(capsys, "plot", "trade-off", str(first))
    assert "at least one run folder" in fails(capsys, "plot", "trade-off", "--out", out)

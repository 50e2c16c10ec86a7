"""Target figures over the steps, several runs in one picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from command_line import fails
from matplotlib.figure import Figure
from report_runs import config_of, row_of, write_run
from rich.console import Console

from dynconv import cli
from dynconv.engine.run_folder import RunFolder
from dynconv.methods.gam import GAM, GAMConfig
from dynconv.plots.curves import BEGINS
from dynconv.report.collect import readable_runs
from dynconv.report.figures.curves import Trajectory, curves_table, mean_points, save_curves_figure, trajectories

Capture = pytest.CaptureFixture[str]


def add(
    path: Path,
    targets: Mapping[int, float],
    *,
    method: str = "adda",
    seed: int = 0,
    logged: Mapping[int, float] | None = None,
    finish: bool = True,
    **options: Any,
) -> Path:
    """A run of 100 steps whose target test accuracies are `targets` by step, with 99 % of the source's; the images per
    class are as in no set, so that their mean is 10 points below. It adapts from its second step, where `options` tell
    no other."""
    if method in ("adda", "gam") and not options.keys() & {"pretrain", "source_checkpoint"}:
        options["pretrain"] = 0.01
    config = config_of(method, seed=seed, options=options)
    rows = [row_of(config, step, 0.99, value) for step, value in targets.items()]
    for row in rows:
        row["target-test/b/class-mean-accuracy"] = row["target-test/b/accuracy"] - 0.1
    folder = write_run(path, config, rows, finish=finish)
    for step, value in (logged or {}).items():
        folder.append_training({"step": step, "epoch": 1.0, "seconds": 1.0, "mapping_loss": 0.7, "weight_drift": value})
    return path


def printed(*shown: Trajectory) -> str:
    text = io.StringIO()
    Console(width=100, file=text).print(curves_table(shown))
    return text.getvalue()


def found(root: Path, metric: str | None = None) -> list[Trajectory]:
    return trajectories(readable_runs([root], "RUN"), metric)


def test_seeds_are_one_curve_and_what_is_lost_is_told(tmp_path: Path) -> None:
    add(tmp_path / "a", {0: 0.7, 50: 0.9, 75: 0.9, 100: 0.6}, logged={50: 2.0, 100: 3.0}, drift_weight=0.5)
    add(tmp_path / "b", {0: 0.72, 50: 0.8, 100: 0.84}, seed=1, drift_weight=0.5)
    add(tmp_path / "c", {50: 0.5, 100: 0.4})
    (kept, free) = sorted(found(tmp_path), key=lambda each: -len(each.points))
    assert (kept.label, free.label, kept.task) == ("adda (drift_weight=0.5)", "adda (drift_weight=0)", "mnist-usps")
    assert kept.points[0] == tuple(
        (step, pytest.approx(value)) for step, value in ((0, 70), (50, 90), (75, 90), (100, 60))
    )
    assert kept.drift == {0: ((50, 2.0), (100, 3.0))} and free.drift == {}
    # Of equals the earliest, as the rule "oracle" has it.
    assert kept.best() == {0: (50, pytest.approx(90)), 1: (100, pytest.approx(84))}
    last, drop = kept.last(), kept.drop()
    assert last is not None and last.values == {0: pytest.approx(60), 1: pytest.approx(84)}
    assert drop is not None and drop.values == {0: pytest.approx(30), 1: pytest.approx(0)}
    start = kept.start()
    assert start is not None and start.mean == pytest.approx(71) and free.start() is None


def test_the_oracle_is_that_of_the_runs_own_selection(tmp_path: Path) -> None:
    add(tmp_path / "a", {0: 0.95, 50: 0.9, 75: 0.9, 100: 0.6})
    (run,) = readable_runs([tmp_path], "RUN")
    chosen = run.chosen("oracle")
    assert chosen is not None
    assert found(tmp_path)[0].best() == {0: (chosen["step"], pytest.approx(100 * chosen["target-test/b/accuracy"]))}


def test_a_mean_is_of_the_steps_that_all_seeds_have() -> None:
    assert mean_points([((0, 1.0), (50, 3.0), (100, 5.0)), ((50, 5.0), (75, 9.0), (100, 7.0))]) == (
        (50, 4.0),
        (100, 6.0),
    )
    assert mean_points([((1, 2.0),), ((3, 4.0),)]) == () == mean_points([])


def test_what_is_before_the_adaptation_is_no_collapse(tmp_path: Path) -> None:
    add(tmp_path / "a", {0: 0.1, 25: 0.95, 50: 0.8, 75: 0.7, 100: 0.6}, pretrain=0.5)
    (run,) = found(tmp_path)
    start, drop = run.start(), run.drop()
    assert start is not None and start.values == {0: pytest.approx(80)}
    assert run.best() == {0: (75, pytest.approx(70))} and drop is not None and drop.mean == pytest.approx(10)
    # Before its end there is neither.
    add(tmp_path / "early" / "a", {0: 0.1, 25: 0.95}, pretrain=0.5, finish=False)
    (early,) = found(tmp_path / "early")
    assert (early.last(), early.oracle(), early.drop(), early.best()) == (None, None, None, {})
    assert "95.0" in printed(early)


def test_seeds_are_told_of_at_the_last_step_that_all_have(tmp_path: Path) -> None:
    add(tmp_path / "a", {0: 0.5, 50: 0.6, 75: 0.5}, finish=False)
    add(tmp_path / "b", {0: 0.5, 50: 0.8, 75: 0.7, 100: 0.9}, seed=1)
    (run,) = found(tmp_path)
    last, drop = run.last(), run.drop()
    assert last is not None and last.values == {0: pytest.approx(50), 1: pytest.approx(70)}
    assert drop is not None and drop.values == {0: pytest.approx(10), 1: pytest.approx(10)}


def test_an_unfinished_run_of_epochs_begins_where_it_will(tmp_path: Path) -> None:
    config = config_of("adda", options={"pretrain": 0.5}, max_steps=None, epochs=10)
    # Of 30 steps an epoch.
    rows = [row_of(config, step, 0.9, 0.9) | {"epoch": round(step / 30, 4)} for step in (50, 100)]
    write_run(tmp_path / "a", config, rows, finish=False)
    assert [run.begins for run in found(tmp_path)] == [150]


def test_discriminators_join_in_where_the_method_lets_them(tmp_path: Path) -> None:
    options = {"backbone": "lenet-gam", "taps": ("1", "linear.2", "scores"), "pretrain": 0.3, "discriminator_steps": 0}
    add(tmp_path / "a", {100: 0.5}, method="gam", **options)
    add(tmp_path / "b", {100: 0.5}, method="gam", order="jointly", **options)
    by_label = {run.label: run for run in found(tmp_path)}
    assert {label: len(run.joining) for label, run in by_label.items()} == {
        "gam (order=one-by-one)": 2,
        "gam (order=jointly)": 0,
    }
    method = GAM(GAMConfig(**options), 10)
    playing = []
    for step in range(100):
        method.begin_step(step, 100)
        playing.append(method.playing if method.adapting else 0)
    joined = [step for step in range(1, 100) if playing[step] > playing[step - 1] > 0]
    assert by_label["gam (order=one-by-one)"].joining == tuple(joined)


def test_forms_of_the_drift_have_a_panel_and_a_name_each_and_gaps_where_none_is_logged(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    root = tmp_path / "runs"
    run = add(root / "sum", {100: 0.9}, logged={50: 80.0}, drift_weight=0.5)
    for more in ({}, {"weight_drift": 70.0}):
        RunFolder(run).append_training({"step": 75 + len(more), "epoch": 1.0, "seconds": 1.0, **more})
    add(root / "mean", {100: 0.9}, logged={50: 0.2}, drift_weight=0.5, drift="mean")
    write_run(root / "once", once := config_of("gaussian", max_steps=1), [row_of(once, 1, 0.9, 0.8)])
    told: list[str] = []
    save_curves_figure([root], tmp_path / "x.png", None, line=told.append)
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    points = [(row["metric"], row["step"], row["value"]) for row in rows if row["metric"] != "accuracy"]
    assert sorted(points) == [
        ("weight_drift", "50", "80"),
        ("weight_drift", "76", "70"),
        ("weight_drift/mean", "50", "0.2"),
    ]
    upper, sums, means = drawn[0].axes
    assert (sums.get_ylabel(), means.get_ylabel()) == ("||θs − θt||²", "mean of (θs − θt)², summed over tensors")
    (parted,) = [line for line in sums.get_lines() if line.get_label() != BEGINS]
    assert [isnan(value) for value in list(parted.get_ydata())] == [False, True, False]
    # One step is a level.
    assert any(list(line.get_xdata()) == [0, 1] for line in upper.get_lines())
    assert told == ["these logged no drift of the weights and are not in its panel: once"]


def test_an_adaptation_begins_where_the_source_is_learnt(tmp_path: Path) -> None:
    add(tmp_path / "a", {100: 0.5}, pretrain=0.25)
    add(tmp_path / "b", {100: 0.5}, method="mcd")
    add(tmp_path / "c", {100: 0.5}, source_checkpoint=str(tmp_path / "gone" / "checkpoints" / "last.pt"))
    begins = {run.label.split()[0] + str(run.begins) for run in found(tmp_path)}
    assert begins == {"adda25", "mcd0", "adda0"}


def test_the_command_draws_prints_and_writes_every_point(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "runs"
    add(root / "a", {50: 0.9, 100: 0.6}, logged={100: 3.5}, drift_weight=0.5)
    add(root / "b", {50: 0.5}, finish=False)
    out = tmp_path / "made" / "curves.svg"
    assert cli.main(["plot", "curves", str(root), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    assert "(oracle)" in captured.out
    # The start was not measured.
    assert "not yet matched" in " ".join(captured.out.split())
    (line,) = [line.split() for line in captured.out.splitlines() if "60.0" in line]
    assert line == ["adda", "(drift_weight=0.5)", "1", "60.0", "90.0", "50", "30.0"]
    assert captured.err.splitlines() == [
        f"dynconv: {root / 'b'} is not finished: its curve ends at step 50",
        "dynconv: these logged no drift of the weights and are not in its panel: b",
    ]
    assert "<svg" in out.read_text()
    rows = [list(row.values())[2:] for row in csv.DictReader(out.with_suffix(".csv").open())]
    assert rows == [
        ["0", "accuracy", "50", "90"],
        ["0", "accuracy", "100", "60"],
        ["0", "weight_drift", "100", "3.5"],
        ["0", "accuracy", "50", "50"],
    ]


def test_another_measure_is_drawn_by_its_name(tmp_path: Path, capsys: Capture) -> None:
    run = add(tmp_path / "a", {50: 0.9, 100: 0.6})
    out = tmp_path / "x.png"
    assert cli.main(["plot", "curves", str(run), "--metric", "class-mean-accuracy", "--out", str(out)]) == 0
    assert "Target test class mean accuracy over the steps" in capsys.readouterr().out
    assert [row["value"] for row in csv.DictReader(out.with_suffix(".csv").open())] == ["80", "50"]
    message = fails(capsys, "plot", "curves", str(run), "--metric", "mean-iou", "--out", str(out))
    assert "--metric mean-iou" in message and "it has accuracy, class-mean-accuracy" in message


def test_what_cannot_be_drawn_is_refused_in_words(tmp_path: Path, capsys: Capture) -> None:
    out = ["--out", str(tmp_path / "x.png")]
    early = add(tmp_path / "early", {0: 0.1}, finish=False)
    assert "has no evaluation after step 0 yet" in fails(capsys, "plot", "curves", str(early), *out)
    one, two = add(tmp_path / "one", {100: 0.1}), add(tmp_path / "two", {100: 0.2})
    message = fails(capsys, "plot", "curves", str(one), str(two), *out)
    assert f"{two} is of the configuration and seed of {one}; give one of them" in message
    assert "expected at least one run folder" in fails(capsys, "plot", "curves", *out)
    assert "--out" in fails(capsys, "plot", "curves", str(one))
    assert not list(tmp_path.glob("x.*"))

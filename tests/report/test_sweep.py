"""Target figures over a field of the method."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from command_line import fails
from matplotlib.figure import Figure
from report_runs import config_of, row_of, write_run

from dynconv import cli
from dynconv.report.collect import readable_runs
from dynconv.report.figures.sweep import Sweep, save_sweep_figure, sweep_over
from dynconv.report.groups import kinds_of

Capture = pytest.CaptureFixture[str]


def add(
    root: Path, target: float, *, method: str = "gam", seed: int = 0, task: str = "mnist-usps", **options: Any
) -> Path:
    """A finished run whose last target test accuracy is `target`, and that of its best evaluation more."""
    config = config_of(method, seed=seed, options=options, protocol=task)
    path = root / f"{task}-{method}-{seed}-{'-'.join(map(str, options.values()))}".replace(" ", "").replace("/", "_")
    write_run(path, config, [row_of(config, 50, 0.9, 0.99), row_of(config, 100, 0.95, target)])
    return path


def found(root: Path, field: str) -> Sweep:
    return sweep_over(readable_runs([root], "RUN"), field, "last")


def test_runs_that_differ_in_the_field_and_seed_alone_are_a_line(tmp_path: Path) -> None:
    add(tmp_path, 0.80, adversarial_weight=0.1)
    add(tmp_path, 0.90, adversarial_weight=0.1, seed=1)
    # As None has it.
    add(tmp_path, 0.85, adversarial_weight=0.1, seed=2, drift_weight=0.5)
    # Not set, which is 1 for labels of images.
    add(tmp_path, 0.95)
    add(tmp_path, 0.40, task="usps-mnist", adversarial_weight=0.1)
    add(tmp_path, 0.60, drift_weight=0.0, adversarial_weight=0.1)
    add(tmp_path, 0.70, method="source-only")
    swept = found(tmp_path, "adversarial-weight")
    assert (swept.field, swept.values, swept.metrics) == ("adversarial_weight", (0.1, 1.0), "accuracy")
    lines = {(line.task, line.label): line.points for line in swept.lines}
    assert lines == {
        ("mnist-usps", "gam (drift_weight=0.5)"): {
            0.1: {0: pytest.approx(80), 1: pytest.approx(90), 2: pytest.approx(85)},
            1.0: {0: pytest.approx(95)},
        },
        ("mnist-usps", "gam (drift_weight=0)"): {0.1: {0: pytest.approx(60)}},
        ("usps-mnist", "gam (drift_weight=0.5)"): {0.1: {0: pytest.approx(40)}},
    }
    (level,) = swept.levels
    assert (level.task, level.label, level.values) == ("mnist-usps", "source-only", {0: pytest.approx(70)})


def test_places_of_discriminators_stand_by_number_then_by_how_many(tmp_path: Path) -> None:
    for taps in (("scores",), (), ("1", "linear.2"), ("2",), ("convolutions.2",), ("linear.2",)):
        add(tmp_path, 0.5, backbone="lenet-gam", taps=taps)
    # The numbers and the default by the layers that they are of; the balance that goes with the default as well.
    expected = (
        "convolutions.2", "convolutions.5", "linear.2", "scores", "convolutions.2+linear.2", "linear.2+scores"
    )  # fmt: skip
    assert found(tmp_path, "taps").values == expected
    # They are one line.
    (line,) = found(tmp_path, "--taps").lines
    assert tuple(line.points) == expected
    add(tmp_path / "same", 0.5, backbone="lenet-gam", taps=("3", "scores"), scales=(0.1, 1.0))
    runs = readable_runs([tmp_path], "RUN")
    same = [kind for name, kind in kinds_of(runs).items() if "same" in name or name.endswith("lenet-gam-()")]
    assert len(same) == 2 and same[0] == same[1] and "taps=linear.2+scores" in same[0].label


def test_a_single_value_is_a_level_and_kinds_of_one_task_have_colours_of_their_own(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    for weight, drift in ((0.5, 0.0), (1.0, 0.0), (0.5, 0.5)):
        add(tmp_path, 0.5 + drift / 5, adversarial_weight=weight, drift_weight=drift)
    add(tmp_path, 0.7, method="source-only")
    save_sweep_figure([tmp_path], tmp_path / "x.png", "adversarial_weight", "last", line=print)
    (figure,) = drawn
    (axis,) = figure.axes
    assert len(axis.containers) == 1
    (level, bound) = sorted(
        (line for line in axis.get_lines() if list(line.get_xdata()) == [0, 1]),
        key=lambda line: list(line.get_ydata())[0],
    )
    assert list(level.get_ydata()) == [pytest.approx(60)] * 2 and list(bound.get_ydata()) == [pytest.approx(70)] * 2
    assert "gam (drift_weight=0.5) with adversarial_weight 0.5: 60.0" in str(level.get_label())
    colours = {axis.containers[0].lines[0].get_color(), level.get_color(), bound.get_color()}
    assert len(colours) == 3


def test_choices_stand_in_the_order_of_their_type_and_a_default_counts_as_what_it_means(tmp_path: Path) -> None:
    for mapping in ("confusion", "minimax", "inverted"):
        add(tmp_path, 0.5, mapping=mapping)
    assert found(tmp_path, "mapping").values == ("inverted", "minimax", "confusion")
    for order in ("jointly", "one-by-one"):
        add(tmp_path / "orders", 0.5, order=order)
    assert found(tmp_path / "orders", "order").values == ("jointly", "one-by-one")
    add(tmp_path / "starts", 0.5, gaussian_start=False)
    add(tmp_path / "starts", 0.5)
    assert found(tmp_path / "starts", "gaussian_start").values == ("false", "true")


def test_the_command_draws_prints_and_writes_every_figure(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "runs"
    add(root, 0.80, drift_weight=0.0)
    add(root, 0.90, drift_weight=0.0, seed=1)
    add(root, 0.95)
    add(root, 0.70, method="source-only")
    out = tmp_path / "sweep.svg"
    assert cli.main(["plot", "sweep", str(root), "--field", "drift_weight", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    assert "85.0 ± 7.1" in printed and "<svg" in out.read_text()
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [(row["run"], row["drift_weight"], row["mean"]) for row in rows] == [
        ("gam", "0", "85.000"),
        ("gam", "0.5", "95.000"),
        ("source-only", "", "70.000"),
    ]
    assert (rows[0]["std"], rows[0]["n"], rows[0]["seeds"]) == (f"{stdev([80, 90]):.3f}", "2", "0 1")


def test_what_cannot_be_swept_is_refused_in_words(tmp_path: Path, capsys: Capture) -> None:
    words = ["--field", "adversarial_weight", "--out", str(tmp_path / "x.png")]
    one = str(add(tmp_path, 0.8, adversarial_weight=0.1))
    message = fails(capsys, "plot", "sweep", one, "--field", "lambda", *words[2:])
    assert "no run's method has such a field; gam has backbone, " in message and "adversarial_weight" in message
    message = fails(capsys, "plot", "sweep", one, str(add(tmp_path, 0.9, seed=1, adversarial_weight=0.1)), *words)
    assert "all runs that have it have 0.1; give runs that differ in it" in message
    apart = str(add(tmp_path, 0.9, adversarial_weight=1.0, drift_weight=0.0))
    message = fails(capsys, "plot", "sweep", one, apart, *words)
    assert "no two runs differ in it and in the seed alone" in message
    assert "0.1 of gam (drift_weight=0.5) on mnist-usps; 1 of gam (drift_weight=0) on mnist-usps" in message
    # Not set and set to the same.
    both = str(add(tmp_path / "set", 0.7, adversarial_weight=1.0)), str(add(tmp_path / "unset", 0.7))
    assert "is of the configuration and seed of" in fails(capsys, "plot", "sweep", one, *both, *words)
    config = config_of("gam", options={"adversarial_weight": 0.3})
    write_run(tmp_path / "half", config, [row_of(config, 50, 0.9, 0.9)], finish=False)
    message = fails(capsys, "plot", "sweep", one, str(tmp_path / "half"), *words)
    assert "half has no evaluation that counts (last): " in message and "it is unfinished at step 50" in message
    assert not list(tmp_path.glob("x.*"))

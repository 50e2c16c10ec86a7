"""What adaptation costs on the sources, by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from command_line import fails
from report_runs import config_of, write_run

from dynconv import cli
from dynconv.report.collect import FoundRun, find_runs
from dynconv.report.figures.degradation import Degradation, degradations, training_warning

TASK = "mnist+usps-mnist_m"


def add(
    path: Path,
    method: str,
    scores: dict[str, float],
    *,
    options: dict[str, Any] | None = None,
    finish: bool = True,
    **run: Any,
) -> Path:
    """A run folder whose last row has these accuracies on its sources' test images, its earlier one none of them."""
    config = config_of(method, options=options, **run)
    rows = [
        {"step": step, "epoch": 1.0, "seconds": 1.0, "config_hash": config.hash}
        | {f"source-val/{name}/accuracy": 0.5 for name in scores}
        | {f"source-test/{name}/accuracy": value if step == 100 else 0.01 for name, value in scores.items()}
        | {"target-test/mnist_m/accuracy": 0.9 - step / 1000}
        for step in (50, 100)
    ]
    write_run(path, config, rows, finish=finish)
    return path


@pytest.fixture
def oracles(tmp_path: Path) -> Path:
    root = tmp_path / "oracles"
    add(root / "mnist-0", "source-only", {"mnist": 0.98}, protocol="mnist-usps", seed=0)
    add(root / "mnist-1", "source-only", {"mnist": 1.00}, protocol="mnist-usps", seed=1)
    add(root / "usps", "source-only", {"usps": 0.90}, protocol="usps-mnist")
    return root


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    add(root / "mcd-0", "mcd", {"mnist": 0.95, "usps": 0.88}, protocol=TASK, seed=0)
    add(root / "mcd-1", "mcd", {"mnist": 0.97, "usps": 0.86}, protocol=TASK, seed=1)
    add(root / "drt-0", "drt", {"mnist": 0.985, "usps": 0.93}, protocol=TASK, seed=0)
    return root


def found_in(*paths: Path) -> list[FoundRun]:
    return find_runs(paths)[0]


def compared(runs: Path, oracles: Path) -> dict[str, Degradation]:
    return {kind.label: kind for kind in degradations(found_in(runs), found_in(oracles))}


def test_a_difference_is_the_last_accuracy_less_the_mean_of_the_oracles(runs: Path, oracles: Path) -> None:
    kinds = compared(runs, oracles)
    assert list(kinds) == ["mcd, static", "drt, subspace"]
    static, dynamic = kinds.values()
    assert static.task == TASK and {name: len(each.values) for name, each in static.oracle.items()} == {
        "mnist": 2,
        "usps": 1,
    }
    assert {name: each.mean for name, each in static.oracle.items()} == pytest.approx({"mnist": 99.0, "usps": 90.0})
    # Of USPS there is none of seed 1: nothing is paired, and the errors of both sides count. A sample's deviation is
    # the square root of 2, over that of two seeds 1 on each side.
    assert not static.paired and static.difference("mnist") == pytest.approx((-3.0, 2**0.5))
    assert static.difference("usps").mean == pytest.approx(-3.0)
    assert static.difference("usps").error is None, "nobody knows the error of a single oracle"
    assert static.mean_difference.mean == pytest.approx(-3.0) and static.mean_difference.error is None
    # Of seed 0 there are both.
    assert dynamic.paired and list(dynamic.oracle["mnist"].values) == [0]
    assert dynamic.difference("mnist").mean == pytest.approx(98.5 - 98.0)
    assert dynamic.difference("usps") == (pytest.approx(3.0), None)
    assert dynamic.mean_difference.mean == pytest.approx((0.5 + 3.0) / 2)


def test_runs_are_paired_with_the_oracles_of_their_seed(runs: Path, oracles: Path) -> None:
    add(oracles / "usps-1", "source-only", {"usps": 0.92}, protocol="usps-mnist", seed=1)
    static = compared(runs, oracles)["mcd, static"]
    # 95 - 98 and 97 - 100; 88 - 90 and 86 - 92.
    assert static.paired and static.difference("mnist") == pytest.approx((-3.0, 0.0))
    assert static.difference("usps") == pytest.approx((-4.0, 2.0))
    # By seed -2.5 and -4.5.
    assert static.mean_difference == pytest.approx((-3.5, 1.0))
    add(runs / "mcd-2", "mcd", {"mnist": 0.96, "usps": 0.87}, protocol=TASK, seed=2)
    static = compared(runs, oracles)["mcd, static"]
    # Over the sources 91.5 three times: the runs' error is none, the oracles' is 1 each and half as much in the mean.
    assert not static.paired and static.mean_difference == pytest.approx((91.5 - 95.0, 0.5 * 2**0.5))


def test_another_training_of_the_oracles_is_told(
    runs: Path, oracles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training_warning([compared(runs, oracles)["mcd, static"]]) == ""
    odd = {"optimiser": "adam", "lr": 0.5}
    add(tmp_path / "odd", "mcd", {"usps": 0.9}, protocol="usps-mnist_m", options=odd, batch_size=7)
    words = ["plot", "degradation", str(tmp_path / "odd"), "--oracles", str(oracles / "usps")]
    assert cli.main([*words, "--out", str(tmp_path / "x.png")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "dynconv: runs and oracles were not trained alike: mcd, static has batch_size 7, the oracles"
    )
    assert "lr 0.5, the oracles" in line and "steps" not in line


def test_kinds_of_one_method_are_told_apart_by_their_residual(runs: Path, oracles: Path) -> None:
    add(runs / "drt-both", "drt", {"mnist": 0.9, "usps": 0.9}, protocol=TASK, options={"residual": "combined"})
    assert list(compared(runs, oracles)) == ["mcd, static", "drt (subspace)", "drt (combined)"]


def test_tasks_are_compared_one_by_one(runs: Path, oracles: Path) -> None:
    add(runs / "other", "mcd", {"usps": 0.91}, protocol="usps-mnist_m")
    kinds = degradations(found_in(runs), found_in(oracles))
    assert [(kind.task, kind.label) for kind in kinds] == [
        (TASK, "mcd, static"),
        (TASK, "drt, subspace"),
        ("usps-mnist_m", "mcd, static"),
    ]
    assert list(kinds[-1].accuracy) == ["usps"] and kinds[-1].mean_difference.mean == pytest.approx(1.0)


def test_plot_draws_the_figure_prints_the_table_and_writes_the_numbers(
    runs: Path, oracles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures" / "cost.png"
    words = ["plot", "degradation", str(runs), "--oracles", str(oracles / "mnist-0"), str(oracles / "usps")]
    assert cli.main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    assert "mcd, static" in printed and "96.0 (−2.0)" in printed and "n = 2, not paired" in printed
    assert "98.0 (n = 1)" in printed and "n = 1, paired" in printed
    assert out.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [(row["run"], row["source"]) for row in rows] == [
        ("mcd, static", "mnist"),
        ("mcd, static", "usps"),
        ("drt, subspace", "mnist"),
        ("drt, subspace", "usps"),
    ]
    assert list(rows[0].values())[3:] == [
        *("2", "0 1", "100", "96.000", "1", "0", "100", "98.000", "no", "-2.000", ""),
    ]
    assert rows[3]["n"] == "1" and rows[3]["paired"] == "yes" and rows[3]["standard_error"] == ""
    assert sorted(path.name for path in out.parent.iterdir()) == ["cost.csv", "cost.png"]


def test_what_cannot_be_compared_is_refused_in_words(
    runs: Path, oracles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"

    def told(*oracle: Path, run: Path = runs / "mcd-0") -> str:
        words = ["plot", "degradation", str(run), "--oracles", *map(str, oracle), "--out", str(out)]
        return fails(capsys, *words)

    every = (oracles,)
    assert "none is of usps@full, a source of" in told(oracles / "mnist-0")
    both = add(tmp_path / "both", "source-only", {"mnist": 0.9, "usps": 0.9}, protocol=TASK)
    assert "has 2 sources (mnist, usps)" in told(*every, both)
    assert "is a run of mcd; an oracle is one of source-only" in told(*every, runs / "mcd-1")
    dynamic = {"residual": "subspace"}
    moving = add(tmp_path / "moving", "source-only", {"mnist": 0.9}, protocol="mnist-usps", seed=7, options=dynamic)
    assert "moving is of a dynamic network (residual subspace); an oracle is the static one" in told(*every, moving)
    half = add(tmp_path / "half", "mcd", {"mnist": 0.9, "usps": 0.9}, protocol=TASK, finish=False)
    assert "it is unfinished at step 100 of 100" in told(*every, run=half)
    assert "it is unfinished" in told(half)
    untested = add(tmp_path / "untested", "mcd", {"usps": 0.9}, protocol=TASK)
    assert "of its 2 sources 1 were measured" in told(*every, run=untested)
    deep = add(tmp_path / "deep", "mcd", {"mnist": 0.9, "usps": 0.9}, protocol=TASK, options={"norm": "none"})
    assert "has norm 'batch' and RUN" in told(*every, run=deep)
    few = add(tmp_path / "few", "mcd", {"mnist": 0.9, "usps": 0.9}, protocol=TASK, source_limit=100)
    assert "has source_limit None and RUN" in told(*every, run=few)
    longer = add(tmp_path / "longer", "source-only", {"mnist": 0.9}, protocol="mnist-usps", seed=5, max_steps=200)
    assert "mnist@full are of 2 kinds" in told(*every, longer)
    again = add(tmp_path / "again", "source-only", {"mnist": 0.9}, protocol="mnist-usps", seed=1)
    assert "same configuration and seed" in told(*every, again)
    other = add(tmp_path / "other", "source-only", {"mnist_m": 0.9}, protocol="digit-five:mnist_m-usps")
    one = add(tmp_path / "one", "mcd", {"mnist_m": 0.9}, protocol="mnist_m-usps")
    assert "none is of mnist_m@full" in told(other, run=one), "another set of the same name is no oracle"
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.yaml").write_text("method: alchemy\n")
    assert "unknown method 'alchemy'" in told(*every, tmp_path / "damaged")
    assert "--oracles" in fails(capsys, "plot", "degradation", str(runs), "--out", str(out))
    words = ["plot", "degradation", str(runs), "--oracles", str(oracles), "--out"]
    assert "x.csv: expected a suffix of" in fails(capsys, *words, str(tmp_path / "x.csv"))
    assert not out.exists() and not out.with_suffix(".csv").exists()

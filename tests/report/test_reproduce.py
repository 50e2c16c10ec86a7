"""`dynconv reproduce`: its figures are the runs', its differences are paired, and no foreign run slips in."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from run_folders import finished

from dynconv.recipes import RECIPES
from dynconv.report.reproduce import ReproduceOptions, difference, report, reproduce

TABLE = "gsda-ablation-digits"
RECIPE = RECIPES[TABLE]


def finish(out: Path, task: str, row: str, seed: int, target: float, source: float = 0.9) -> Path:
    """A finished run where `reproduce` looks for it, with the recipe's configuration."""
    chosen = next(each for each in RECIPE.rows if each.label == row)
    path = out / task / row.replace("+ ", "+_") / f"seed{seed}"
    config = RECIPE.config(task, chosen, seed, out=path, data_root=None, device="cpu")
    finished(path, target, source, config_hash=config.hash)
    return path


def test_means_deviations_and_paired_differences_are_those_of_the_runs(tmp_path: Path) -> None:
    for seed, (first, second) in enumerate(((0.5, 0.55), (0.6, 0.70), (0.7, 0.75))):
        finish(tmp_path, "mnist-usps", "global", seed, first)
        finish(tmp_path, "mnist-usps", "+ class", seed, second)
    finish(tmp_path, "usps-mnist", "global", 0, 0.25)
    text = reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)
    lines = text.splitlines()
    assert "| row | MNIST → USPS | USPS → MNIST | average | source, average |" in lines
    assert "| global | 60.0 ± 10.0 | 25.0 (n = 1) | 42.5 | 90.0 |" in lines
    assert "| + class | 66.7 ± 10.4 | - | - | - |" in lines
    # 5, 10 and 5: mean 6.67, standard deviation 2.89, over the root of 3 runs 1.67.
    # No seed has both tasks.
    assert "| + class | +6.7 ± 1.7 | - | - |" in lines
    assert (tmp_path / "table.md").read_text() == text + "\n"
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    of_class = [row for row in rows if row["row"] == "+ class"]
    assert [row["target-test last"] for row in of_class] == ["55.0", "70.0", "75.0"]
    assert [row["target-test source-val"] for row in of_class] == ["27.5", "35.0", "37.5"]


def test_a_seeds_mean_over_the_tasks_is_one_observation(tmp_path: Path) -> None:
    for task, gain in (("mnist-usps", 0.02), ("usps-mnist", 0.06)):
        for seed in (0, 1):
            finish(tmp_path, task, "global", seed, 0.5)
            finish(tmp_path, task, "+ class", seed, 0.5 + gain + 0.01 * seed)
    text = reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)
    assert "| + class | +2.5 ± 0.5 | +6.5 ± 0.5 | +4.5 ± 0.5 |" in text.splitlines()


def test_the_papers_figures_stand_in_brackets() -> None:
    recipe = RECIPES["gsda-ablation"]
    record = {"task": "office31:amazon-webcam", "row": "global", "seed": 0, "target-test last": 80.0}
    text = report(recipe, [{**record, "source-test last": 99.0}])
    assert "| global | 80.0 (n = 1) (87.9) | 80.0 | 99.0 |" in text


def test_a_run_of_another_configuration_is_refused_by_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "mnist-usps" / "global" / "seed1"
    finished(path, 0.5, config_hash="0" * 12)
    with pytest.raises(ValueError, match="another configuration than the table's") as caught:
        reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)
    assert str(path) in str(caught.value) and "0" * 12 in str(caught.value)
    assert not (tmp_path / "table.md").exists()


def test_no_finished_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run"):
        reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)


def test_runs_that_fail_are_named_and_the_reason_is_passed_on(tmp_path: Path) -> None:
    options = ReproduceOptions(
        TABLE, out=tmp_path / "runs", data_root=tmp_path, tasks=("mnist-usps",), rows=("global",), seeds=1
    )
    said: list[str] = []
    with pytest.raises(RuntimeError, match=r"not finished: mnist-usps global 0 \(exit code 2\)"):
        reproduce(options, line=said.append)
    assert any("not found below" in text for text in said)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table": "table-1"}, "TABLE: expected one of"),
        ({"table": TABLE, "seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"table": TABLE, "tasks": ("mnist-svhn",)}, "--tasks: unknown mnist-svhn"),
        ({"table": TABLE, "rows": ("local",)}, "--rows: unknown local"),
    ],
)
def test_unknown_names_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReproduceOptions(**fields)


def test_a_difference_has_its_standard_error() -> None:
    assert difference([1.0, 3.0]) == "+2.0 ± 1.0"
    assert difference([-1.0]) == "-1.0 (n = 1)"
    assert difference([]) == "-"

"""A recipe's table: its figures are the runs', its differences are paired, and the paper's rows stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from run_folders import finished

from dynconv.recipes import RECIPES
from dynconv.report.recipe_table import difference, record, report

DIGITS = RECIPES["gsda-ablation-digits"]
OFFICE = RECIPES["gsda-office31"]


def line(task: str, row: str, seed: int, target: float | str, source: float = 90.0, **rules: float) -> dict[str, Any]:
    scores = {f"target-test {rule.replace('_', '-')}": value for rule, value in rules.items()}
    blank = {f"target-test {rule}": "" for rule in ("source-val", "label-free", "oracle")}
    own = {"task": task, "row": row, "seed": seed, "target-test last": target, "source-test last": source}
    return {**own, **blank, **scores}


def test_means_deviations_and_paired_differences_are_those_of_the_runs() -> None:
    records = [line("usps-mnist", "global", 0, 25.0)]
    for seed, (first, second) in enumerate(((50.0, 55.0), (60.0, 70.0), (70.0, 75.0))):
        records += [line("mnist-usps", "global", seed, first), line("mnist-usps", "+ class", seed, second)]
    lines = report(DIGITS, records).splitlines()
    assert "| row | MNIST → USPS | USPS → MNIST | average | source, average |" in lines
    assert "| global | 60.0 ± 10.0 | 25.0 (n = 1) | 42.5 | 90.0 |" in lines
    assert "| + class | 66.7 ± 10.4 | - | - | - |" in lines
    # 5, 10 and 5: mean 6.67, standard deviation 2.89, over the root of 3 runs 1.67.
    # No seed has both tasks.
    assert "| + class | +6.7 ± 1.7 | - | - |" in lines


def test_a_seeds_mean_over_the_tasks_is_one_observation() -> None:
    records = []
    for task, gain in (("mnist-usps", 2.0), ("usps-mnist", 6.0)):
        for seed in (0, 1):
            records += [line(task, "global", seed, 50.0), line(task, "+ class", seed, 50.0 + gain + seed)]
    assert "| + class | +2.5 ± 0.5 | +6.5 ± 0.5 | +4.5 ± 0.5 |" in report(DIGITS, records).splitlines()


def test_the_papers_figures_and_the_difference_stand_in_brackets_and_its_other_rows_below() -> None:
    tasks = ("office31:amazon-webcam", "office31:webcam-amazon")
    records = [
        line(task, "DANN", seed, value) for task, value in zip(tasks, (80.0, 70.0), strict=True) for seed in (0, 1)
    ]
    records.append(line(tasks[0], "CDAN", 0, 90.0))
    text = report(OFFICE, records)
    lines = text.splitlines()
    assert "| row | A → W | W → A | average | source, average |" in lines
    # 82.0 and 67.4 in the paper, 74.7 on average.
    assert "| DANN | 80.0 ± 0.0 (82.0, -2.0) | 70.0 ± 0.0 (67.4, +2.6) | 75.0 (74.7, +0.3) | 90.0 |" in lines
    assert "| CDAN | 90.0 (n = 1) | - | - | - |" in lines
    assert "| SymNets (cited) | 90.8 | 72.5 | 81.7 | - |" in lines
    # Run by the recipe, if not here: not cited.
    assert not any("MADA" in each or "GSDA |" in each for each in lines)
    assert "rows marked (cited) are the paper's and were not run" in text
    assert "Table 2: Office-31 (ResNet-50)" in text and "ADDA's 82.8" in text


def test_a_row_without_runs_of_a_task_still_has_the_papers_figure() -> None:
    records = [line("office31:amazon-webcam", "DANN", 0, 80.0), line("office31:dslr-webcam", "MADA", 0, 95.0)]
    assert "| DANN | 80.0 (n = 1) (82.0, -2.0) | - (96.9) | - (89.5) | - |" in report(OFFICE, records).splitlines()


def test_the_mean_over_the_classes_is_held_against_the_mean_of_the_papers() -> None:
    records = [line("visda2017:train-validation", "GSDA", 0, 80.0)]
    lines = report(RECIPES["gsda-visda"], records).splitlines()
    assert "| GSDA | 80.0 (n = 1) (82.5, -2.5) | 80.0 (82.5, -2.5) | 90.0 |" in lines
    assert "| TPN (cited) | 80.4 | 80.4 | - |" in lines


def test_a_table_of_other_tasks_stands_whole_below() -> None:
    text = report(RECIPES["drt-digits"], [line("mnist-usps", "DRT", 0, 80.0)])
    assert "in brackets" not in text.split("\n\n")[0] and "cited" not in text.split("\n\n")[0]
    assert "The paper's own table, of other tasks than these: Li et al." in text
    lines = text.splitlines()
    assert "| (cited) | → mm | → mt | → up | → sv | → sy | average |" in lines
    assert "| CMSS | 75.3 ± 0.57 | 99 ± 0.08 | 97.7 ± 0.13 | 88.4 ± 0.54 | 93.7 ± 0.21 | 90.8 ± 0.31 |" in lines


def test_the_average_under_each_rule_marks_the_one_that_sees_labels() -> None:
    records = [
        line("mnist-usps", "global", 0, 50.0, source_val=40.0, label_free=60.0, oracle=70.0),
        line("usps-mnist", "global", 0, 30.0, source_val=20.0, oracle=80.0),
    ]
    lines = report(DIGITS, records).splitlines()
    assert "| row | last | source-val | label-free | oracle (sees labels) |" in lines
    assert "| global | 40.0 | 30.0 | - | 75.0 |" in lines


def test_a_runs_line_is_in_per_cent_by_each_rule(tmp_path: Path) -> None:
    found = record("mnist-usps", "global", 3, finished(tmp_path / "run", 0.5, 0.9))
    assert (found["task"], found["row"], found["seed"]) == ("mnist-usps", "global", 3)
    assert (found["target-test last"], found["source-test last"]) == (50.0, 90.0)
    assert (found["target-test source-val"], found["target-test oracle"]) == (25.0, "")
    assert (found["steps"], found["seconds"], found["torch"], found["commit"]) == (10, 5.0, "2.10", "")


def test_a_difference_has_its_standard_error() -> None:
    assert difference([1.0, 3.0]) == "+2.0 ± 1.0"
    assert difference([-1.0]) == "-1.0 (n = 1)"
    assert difference([]) == "-"

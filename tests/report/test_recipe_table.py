"""A recipe's table: its figures are the runs', its differences are paired, and the paper's rows stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from run_folders import finished

from dynconv.recipes import RECIPES
from dynconv.report.reproduction.records import record
from dynconv.report.reproduction.statistics import difference
from dynconv.report.reproduction.table import report

DIGITS = RECIPES["gsda-ablation-digits"]
OFFICE = RECIPES["gsda-office31"]


def line(task: str, row: str, seed: int, target: float | str, source: float = 90.0, **rules: float) -> dict[str, Any]:
    scores = {f"target-test {rule.replace('_', '-')}": value for rule, value in rules.items()}
    blank = {f"target-test {rule}": "" for rule in ("source-val", "label-free", "oracle")}
    blank |= {f"source-test {rule}": "" for rule in ("source-val", "label-free", "oracle")}
    own = {"task": task, "row": row, "seed": seed, "target-test last": target, "source-test last": source}
    return {**own, **blank, **scores, "steps": 1000 + seed, "seconds": 90.0}


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


def test_a_sources_figure_is_marked_where_target_images_go_through_another_network() -> None:
    recipe = RECIPES["calibrator-digits"]
    labels = [row.label for row in recipe.rows]
    records = [line(task, label, 0, 80.0, 95.0) for task in recipe.tasks for label in labels]
    text = report(recipe, records)
    marked = [each.split(" | ")[0].removeprefix("| ") for each in text.splitlines() if each.endswith("| 95.0 (own) |")]
    assert marked == ["ADDA as in CyCADA"]
    assert "; (own): source images have a network or batch statistics of their own." in text
    # Without a figure of every task there is none to mark.
    first = next(iter(recipe.tasks))
    assert "(own)" not in report(recipe, [r for r in records if r["row"] != marked[0] or r["task"] == first])


def test_a_seeds_mean_over_the_tasks_is_one_observation() -> None:
    records = []
    for task, gain in (("mnist-usps", 2.0), ("usps-mnist", 6.0)):
        for seed in (0, 1):
            records += [line(task, "global", seed, 50.0), line(task, "+ class", seed, 50.0 + gain + seed)]
    assert "| + class | +2.5 ± 0.5 | +6.5 ± 0.5 | +4.5 ± 0.5 |" in report(DIGITS, records).splitlines()


def test_rows_are_held_against_the_baseline_with_the_standard_error_of_paired_differences() -> None:
    records = []
    for task in ("domainnet:clipart", "domainnet:real"):
        for seed, (static, routed) in enumerate(((50.0, 60.0), (54.0, 62.0))):
            records += [line(task, "static", seed, static), line(task, "subspace routing", seed, routed)]
    text = report(RECIPES["drt-domainnet"], records)
    assert "Each row less the row static, by the same task and seed: mean ± standard error over seeds." in text
    # 10 and 8: mean 9, standard deviation 1.41, over the root of 2 seeds 1.
    assert "| subspace routing | +9.0 ± 1.0 | +9.0 ± 1.0 | +9.0 ± 1.0 |" in text.splitlines()
    # Without a run of the baseline there is no such table.
    assert "standard error" not in report(RECIPES["drt-domainnet"], [r for r in records if r["row"] != "static"])


def test_each_pair_of_rows_is_named_where_they_have_baselines_of_their_own() -> None:
    rows = {"source-only": 40.0, "source-only + DRT": 42.0, "ADDA": 32.0, "ADDA + DRT": 45.0}
    records = [line("domainnet:clipart", row, 0, value) for row, value in rows.items()]
    lines = report(RECIPES["drt-domainnet-losses"], records).splitlines()
    assert "| source-only + DRT less source-only | +2.0 (n = 1) | +2.0 (n = 1) |" in lines
    assert "| ADDA + DRT less ADDA | +13.0 (n = 1) | +13.0 (n = 1) |" in lines
    assert "Rows less those that they are compared with, by the same task and seed" in "\n".join(lines)


def test_tasks_of_one_target_give_their_mean_and_their_best_beside_the_papers() -> None:
    recipe = RECIPES["drt-domainnet-single"]
    clipart, infograph = recipe.groups["→ clp"], recipe.groups["→ inf"]
    records = []
    for seed, more in ((0, 0.0), (1, 2.0)):
        for place, task in enumerate(clipart):
            records.append(line(task, "MCD", seed, 30.0 + 5 * place + more))
            records.append(line(task, "DRT", seed, 40.0 + 5 * place + 3 * more))
        records += [line(task, "MCD", seed, 10.0) for task in infograph[:4]]
    text = report(recipe, records)
    means, best = (
        part.splitlines()
        for part in text.split("\n\n")
        if part.startswith("| row | → clp") and "standard error" not in part and "| all |" not in part
    )
    # MCD 30 to 50, on average of two seeds 1 more; DRT 40 to 60 and 3 more. 31.4 and 41.9 in the paper.
    assert any(each.startswith("| MCD | 41.0 (31.4, +9.6) | - (13.1) |") for each in means)
    assert any(each.startswith("| DRT | 53.0 (41.9, +11.1) | - (19.6) |") for each in means)
    assert any(each.startswith("| MCD | 51.0 (42.6, +8.4) | - (19.6) |") for each in best)
    assert any(each.startswith("| DRT | 63.0 (56.2, +6.8) |") for each in best)
    # 10 and 14 on each task, and none of infograph.
    assert any(each.startswith("| DRT | +12.0 ± 2.0 | - |") for each in text.splitlines())
    assert "| inf → clp | 31.0 ± 1.4 | 43.0 ± 4.2 |" in text.splitlines()
    assert "looks at the target's labels" in text and "whose columns are others" not in text


def test_the_difference_of_a_group_that_lacks_a_task_is_none_as_its_mean_is() -> None:
    recipe = RECIPES["drt-domainnet-single"]
    clipart, infograph = recipe.groups["→ clp"], recipe.groups["→ inf"]
    # No task of the other four targets, and one of infograph's is missing.
    tasks = (*clipart, *infograph[:4])
    values = (("MCD", 30.0), ("DRT", 40.0))
    records = [line(task, row, seed, value) for task in tasks for row, value in values for seed in (0, 1)]
    lines = report(recipe, records).splitlines()
    assert "| DRT | +10.0 ± 0.0 | - | - | - | - | - | - |" in lines
    assert any(each.startswith("| DRT | 40.0 (41.9, -1.9) | - (19.6) |") for each in lines)


def test_the_papers_tables_of_means_and_of_bests_stand_whole_below_other_targets() -> None:
    recipe = RECIPES["drt-single-source-digits"]
    text = report(recipe, [line(task, "MCD", 0, 50.0) for task in recipe.tasks])
    assert text.count("The paper's own table, whose columns are others than ours") == 2
    assert "| ADDA | 39.5 | 14.5 |" in text and "| ADDA | 28.2 | 9.3 |" in text
    assert "in brackets" not in text


def test_oracles_are_shown_by_the_accuracy_on_their_own_domain() -> None:
    recipe = RECIPES["drt-domainnet-oracles"]
    task = next(iter(recipe.tasks))
    records = [line(task, "oracle", seed, 1.0, source=value) for seed, value in enumerate((70.0, 72.0))]
    text = report(recipe, records)
    assert "Source test accuracy in per cent" in text
    assert "| row | clp | average |" in text and "| oracle | 71.0 ± 1.4 | 71.0 |" in text


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
    assert "The paper's own table, whose columns are others than ours: Li et al." in text
    lines = text.splitlines()
    assert "| (cited) | → mm | → mt | → up | → sv | → sy | average |" in lines
    assert "| CMSS | 75.3 ± 0.57 | 99 ± 0.08 | 97.7 ± 0.13 | 88.4 ± 0.54 | 93.7 ± 0.21 | 90.8 ± 0.31 |" in lines


def test_the_average_under_each_rule_marks_the_one_that_sees_labels() -> None:
    records = [
        line("mnist-usps", "global", 0, 50.0, source_val=40.0, label_free=60.0, oracle=70.0),
        line("usps-mnist", "global", 0, 30.0, source_val=20.0, oracle=80.0),
    ]
    lines = report(DIGITS, records).splitlines()
    assert "| row | last | source-val | label-free | oracle (sees labels) | steps | minutes |" in lines
    assert "| global | 40.0 | 30.0 | - | 75.0 | 1,000 | 1.5 |" in lines


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

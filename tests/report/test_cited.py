"""Figures of papers stand in a report as the papers print them, and what stands in for a paper is named so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report_runs import row_of, write_run

from dynconv import cli
from dynconv.recipes import RECIPES, TABLES, Recipe
from dynconv.report.cited import ALL, asked_tables, whole_table
from dynconv.report.collect import find_runs
from dynconv.report.groups import group_runs
from dynconv.report.page.document import Table
from dynconv.report.page.latex import escape
from dynconv.report.page.options import ReportOptions
from dynconv.report.page.results import results_tables
from dynconv.report.papers import Match, matches


def run_of(root: Path, recipe: Recipe, label: str, *tasks: str, target: float = 0.8) -> None:
    """A finished run of a recipe's row on each task."""
    row = next(row for row in recipe.rows if row.label == label)
    for task in tasks:
        config = recipe.config(task, row, 0, out=root, data_root=None, device="cpu")
        write_run(root / f"{label} {task}", config, [row_of(config, 10, 0.9, target)])


def tables(root: Path) -> dict[str, Table]:
    runs, _ = find_runs([root])
    return {
        table.title: table for table in results_tables(group_runs(runs), {r.name: matches(r) for r in runs}, "last")
    }


def cells(table: Table) -> dict[str, tuple[str, ...]]:
    return {line.cells[0]: line.cells[1:] for line in table.lines}


@pytest.mark.parametrize("name", ["drt-digits", "drt-bases-digits", "drt-office31"])
def test_a_papers_table_of_other_tasks_is_cited_whole(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    # The last task, which no other recipe has: MNIST to USPS, drt-digits' first, has a column in a table of another.
    run_of(tmp_path, recipe, recipe.rows[-1].label, list(recipe.tasks)[-1])
    ours, *others = tables(tmp_path).values()
    assert {line.kind for line in ours.lines} == {"own"}
    paper = recipe.table
    assert paper is not None
    whole = next(table for table in others if table.title == f"Cited: {paper.name}")
    assert [line.cells[0] for line in whole.lines] == [row.label for row in paper.rows]
    assert {line.kind for line in whole.lines} == {"cited"}
    assert any(paper.paper in note for note in whole.notes)
    assert not any(paper.paper in note for note in ours.notes), "a footnote belongs to the figures that it is of"


def test_a_table_is_cited_with_its_spread_and_its_average() -> None:
    lines = cells(whole_table(TABLES["drt-3"], "why"))
    assert lines["DRT"] == (
        "81.03 ± 0.34",
        "99.31 ± 0.05",
        "98.4 ± 0.12",
        "86.67 ± 0.38",
        "93.89 ± 0.34",
        "91.86 ± 0.25",
    )
    assert cells(whole_table(TABLES["drt-bases"], "why"))["K = 4"] == ("49.7",)
    assert cells(whole_table(TABLES["calibrator-1"], "why"))["CoGAN"] == ("91.2", "89.1", "", "")


def test_the_spread_stands_beside_our_runs_too(tmp_path: Path) -> None:
    # A small recipe whose tasks are called like columns of a table with spreads.
    recipe = dataclasses.replace(RECIPES["drt-digits"], tasks={"mnist-usps": "→ up", "usps-mnist": "→ mt"})
    run_of(tmp_path, recipe, "DRT", "mnist-usps", target=0.97)
    runs, _ = find_runs([tmp_path])
    row = next(row for row in recipe.rows if row.label == "DRT")
    (table,) = results_tables(group_runs(runs), {run.name: [Match(recipe, row)] for run in runs}, "last")
    lines = cells(table)
    assert lines["paper: drt-3, DRT"] == ("", "98.4 ± 0.12", "98.4")
    assert lines["ours less the paper's"] == ("", "−1.4", "−1.4")
    assert lines["cited: drt-3, CMSS"] == ("", "97.7 ± 0.13", "97.7")
    assert "cited: drt-3, DRT" not in lines


def test_the_papers_average_is_the_printed_one_where_all_its_columns_are_shown(tmp_path: Path) -> None:
    recipe = RECIPES["gsda-office31"]
    run_of(tmp_path / "all", recipe, "GSDA", *recipe.tasks)
    run_of(tmp_path / "some", recipe, "GSDA", "office31:amazon-webcam", "office31:dslr-webcam")
    whole, part = (tables(tmp_path / name)["Target accuracy"] for name in ("all", "some"))
    # ADDA's six figures have the mean 82.8, the paper prints 82.9.
    assert cells(whole)["cited: gsda-2, ADDA"][-1] == "82.9"
    assert cells(whole)["paper: gsda-2, GSDA"][-1] == "89.7"
    assert cells(part)["cited: gsda-2, ADDA"][-1] == "91.2"
    assert all(any("else the mean of the figures shown" in note for note in each.notes) for each in (whole, part))


def test_the_printed_average_stands_beside_tasks_of_other_tables(tmp_path: Path) -> None:
    recipe, other = RECIPES["gsda-office31"], RECIPES["calibrator-table1"]
    run_of(tmp_path, recipe, "GSDA", *recipe.tasks)
    run_of(tmp_path, other, "MCD, lenet-m3sda", *list(other.tasks)[:2])
    lines = cells(tables(tmp_path)["Target accuracy"])
    assert lines["cited: gsda-2, ADDA"][-1] == "82.9"
    # Two of its three columns, and not all tasks of the report.
    assert lines["cited: calibrator-1, Ours"][-1] == ""


def test_a_mean_over_classes_is_held_against_the_papers_mean(tmp_path: Path) -> None:
    recipe = RECIPES["gsda-visda"]
    row = next(row for row in recipe.rows if row.label == "GSDA")
    config = recipe.config(*recipe.tasks, row, 0, out=tmp_path, data_root=None, device="cpu")
    of_classes = {"target-test/b/class-mean-accuracy": 0.8}
    write_run(tmp_path / "run", config, [row_of(config, 10, 0.9, 0.7, **of_classes)])
    lines = cells(tables(tmp_path)["Target accuracy"])
    # The twelve figures of GSDA have the mean 82.5, whatever the paper prints.
    assert lines["paper: gsda-4, GSDA"] == ("", "82.5", "82.5")
    assert lines["ours less the paper's"] == ("", "−2.5", "−2.5")


def test_every_recipe_of_the_runs_says_what_it_is_and_what_to_expect(tmp_path: Path) -> None:
    run_of(tmp_path, RECIPES["drt-digits"], "MCD, static", "mnist+usps-mnist_m")
    notes = tables(tmp_path)["Target accuracy"].notes
    for name in ("drt-digits", "drt-residuals-digits", "drt-bases-digits", "drt-losses-digits"):
        recipe = RECIPES[name]
        assert f"{name}: {recipe.source}; expected: {recipe.expected}." in notes
    assert not any(note.startswith("drt-oracles-digits") for note in notes)
    assert any("stands in for DRT, Table 3" in note for note in notes)


def test_published_names_tables_that_no_recipe_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "runs", RECIPES["drt-digits"], "DRT", "mnist-usps")
    words = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main([*words, "--published", "gam-1", "calibrator-2", "gam-1"]) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert text.count("**Cited: gam-1**") == 1 and "*72.0 ± 0.6*" in text and "**Cited: calibrator-2**" in text
    assert "Cited: drt-4" not in text
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--published", "gam-5"])
    assert stop.value.code == 2
    said = "".join(capsys.readouterr().err.split())
    assert "gam-5" in said and "gam-4" in said and "calibrator-2" in said


def test_all_published_tables_can_be_asked_for() -> None:
    assert [table.title for table in asked_tables((ALL,))] == [f"Cited: {name}" for name in TABLES]
    options = ReportOptions((Path("runs"),), published=("all", "gam-2"))
    assert len(asked_tables(options.published)) == len(TABLES)
    with pytest.raises(ValueError, match=r"expected all or tables of drt-1, .*; got gam-5, runs\."):
        ReportOptions((Path("runs"),), published=("gam-1", "gam-5", "runs"))


def test_latex_prints_every_letter_of_the_papers_tables_and_of_the_recipes() -> None:
    texts = [f"{recipe.source} {recipe.expected}" for recipe in RECIPES.values()]
    for table in asked_tables((ALL,)):
        texts += [table.title, *table.header, *table.notes, *(cell for line in table.lines for cell in line.cells)]
    assert [text for text in texts if "[U+" in escape(text)] == []


def test_a_run_on_stylised_images_is_its_recipes_under_any_data_root(tmp_path: Path) -> None:
    recipe = RECIPES["calibrator-table2-stylised"]
    (task,), row = recipe.tasks, recipe.rows[0]
    for place in ("here", "there"):
        config = recipe.config(task, row, 0, out=tmp_path, data_root=tmp_path / place, device="cpu")
        write_run(tmp_path / "runs" / place, config, [row_of(config, 10, 0.9, 0.8)])
    runs, _ = find_runs([tmp_path / "runs"])
    assert len(runs) == 2
    assert all(Match(recipe, row) in matches(run) for run in runs)
    assert len(group_runs(runs).groups) == 1

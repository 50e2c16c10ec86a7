"""Runs of a recipe stand in a report under their row's label, and never under one with runs of other options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from report_runs import config_of, row_of, write_run

from dynconv import cli
from dynconv.engine.config import TrainConfig
from dynconv.recipes import RECIPES, Recipe
from dynconv.report.collect import find_runs
from dynconv.report.figures.curves import trajectories
from dynconv.report.figures.trade_off import trade_offs
from dynconv.report.groups import Grouping, group_runs
from dynconv.report.papers import Match, matches
from dynconv.report.row_labels import with_row_labels

CAMVID = RECIPES["gam-fine-tuning-camvid"]
TASK = next(iter(CAMVID.tasks))


def write(path: Path, config: TrainConfig) -> None:
    write_run(path, config, [row_of(config, 0, 0.1, 0.2), row_of(config, 10, 0.9, 0.5)])


def write_row(root: Path, recipe: Recipe, label: str, seed: int = 0) -> None:
    """A finished run of a recipe's row, and below it those that it started from."""
    row = recipe.row(label)
    after = None
    if row.follows is not None:
        after = root / row.follows / f"seed{seed}"
        if not after.exists():
            write_row(root, recipe, row.follows, seed)
    out = root / label / f"seed{seed}"
    task = next(iter(recipe.tasks))
    write(out, recipe.config(task, row, seed, out=out, data_root=None, device="cpu", after=after))


def grouped(root: Path) -> Grouping:
    runs, _ = find_runs([root])
    return with_row_labels(group_runs(runs), {run.name: matches(run) for run in runs})


def counts(grouping: Grouping) -> dict[str, int]:
    return {group.label: len(group.all()) for group in grouping.groups}


def test_a_report_calls_the_runs_of_a_recipe_by_its_rows(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "report"
    for label in ("10 labelled, GAM", "5 labelled, GAM", "5 labelled, no transfer"):
        write_row(runs, CAMVID, label)
    write_row(runs, CAMVID, "source-only", seed=1)
    assert cli.main(["report", str(runs), "--out", str(out), "--device", "cpu"]) == 0
    bound = "[bound: trained on target labels]"
    text = (out / "report.md").read_text(encoding="utf-8").replace("\\", "")
    table = text.split("**Target mean IoU**")[1].split("\n\n")[1]
    lines = [line.split(" | ")[:2] for line in table.splitlines()]
    # In the order of the recipe, 5 before 10, for each method.
    assert lines[2:] == [
        ["| source-only", "2"],
        [f"| 5 labelled, no transfer {bound}", "1"],
        [f"| 5 labelled, GAM {bound}", "1"],
        [f"| 10 labelled, GAM {bound}", "1"],
        ["| GAM", "1"],
    ]
    for name in ("report.md", "report.tex", "report.html"):
        written = (out / name).read_text(encoding="utf-8").replace("\\", "").replace("{}", "")
        assert f"5 labelled, no transfer {bound}" in written, name
        assert "gam-fine-tuning-camvid: 5 labelled, GAM" in written, f"{name}: the run's own section"
        assert "max_steps=" not in written, name


def test_figures_call_the_runs_of_a_recipe_by_its_rows_unfinished_ones_too(tmp_path: Path) -> None:
    recipe = RECIPES["drt-bases-digits"]
    for label in ("K = 2", "K = 4", "K = 8"):
        write_row(tmp_path, recipe, label)
    runs, _ = find_runs([tmp_path])
    # In the order of the recipe, and not of the folders.
    assert [each.label for each in trade_offs(runs, "last", None)] == ["K = 2", "K = 4", "K = 8"]
    (tmp_path / "K = 4" / "seed0" / "done").unlink()
    runs, _ = find_runs([tmp_path])
    assert {each.label for each in trajectories(runs)} == {"K = 2", "K = 4", "K = 8"}
    write(
        tmp_path / "own", dataclasses.replace(runs[0].config, run=dataclasses.replace(runs[0].config.run, max_steps=77))
    )
    own = {each.label for each in trajectories(find_runs([tmp_path])[0])} - {"K = 2", "K = 4", "K = 8"}
    assert len(own) == 1 and "max_steps=77" in own.pop()


def test_runs_of_other_options_keep_their_own_line(tmp_path: Path) -> None:
    write_row(tmp_path, CAMVID, "GAM")
    config = CAMVID.config(TASK, CAMVID.row("source-only"), 0, out=tmp_path, data_root=None, device="cpu")
    write(tmp_path / "longer", dataclasses.replace(config, run=dataclasses.replace(config.run, max_steps=500)))
    labels = counts(grouped(tmp_path))
    assert labels == {"source-only": 1, "source-only (max_steps=500)": 1, "GAM": 1}


def rows(*named: tuple[str, str]) -> list[Match]:
    """Matches of made-up recipes' rows, by the names of both."""
    row = CAMVID.row("source-only")
    found = []
    for name, label in named:
        own = dataclasses.replace(row, label=label)
        found.append(Match(dataclasses.replace(CAMVID, name=name, rows=(own,), published=None, baseline=None), own))
    return found


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": [("one", "A")], "b": [("one", "B")], "c": [("one", "C")]}, {"A", "B", "C"}),
        ({"a": [], "b": [("one", "B")], "c": []}, {"OWN a", "B", "OWN c"}),
        # Two groups of one name.
        ({"a": [("one", "A")], "b": [("two", "A")], "c": [("two", "C")]}, {"OWN a", "OWN b", "C"}),
        # A row that is called as another group is.
        ({"a": [("one", "OWN b")], "b": [], "c": []}, {"OWN a", "OWN b", "OWN c"}),
        # One of two recipes that count alike.
        ({"a": [("one", "A"), ("two", "other")], "b": [], "c": []}, {"OWN a", "OWN b", "OWN c"}),
        # Of two recipes the one that more runs are of.
        ({"a": [("one", "other"), ("two", "A")], "b": [("two", "B")], "c": []}, {"A", "B", "OWN c"}),
        # Two rows of one recipe.
        ({"a": [("one", "A"), ("one", "B")], "b": [], "c": []}, {"OWN a", "OWN b", "OWN c"}),
    ],
)
def test_a_label_is_taken_where_it_is_the_only_one(
    tmp_path: Path, found: dict[str, list[tuple[str, str]]], expected: set[str]
) -> None:
    options: dict[str, dict[str, Any]] = {"a": {"discrepancy_steps": 2}, "b": {"discrepancy_steps": 3}, "c": {}}
    for name, own in options.items():
        write(tmp_path / name, config_of("mcd", options=own))
    grouping = group_runs(find_runs([tmp_path])[0])
    names = {group.label: group.all()[0].name for group in grouping.groups}
    grouping = dataclasses.replace(
        grouping,
        groups=tuple(dataclasses.replace(group, label=f"OWN {names[group.label]}") for group in grouping.groups),
    )
    shown = with_row_labels(grouping, {name: rows(*each) for name, each in found.items()})
    assert {group.label for group in shown.groups} == expected


def test_a_group_of_which_some_runs_are_no_recipes_keeps_its_label(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / f"seed{seed}", config_of("mcd", seed=seed))
    grouping = group_runs(find_runs([tmp_path])[0])
    part = with_row_labels(grouping, {"seed0": rows(("one", "A")), "seed1": []})
    assert counts(part) == {"mcd": 2}
    assert counts(with_row_labels(grouping, dict.fromkeys(("seed0", "seed1"), rows(("one", "A"))))) == {"A": 2}

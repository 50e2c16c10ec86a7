"""Every recipe is a set of valid runs, says what one needs to know of it, and is held against the right figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dynconv.data import parse_spec
from dynconv.engine.config import load_config
from dynconv.methods import METHODS, SourceOnlyConfig
from dynconv.recipes import RECIPES, Recipe, Row


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_run_of_every_recipe_is_a_configuration_that_a_file_brings_back(recipe: Recipe, tmp_path: Path) -> None:
    for place, task in enumerate(recipe.tasks):
        parse_spec(task)
        for row in recipe.rows:
            assert isinstance(row.options, METHODS[row.method].config_class)
            config = recipe.config(task, row, 1, out=tmp_path / "run", data_root=tmp_path, device="cpu")
            assert (config.run.protocol, config.run.seed) == (task, 1)
            # The tasks differ in their names alone.
            if place == 0:
                file = tmp_path / "config.yaml"
                file.write_text(config.to_yaml())
                assert load_config(file, METHODS).hash == config.hash


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_says_where_it_comes_from_what_to_expect_what_it_costs_and_needs(recipe: Recipe) -> None:
    assert recipe.source and recipe.expected and recipe.cost and recipe.needs
    for rows in (recipe.rows, set(recipe.tasks.values())):
        assert len(rows) > 0
    assert len({row.label for row in recipe.rows}) == len(recipe.rows)
    assert len(set(recipe.tasks.values())) == len(recipe.tasks)
    # What a folder is called must tell the rows from each other, too.
    assert len({row.label.casefold() for row in recipe.rows}) == len(recipe.rows)
    runs = len(recipe.tasks) * len(recipe.rows) * recipe.seeds
    assert f"{runs} runs" in recipe.cost
    # Several rows that are the same runs would be no comparison.
    assert len({(row.method, row.options) for row in recipe.rows}) == len(recipe.rows)


def published(name: str, label: str) -> dict[str, float]:
    return dict(next(row.published for row in RECIPES[name].rows if row.label == label))


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def test_a_row_has_the_figures_of_the_row_it_cites_by_the_heads_of_the_tasks() -> None:
    assert published("gsda-ablation", "global")["office31:dslr-amazon"] == 66.4
    assert published("gsda-office31", "CDAN+E")["office31:webcam-amazon"] == 69.3
    assert published("gsda-office31", "CDAN") == {}
    assert published("gsda-office-home", "GSDA")["office-home:real-world-clipart"] == 60.6
    assert published("calibrator-baselines", "MCD") == {"mnist-usps": 93.8, "usps-mnist": 95.7}
    # On one of the paper's six tasks only.
    assert published("gsda-ablation-office31-64", "+ synchronisation") == {
        "office31:dslr-webcam": 99.1,
        "office31:webcam-dslr": 100.0,
    }
    # Twelve columns for one task: the mean over the classes, as the recipe's metric has it.
    assert published("gsda-visda", "GSDA") == pytest.approx({"visda2017:train-validation": 82.525})
    # The paper's columns are DomainNet's.
    assert published("drt-digits", "DRT") == {}


def test_the_rows_that_a_recipe_cites_have_the_papers_averages() -> None:
    for name in ("gsda-ablation", "gsda-office31", "gsda-office-home"):
        recipe = RECIPES[name]
        assert recipe.table is not None
        for row in recipe.rows:
            if row.cites is not None:
                assert mean(dict(row.published)) == pytest.approx(recipe.table.row(row.cites).average, abs=0.051)


def test_what_a_recipe_does_not_run_is_cited() -> None:
    cited = [row.label for row in RECIPES["gsda-office31"].cited()]
    assert cited == ["TCA", "GFK", "DAN", "RTN", "JAN", "ADDA", "SymNets", "SAFN", "BSP"]
    assert RECIPES["gsda-ablation"].cited() == ()
    assert RECIPES["gsda-alpha"].cited() == ()


def test_a_citation_needs_a_table_and_a_row_of_it() -> None:
    recipe = RECIPES["gsda-ablation"]
    row = Row("mine", "source-only", SourceOnlyConfig(), "Glb + everything")
    with pytest.raises(ValueError, match="gsda-1: expected a row of Glb, .*got 'Glb \\+ everything'"):
        dataclasses.replace(recipe, rows=(row,))
    with pytest.raises(ValueError, match="mine cite a row, and the recipe names no published table"):
        dataclasses.replace(recipe, rows=(row,), published=None)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.ablation])
def test_each_row_of_an_ablation_changes_its_switch_alone(name: str) -> None:
    rows = RECIPES[name].rows
    fields = [dataclasses.asdict(row.options) for row in rows]
    changed = [
        {key for key in before if before[key] != after[key]} for before, after in zip(fields, fields[1:], strict=False)
    ]
    assert [difference - {"num_groups"} for difference in changed] == [{"levels"}, {"levels"}, {"synchronisation"}]

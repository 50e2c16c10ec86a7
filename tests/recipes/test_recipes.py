"""Every recipe is a set of valid runs, and says what one needs to know of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dynconv.data import parse_spec
from dynconv.engine.config import load_config
from dynconv.methods import METHODS
from dynconv.recipes import RECIPES, Recipe
from dynconv.recipes.gsda import TABLE_1, TABLE_2, TABLE_3


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_run_of_every_recipe_is_a_configuration_that_a_file_brings_back(recipe: Recipe, tmp_path: Path) -> None:
    for task in recipe.tasks:
        parse_spec(task)
        for row in recipe.rows:
            assert isinstance(row.options, METHODS[row.method].config_class)
            config = recipe.config(task, row, 1, out=tmp_path / "run", data_root=tmp_path, device="cpu")
            assert (config.run.protocol, config.run.seed) == (task, 1)
            file = tmp_path / "config.yaml"
            file.write_text(config.to_yaml())
            assert load_config(file, METHODS).hash == config.hash


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_says_where_it_comes_from_what_it_costs_and_needs(recipe: Recipe) -> None:
    assert recipe.source and recipe.cost and recipe.needs
    assert len({row.label for row in recipe.rows}) == len(recipe.rows)
    for row in recipe.rows:
        assert set(row.published) <= set(recipe.tasks)
        assert all(0 < value <= 100 for value in row.published.values())


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def test_the_published_figures_have_the_papers_averages() -> None:
    # Tables 1, 2 and 3 print them.
    assert [mean(dict(row.published)) for row in TABLE_1.rows] == pytest.approx([83.7, 85.6, 87.0, 89.7], abs=0.051)
    averages = {row.label: mean(dict(row.published)) for row in TABLE_2.rows if row.published}
    printed = {"source-only": 76.1, "DANN": 82.2, "MADA": 85.2, "MCD": 83.0, "CDAN+E": 87.7, "GSDA": 89.7}
    assert averages == pytest.approx(printed, abs=0.051)
    averages = {row.label: mean(dict(row.published)) for row in TABLE_3.rows if row.published}
    assert averages == pytest.approx({"source-only": 46.1, "DANN": 57.6, "CDAN+E": 65.8, "GSDA": 70.3}, abs=0.051)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.ablation])
def test_each_row_of_an_ablation_changes_its_switch_alone(name: str) -> None:
    rows = RECIPES[name].rows
    fields = [dataclasses.asdict(row.options) for row in rows]
    changed = [
        {key for key in before if before[key] != after[key]} for before, after in zip(fields, fields[1:], strict=False)
    ]
    assert [difference - {"num_groups"} for difference in changed] == [{"levels"}, {"levels"}, {"synchronisation"}]

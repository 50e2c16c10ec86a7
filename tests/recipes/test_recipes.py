"""Every recipe is a set of valid runs, says what one needs to know of it, and is held against the right figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dynconv.data import parse_spec
from dynconv.engine.config import load_config
from dynconv.methods import ADDA, METHODS, ADDAConfig, CalibratorConfig, SourceOnlyConfig
from dynconv.models.weights import weights_left_out
from dynconv.recipes import RECIPES, Recipe, Row


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_run_of_every_recipe_is_a_configuration_that_a_file_brings_back(recipe: Recipe, tmp_path: Path) -> None:
    for place, task in enumerate(recipe.tasks):
        parse_spec(task)
        for row in recipe.rows:
            assert isinstance(row.options, METHODS[row.method].config_class)
            after = None if row.follows is None else tmp_path / "other"
            config = recipe.config(task, row, 1, out=tmp_path / "run", data_root=tmp_path, device="cpu", after=after)
            assert (config.run.protocol, config.run.seed) == (task, 1)
            # The tasks differ in their names alone.
            if place == 0:
                file = tmp_path / "config.yaml"
                file.write_text(config.to_yaml())
                assert load_config(file).hash == config.hash


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
    kinds = [(row.method, row.options, row.after, row.starts_from, row.run) for row in recipe.rows]
    assert all(kind not in kinds[:place] for place, kind in enumerate(kinds))


def published(name: str, label: str) -> dict[str, float]:
    return dict(next(row.published for row in RECIPES[name].rows if row.label == label))


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def test_a_row_has_the_figures_of_the_row_it_cites_by_the_heads_of_the_tasks() -> None:
    assert published("gsda-ablation", "global")["office31:dslr-amazon"] == 66.4
    assert published("gsda-office31", "CDAN+E")["office31:webcam-amazon"] == 69.3
    assert published("gsda-office31", "CDAN") == {}
    assert published("gsda-office-home", "GSDA")["office-home:real-world-clipart"] == 60.6
    assert published("calibrator-table1", "MCD, lenet-m3sda")["usps-mnist@cycada"] == 95.7
    # On one of the paper's six tasks only.
    assert published("gsda-ablation-office31-64", "+ synchronisation") == {
        "office31:dslr-webcam": 99.1,
        "office31:webcam-dslr": 100.0,
    }
    # Twelve columns for one task: the mean over the classes, as the recipe's metric has it.
    assert published("gsda-visda", "GSDA") == pytest.approx({"visda2017:train-validation": 82.525})
    assert published("drt-domainnet", "subspace routing")["domainnet:quickdraw"] == 9.9
    assert published("drt-domainnet-table4", "DRT+ST")["domainnet:clipart"] == 71.0
    assert published("drt-digit-five", "DRT")["digit-five:mnist_m"] == 81.03
    # One source at a time: the table has the mean and the best of five tasks.
    assert published("drt-domainnet-single", "DRT") == {}
    # The paper's columns are DomainNet's.
    assert published("drt-digits", "DRT") == {}


def test_the_rows_that_a_recipe_cites_have_the_papers_averages() -> None:
    names = ("gsda-ablation", "gsda-office31", "gsda-office-home", "drt-domainnet-losses", "drt-digit-five")
    for name in names:
        recipe = RECIPES[name]
        assert recipe.table is not None
        for row in recipe.rows:
            if row.cites is not None:
                # The static network's (MCD's) figures have the mean 38.6, the paper prints 38.5.
                half = 0.101 if (name, row.cites) == ("drt-domainnet-losses", "MCD") else 0.051
                assert mean(dict(row.published)) == pytest.approx(recipe.table.row(row.cites).average, abs=half)


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


def test_every_experiment_of_drt_has_a_recipe_at_the_papers_scale() -> None:
    multi = ["domainnet:" + name for name in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")]
    for name in ("", "-bases", "-losses", "-table4"):
        recipe = RECIPES[f"drt-domainnet{name}"]
        assert list(recipe.tasks) == multi and recipe.seeds == 5 and recipe.run["batch_size"] == 64
        assert {row.options.backbone for row in recipe.rows} == {"resnet101"}
        assert {row.options.lr for row in recipe.rows} == {1e-3}
    residuals = {row.options.residual for row in RECIPES["drt-domainnet"].rows}
    assert residuals == {"none", "channel", "subspace", "combined"}
    bases = [row.options.num_bases for row in RECIPES["drt-domainnet-bases"].rows if row.options.residual != "none"]
    assert bases == [2, 4, 6, 8]
    for row in RECIPES["drt-domainnet-losses"].rows:
        assert (row.options.residual == "subspace") == row.label.endswith(" + DRT") == (row.against is not None)
    single = RECIPES["drt-domainnet-single"]
    assert len(single.tasks) == 30 and {len(tasks) for tasks in single.groups.values()} == {5}
    assert all(parse_spec(task)[1] == f"domainnet:{name}" for name, task in _targets(single))
    five = RECIPES["drt-digit-five"]
    assert len(five.tasks) == 5 and five.run == {"epochs": 300, "batch_size": 128}
    for name, count in (("drt-domainnet-oracles", 6), ("drt-digit-five-oracles", 5)):
        sources = [parse_spec(task)[0] for task in RECIPES[name].tasks]
        assert len({each for (each,) in sources}) == count and RECIPES[name].split == "source-test"


def calibrators(name: str) -> list[CalibratorConfig]:
    return [row.options for row in RECIPES[name].rows if isinstance(row.options, CalibratorConfig)]


def test_every_switch_of_the_calibrator_has_a_recipe_around_one_setting_and_one_classifier() -> None:
    whole = RECIPES["calibrator-digits"]
    rows = {row.label: row for row in whole.rows}
    switches = {
        "groups": {"groups"},
        "discriminators": {"discriminators"},
        "tricks": {"shuffle", "patch"},
        "width": {"width"},
        "depth": {"blocks"},
        "epsilon": {"epsilon"},
        "form": {"form"},
    }
    for name, switched in switches.items():
        recipe = RECIPES[f"calibrator-{name}"]
        source, ours, *others = recipe.rows
        assert (recipe.tasks, recipe.run, recipe.seeds) == (whole.tasks, whole.run, whole.seeds)
        for row, known in ((source, rows["source-only"]), (ours, rows["Calibrator"])):
            assert (row.label, row.options, row.starts_from) == (known.label, known.options, known.starts_from)
        changed = set()
        for row in others:
            assert row.starts_from == source.label and recipe.compared_with(row) == ours.label
            own = dataclasses.asdict(ours.options)
            changed |= {key for key, value in dataclasses.asdict(row.options).items() if value != own[key]}
        assert changed - {"patch_size", "start"} == switched
    bounds = [config.epsilon for config in calibrators("calibrator-epsilon")]
    assert len(set(bounds)) == len(bounds) >= 6
    tricks = {(config.shuffle, config.patch) for config in calibrators("calibrator-tricks")}
    assert tricks == {(True, True), (False, True), (True, False), (False, False)}


def test_the_calibrators_released_settings_are_those_of_its_three_files() -> None:
    # Of each file: epochs on the source and of the adaptation, batch, bound of images in [-1, 1], width, blocks, patch.
    files = {
        "mnist-usps": (300, 200, 128, 0.4, 8, 9, 4),
        "usps-mnist": (250, 50, 128, 0.9, 4, 9, 8),
        "svhn-mnist": (100, 100, 512, 0.8, 8, 8, 8),
    }
    for pair, values in files.items():
        recipe = RECIPES[f"calibrator-released-{pair}"]
        config, steps = calibrators(recipe.name)[0], 10 * recipe.run["epochs"]
        source = round(config.pretrain * steps) / 10
        size = (config.width, config.blocks, config.patch_size)
        found = (source, recipe.run["epochs"] - source, recipe.run["batch_size"], 2 * config.epsilon, *size)
        assert found == values
        assert (config.form, config.source_weight, config.feature_input) == ("nonnegative", 0.1, "probabilities")
        task = f"{pair}@cycada"
        assert published(recipe.name, "released") == {task: published("calibrator-table1", "Calibrator")[task]}


def _targets(recipe: Recipe) -> list[tuple[str, str]]:
    """Each task with the name of the target that its group is of."""
    names = dict(zip(recipe.groups, ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"), strict=True))
    return [(names[head], task) for head, tasks in recipe.groups.items() for task in tasks]


def test_a_row_is_compared_with_the_baseline_the_one_that_it_names_or_the_one_above() -> None:
    def compared(name: str) -> dict[str, str | None]:
        return {row.label: RECIPES[name].compared_with(row) for row in RECIPES[name].rows}

    assert compared("drt-domainnet")["combination"] == "static" and compared("drt-domainnet")["static"] is None
    assert compared("drt-domainnet-losses")["ADDA + DRT"] == "ADDA"
    assert compared("drt-domainnet-losses")["M3SDA-beta"] is None
    assert list(compared("gsda-ablation").values()) == [None, "global", "+ class", "+ group"]
    assert compared("drt-domainnet-single") == {"ADDA": None, "MCD": None, "DRT": "MCD"}
    for name in ("drt-digits", "drt-embedded"):
        assert compared(name)["DRT"] == "MCD, static" and compared(name)["source-only"] is None


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("drt-")])
def test_a_network_is_never_compared_with_another_method(name: str) -> None:
    rows = {row.label: row for row in RECIPES[name].rows}
    for label, row in rows.items():
        if (other := RECIPES[name].compared_with(row)) is not None:
            # DRT is MCD on a dynamic network.
            methods = {"mcd" if rows[each].method == "drt" else rows[each].method for each in (label, other)}
            assert len(methods) == 1, (label, other)


def test_a_recipe_with_a_table_of_its_own_says_its_own_figures() -> None:
    recipe = RECIPES["drt-domainnet-bases"]
    assert recipe.table is not None
    for row in recipe.table.rows:
        assert f"{row.values[0]:.1f}" in recipe.expected
    assert "channel" not in recipe.expected


ADDA_ROWS = {
    f"{name} {row.label}": row.options
    for name, recipe in RECIPES.items()
    for row in recipe.rows
    if name.startswith("drt-") and row.method == "adda"
}


@pytest.mark.parametrize("name", ADDA_ROWS)
def test_addas_encoder_and_discriminator_learn_while_they_adapt(name: str) -> None:
    config, steps = ADDA_ROWS[name], 1200
    begins = steps // 2
    assert isinstance(config, ADDAConfig)
    with torch.device("meta"), weights_left_out():
        made = ADDA(config, 10)
        optimisers = made.optimisers()

    def rates(step: int, optimiser: str) -> list[float]:
        made.begin_step(step, steps)
        return [group["lr"] for group in optimisers[optimiser].param_groups]

    new = max(rates(0, "heads"))
    # The source's last rates are the encoder's first ones, or a fifth of them, as in ADDA's setting for Adam.
    learnt = rates(begins - 1, "source")
    assert not made.adapting
    assert rates(begins, "features") == pytest.approx([rate * config.adaptation_lr_factor for rate in learnt])
    assert made.adapting
    assert min(rates(begins, "features")) >= config.lr / 10.001
    assert min(rates(begins, "discriminators")) >= new * (0.999 if config.optimiser == "sgd" else 0.199)
    # A phase of its own, at the same rates until its middle at the least, and then not less than a tenth of them.
    for optimiser in ("features", "discriminators"):
        first = rates(begins, optimiser)
        assert rates(begins + steps // 4 - 1, optimiser) == first
        assert min(rates(steps - 1, optimiser)) >= min(first) / 10.001
    for step in (begins, steps - 1):
        assert min(rates(step, "discriminators")) >= 0.999 * max(rates(step, "features"))


def test_a_row_that_follows_another_takes_its_folder_and_no_other_row_does(tmp_path: Path) -> None:
    recipe = RECIPES["drt-domainnet-table4"]
    task, first, second = "domainnet:clipart", recipe.rows[-2], recipe.rows[-1]
    config = recipe.config(task, second, 3, out=tmp_path, data_root=None, device="cpu", after=tmp_path / "DRT")
    assert config.run.pseudo_labels_from == tmp_path / "DRT" and config.run.pseudo_confidence == 0.8
    with pytest.raises(ValueError, match="after: expected a run's folder of 'DRT', got None"):
        recipe.config(task, second, 3, out=tmp_path, data_root=None, device="cpu")
    with pytest.raises(ValueError, match="after: expected none, for the row follows no other"):
        recipe.config(task, first, 3, out=tmp_path, data_root=None, device="cpu", after=tmp_path / "DRT")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"baseline": "MCD"}, "drt-domainnet: baseline: expected one of static, .*got 'MCD'"),
        ({"ablation": True}, "the rows of an ablation have no baseline 'static'"),
        ({"groups": {"→ clp": ("domainnet:clipart",)}}, "expected each task in one of the groups"),
    ],
)
def test_what_a_recipe_names_must_be_there(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPES["drt-domainnet"], **fields)


def test_a_row_follows_one_above_it() -> None:
    recipe = RECIPES["drt-domainnet-table4"]
    with pytest.raises(ValueError, match=r"DRT\+ST: after: expected one of ADDA, MCD, DANN, M3SDA-beta, got 'DRT'"):
        dataclasses.replace(recipe, rows=(*recipe.rows[:-2], recipe.rows[-1]))


def test_the_calibrators_table_of_scenes_has_the_papers_settings() -> None:
    recipe = RECIPES["calibrator-table2"]
    assert recipe.run["batch_size"] == 6 and recipe.run["full_resolution"]
    assert {row.options.backbone for row in recipe.rows} == {"drn26"}
    ours, released = calibrators("calibrator-table2")
    assert (ours.epsilon, ours.lr, ours.width, ours.form, ours.feature_input) == (0.01, 1e-4, 4, "tanh", "features")
    assert (released.feature_hidden, released.feature_dropout, released.patch_size) == ((512, 256), 0.5, 64)
    assert published("calibrator-table2", "source-only") == {"gta5-cityscapes": 21.7}
    stylised = RECIPES["calibrator-table2-stylised"]
    assert published("calibrator-table2-stylised", "Calibrator") == {"gta5-cityscapes": 40.5}
    assert (stylised.tasks, stylised.run) == (recipe.tasks, recipe.run)
    own = {row.label: row.options for row in recipe.rows}
    assert [own[label] for label in ("source-only", "Calibrator")] == [
        row.options for row in stylised.rows if row.label in ("source-only", "Calibrator")
    ]


def test_gams_tables_of_scenes_run_their_rows_on_each_network() -> None:
    for name, task in (("gam-table3", "gta5-cityscapes"), ("gam-table4", "synthia-cityscapes")):
        recipe = RECIPES[name]
        assert list(recipe.tasks) == [task] and recipe.run["batch_size"] == 12
        assert recipe.run["crop_size"] == (512, 1024)
        for backbone in ("erfnet-encoder", "fcn8s", "drn26"):
            rows = [row for row in recipe.rows if row.options.backbone == backbone]
            assert {row.method for row in rows} >= {"source-only", "target-only", "adda", "mcd"}
            for row in rows:
                other = recipe.compared_with(row)
                # The one without transfer on the same network.
                assert other in (None, rows[0].label) and row.starts_from in (None, rows[0].label)
    assert published("gam-table3", "ERFNet, ADDA") == {"gta5-cityscapes": 28.6}
    # GAM's ADDA on DRN-26 saw translated images, which no row here does.
    assert "DRN-26, ADDA" in {row.label for row in RECIPES["gam-table3"].rows}
    assert published("gam-table3", "DRN-26, ADDA") == {}
    assert "C: ADDA" in {row.label for row in RECIPES["gam-table3"].cited()}
    assert published("gam-table4", "ERFNet, no transfer") == {"synthia-cityscapes": 45.19}


def test_stylised_images_lie_in_the_data_root(tmp_path: Path) -> None:
    recipe = RECIPES["calibrator-table2-stylised"]
    row, task = recipe.rows[0], next(iter(recipe.tasks))
    run = recipe.config(task, row, 0, out=tmp_path / "run", data_root=tmp_path, device="cpu").run
    assert run.stylised == tmp_path / "gta5_stylised"
    plain = RECIPES["calibrator-table2"].config(task, row, 0, out=tmp_path / "run", data_root=tmp_path, device="cpu")
    assert plain.run.stylised is None

"""GAM's recipes have the settings of its paper and of its released code, and are held against the right figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dynconv.data import parse_spec
from dynconv.data.scenes.label_maps import CITYSCAPES_16
from dynconv.data.variants import THINNED
from dynconv.engine.config import TrainConfig
from dynconv.methods import ADDAConfig, GAMConfig, GaussianConfig
from dynconv.recipes import RECIPES, Recipe, Row, gam_small

DIGITS = ("gam-table1", "gam-table1-sampled", "gam-digits")


def gam_of(name: str, label: str = "GAM") -> GAMConfig:
    options = RECIPES[name].row(label).options
    assert isinstance(options, GAMConfig)
    return options


def config_of(recipe: Recipe, label: str) -> TrainConfig:
    row, task = recipe.row(label), next(iter(recipe.tasks))
    after = None if row.follows is None else Path("after")
    return recipe.config(task, row, 0, out=Path("run"), data_root=None, device="cpu", after=after)


@pytest.mark.parametrize("name", DIGITS)
def test_all_that_adapts_starts_from_one_network_of_the_source_and_takes_as_long_as_it_says(name: str) -> None:
    recipe = RECIPES[name]
    first = recipe.rows[0]
    assert first.method == "source-only" and {row.options.backbone for row in recipe.rows} == {"lenet-gam"}
    steps = {}
    for row in recipe.rows:
        adapts = row.method not in ("source-only", "target-only")
        assert (row.starts_from == first.label) == adapts
        steps[row.label] = config_of(recipe, row.label).run.max_steps
    assert steps.pop("Gaussian matching") == 1
    source = {steps.pop(row.label) for row in recipe.rows if row.method in ("source-only", "target-only")}
    small = (gam_small.SOURCE_STEPS, gam_small.ADAPTATION_STEPS)
    assert (*source, *set(steps.values())) == (small if name == "gam-digits" else (10_000, 20_000))
    assert recipe.run["batch_size"] == 128


def test_table_1_has_the_settings_of_the_paper_and_of_the_release() -> None:
    whole = gam_of("gam-table1")
    assert (whole.game, whole.joins, whole.weight_of_drift, whole.weight_of_game) == ("classical", "one-by-one", 0.5, 1)
    assert (whole.gaussian_start, whole.steps_alone(10_000), whole.taps, whole.statistics_images) == (True, 500, (), 0)
    assert (whole.optimiser, whole.lr * whole.adaptation_lr_factor, whole.beta1) == ("adam", 2e-4, 0.5)
    sgd = gam_of("gam-table1-sgd")
    rates = (sgd.lr * sgd.adaptation_lr_factor, sgd.lr * sgd.discriminator_lr_factor)
    assert (sgd.optimiser, sgd.momentum, *rates) == ("sgd", 0.9, 1e-4, 1e-4)
    released = gam_of("gam-table1-released")
    assert (released.joins, released.gaussian_start, released.discriminator_steps) == ("jointly", False, 0)
    assert (released.drift, released.drift_weight, released.adversarial_weight) == ("mean", 1.0, 0.5)
    recipe = RECIPES["gam-table1-released"]
    assert {config_of(recipe, row.label).run.max_steps for row in recipe.rows} == {10_000}
    for name in ("gam-table1", "gam-table1-sgd", "gam-table1-released", "gam-digits", "gam-camvid"):
        full, free = gam_of(name), gam_of(name, "GAM without regularisation")
        assert full.weight_of_drift > 0 == free.weight_of_drift
        assert dataclasses.replace(free, drift_weight=full.drift_weight, drift=full.drift) == full


@pytest.mark.parametrize("name", [*DIGITS, "gam-camvid", "gam-table3"])
def test_addas_regulariser_has_beside_its_game_the_weight_that_gams_has(name: str) -> None:
    recipe = RECIPES[name]
    prefix = "ERFNet, " if name == "gam-table3" else ""
    plain, own = (recipe.row(f"{prefix}ADDA{words}").options for words in ("", " + regularisation"))
    full = gam_of(name, f"{prefix}GAM")
    assert isinstance(plain, ADDAConfig) and isinstance(own, ADDAConfig)
    assert plain.weight_of_drift == 0 and dataclasses.replace(own, drift_weight=None) == plain
    # ADDA's game has the weight 1.
    assert own.weight_of_drift == pytest.approx(full.weight_of_drift / full.weight_of_game)
    rates = ("lr", "adaptation_lr_factor", "discriminator_lr_factor", "backbone")
    assert [getattr(full, field) for field in rates] == [getattr(plain, field) for field in rates]


def test_table_1_is_held_against_the_papers_figures() -> None:
    recipe = RECIPES["gam-table1"]
    assert list(recipe.tasks) == ["mnist-usps@cycada", "usps-mnist@cycada", "svhn-mnist@cycada"]
    figures = {row.label: list(row.published.values()) for row in recipe.rows}
    assert figures == {
        "no adaptation": [77.8, 70.7, 60.3],
        "supervised (bound, sees target labels)": [96.4, 99.9, 99.9],
        "Gaussian matching": [],
        "ADDA": [90.2, 97.2, 72.0],
        "ADDA + regularisation": [90.5, 97.4, 73.5],
        "GAM without regularisation": [95.6, 97.8, 73.6],
        "GAM": [95.7, 98.0, 74.6],
    }
    assert [row.label for row in recipe.cited()] == ["Long et al."]
    for label in ("no adaptation", "ADDA + regularisation", "GAM"):
        assert list(RECIPES["gam-digits"].row(label).published.values()) == figures[label][:2]


@pytest.mark.parametrize(
    ("name", "before"), [("gam-table2", ""), ("gam-table2-without", "without-"), ("gam-mismatch-digits", "")]
)
def test_each_task_of_table_2_lacks_the_digits_that_its_head_says(name: str, before: str) -> None:
    recipe = RECIPES[name]
    pairs = {"svhn-mnist", "mnist-usps"} if name != "gam-mismatch-digits" else {"mnist-usps"}
    assert len(recipe.tasks) == 4 * len(pairs) and {task.partition("@")[0] for task in recipe.tasks} == pairs
    for task, head in recipe.tasks.items():
        (source,), target, variant = parse_spec(task)
        thinning, sides = THINNED[variant], {"source": "Full", "target": "Full"}
        sides[thinning.role] = "Odd" if thinning.parity else "Even"
        assert head == f"{sides['source']} {source.upper()} → {sides['target']} {target.upper()}"
        assert thinning.whole == bool(before)
    figures = {row.label: row.published for row in recipe.rows}
    task = f"mnist-usps@{before}odd-target"
    assert (figures["no adaptation"][task], figures["GAM"][task]) == (87.6, 72.8)
    assert all(len(figures[label]) == len(recipe.tasks) for label in ("no adaptation", "GAM"))


def test_the_tables_of_scenes_have_the_papers_settings_and_rows() -> None:
    for label in ("ERFNet, GAM", "FCN-8s, GAM", "DRN-26, GAM"):
        options = gam_of("gam-table3", label)
        assert (options.game, options.joins, options.weight_of_game) == ("least-squares", "jointly", 0.1)
        assert (options.weight_of_drift, options.gaussian_start, options.taps) == (2.0, True, ())
    recipe = RECIPES["gam-table3"]
    cited = {row.cites: row.label for row in recipe.rows if row.cites is not None}
    assert cited == {
        "A: No transfer": "ERFNet, no transfer",
        "A: Supervised baseline": "ERFNet, supervised (bound)",
        "A: i.i.d Gaussian matching": "ERFNet, Gaussian matching",
        "A: ADDA": "ERFNet, ADDA",
        "A: ADDA + our regularization": "ERFNet, ADDA + regularisation",
        "A: GAM (full)": "ERFNet, GAM",
        "B: No transfer (ours)": "FCN-8s, no transfer",
        "B: GAM (full)": "FCN-8s, GAM",
    }
    matched = recipe.row("ERFNet, Gaussian matching")
    assert isinstance(matched.options, GaussianConfig)
    assert config_of(recipe, matched.label).run.max_steps == 1
    stylised = RECIPES["gam-table3-stylised"]
    assert stylised.stylised == "gta5_stylised" and {row.options.backbone for row in stylised.rows} == {"drn26"}
    figures = {row.label: row.published.get("gta5-cityscapes") for row in stylised.rows}
    assert figures == {
        "DRN-26, no transfer": None,
        "DRN-26, CyCADA": 39.5,
        "DRN-26, ADDA": 39.2,
        "DRN-26, GAM": 40.2,
    }
    assert all(row.starts_from == "DRN-26, no transfer" for row in stylised.rows[1:])


def test_a_network_of_22_classes_is_judged_by_the_papers_16() -> None:
    recipe = RECIPES["gam-table4-22"]
    (task,) = recipe.tasks
    assert task == "synthia-cityscapes@22" and recipe.metrics == ("mean-iou-16",) and recipe.of_scenes
    assert dict(recipe.row("ERFNet, GAM").published) == {task: 62.26}
    assert dict(RECIPES["gam-table4"].row("ERFNet, GAM").published) == {"synthia-cityscapes": 62.26}
    # A measure of the whole table still names its own column.
    table = RECIPES["gam-table4"]
    assert table.table is not None
    assert table.figure(table.table.row("GAM (full)"), "synthia-cityscapes", "pixel-accuracy") == 92.67


def test_a_published_network_lies_in_the_data_root_and_gam_starts_from_it(tmp_path: Path) -> None:
    recipe = RECIPES["gam-table4-published"]
    (task,) = recipe.tasks
    first, adapted = recipe.rows
    published = recipe.config(task, first, 0, out=tmp_path / "a", data_root=tmp_path, device="cpu")
    assert published.options.weights == str(tmp_path / "fcn8s_synthia.pth") and published.run.max_steps == 1
    assert published.options.file_classes == CITYSCAPES_16
    run = recipe.config(task, adapted, 0, out=tmp_path / "b", data_root=tmp_path, device="cpu", after=tmp_path / "a")
    assert run.options.source_checkpoint == str(tmp_path / "a" / "checkpoints" / "last.pt")
    assert run.network_input == published.network_input and run.run.max_steps == 20_000
    assert dict(first.published) == {task: 17.4} and dict(adapted.published) == {task: 30.7}


@pytest.mark.parametrize("name", ["gam-positions", "gam-positions-digits", "gam-positions-erfnet"])
def test_positions_are_swept_one_at_a_time_and_together(name: str) -> None:
    own = [row for row in RECIPES[name].rows if isinstance(row.options, GAMConfig)]
    taps = [row.options.taps for row in own]
    if name == "gam-positions-erfnet":
        assert taps == [("4",), ("8",), ("12",), ("17",), ()]
    else:
        assert taps == [("1",), ("2",), ("3",), ("scores",), (), ("1", "2", "3", "scores")]
    assert all(dataclasses.replace(row.options, taps=()) == own[-1 if taps[-1] == () else -2].options for row in own)
    assert all(row.starts_from == RECIPES[name].rows[0].label for row in own)


def differences(row: Row, base: Row) -> dict[str, object]:
    """The fields of the method and of the run in which a row is not as another, with the row's values."""
    assert row.method == base.method and row.starts_from == base.starts_from
    fields = {field.name for field in dataclasses.fields(base.options)}
    own = {
        name: getattr(row.options, name) for name in fields if getattr(row.options, name) != getattr(base.options, name)
    }
    return own | {name: value for name, value in row.run.items() if base.run.get(name) != value}


def test_the_small_gam_is_the_default_but_for_its_network_and_its_first_steps() -> None:
    recipe = RECIPES["gam-digits"]
    row = recipe.row("GAM")
    steps = gam_small.DISCRIMINATOR_STEPS
    assert row.options == GAMConfig(backbone="lenet-gam", discriminator_steps=steps) and not row.run
    released = recipe.row("GAM, drift as released")
    assert differences(released, row) == {"drift": "mean", "drift_weight": 1.0}
    assert differences(RECIPES["gam-camvid"].row("GAM, mean drift"), RECIPES["gam-camvid"].row("GAM")) == {
        "drift": "mean"
    }


def test_each_cause_is_one_change_to_a_row_of_the_small_table() -> None:
    recipe, base = RECIPES["gam-causes-digits"], RECIPES["gam-digits"]
    released, own = base.row("GAM, drift as released"), base.row("GAM")
    first, *causes = recipe.rows
    # Its runs are those of the table, where all causes start.
    assert first == dataclasses.replace(base.rows[0], cites=None, published={})
    assert recipe.run == base.run and recipe.tasks == base.tasks and recipe.baseline == first.label
    assert {row.label: differences(row, own if "matched" in row.label else released) for row in causes} == {
        "both discriminators from the first step": {"order": "jointly"},
        "without the Gaussian start": {"gaussian_start": False},
        "the drift from the matched network": {"drift_from": "start"},
        "three times the iterations": {"max_steps": 3 * gam_small.ADAPTATION_STEPS},
    }
    # What is changed is not so already.
    assert isinstance(released.options, GAMConfig) and released.options.joins == "one-by-one"
    assert all(row.cites is None and not row.published for row in recipe.rows)


def test_a_row_that_a_recipe_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="gam-mismatch-digits: expected the label of a row, one of no adaptation, GAM"):
        RECIPES["gam-mismatch-digits"].row("ADDA")


@pytest.mark.parametrize("name", ["gam-lambda", "gam-lambda-digits", "gam-lambda-erfnet"])
def test_lambda_is_swept_around_the_papers(name: str) -> None:
    own = [row for row in RECIPES[name].rows if isinstance(row.options, GAMConfig)]
    weights = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    assert [row.options.weight_of_game for row in own] == weights[: 5 if name == "gam-lambda-erfnet" else 6]
    assert [row.label for row in own] == [f"lambda = {row.options.weight_of_game:g}" for row in own]
    assert len({dataclasses.replace(row.options, adversarial_weight=None) for row in own}) == 1


def test_camvids_source_is_that_of_its_other_recipe_and_may_share_its_run() -> None:
    known, recipe = RECIPES["camvid"], RECIPES["gam-camvid"]
    assert (recipe.run, recipe.tasks, recipe.seeds, recipe.bounds) == (
        known.run,
        known.tasks,
        known.seeds,
        known.bounds,
    )
    assert config_of(recipe, "source-only").hash == config_of(known, "source-only").hash
    assert recipe.row("ADDA").options == known.row("ADDA").options
    options = gam_of("gam-camvid")
    assert options == gam_small.CAMVID_GAM
    # Something is left of the run to adapt in.
    assert options.discriminator_steps < recipe.row("GAM").run["max_steps"] / 2
    first = gam_of("gam-digits").discriminator_steps
    assert first < gam_small.ADAPTATION_STEPS / 8


def test_a_row_may_run_for_longer_than_its_recipe_says() -> None:
    recipe = RECIPES["gam-digits"]
    row = recipe.row("GAM")
    longer = dataclasses.replace(recipe, rows=(recipe.rows[0], dataclasses.replace(row, run={"max_steps": 7})))
    run = config_of(longer, "GAM").run
    assert (run.max_steps, run.batch_size) == (7, recipe.run["batch_size"])
    assert config_of(recipe, "GAM").hash != config_of(longer, "GAM").hash

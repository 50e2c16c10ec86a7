"""Every row of every recipe of segmentation trains two steps on small scenes in the publishers' layouts.

Sizes, steps, batch and device are changed, and the networks are small here but for ERFNet's encoder where a run is
evaluated: one of each task. The whole networks of every row are built, without memory for their weights; the slow tier
trains them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from publishers_scenes import BANDS, write_camvid, write_cityscapes, write_gta5, write_stylised, write_synthia
from rich.console import Console
from torch import nn

from dynconv.data.scenes.label_maps import CITYSCAPES_19
from dynconv.engine import loading
from dynconv.engine import train as engine
from dynconv.engine.config import TrainConfig
from dynconv.engine.journal import Journal
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.methods import METHODS, CalibratorConfig, MethodConfig, TargetOnlyConfig
from dynconv.methods.adapted import AdaptedConfig
from dynconv.models import build, drn, erfnet, fcn8s
from dynconv.models.weights import weights_left_out
from dynconv.recipes import RECIPES, Recipe, Row
from dynconv.report.reproduction.records import record
from dynconv.report.reproduction.table import report

CHECKPOINT = Journal.checkpoint
SCENES = {name: recipe for name, recipe in RECIPES.items() if recipe.of_scenes}
# Parameters of each network without its heads, at least: of all heads the largest has 93,000.
SIZES = {"erfnet-encoder": 1_870_000, "drn26": 20_610_000, "fcn8s": 134_200_000}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    write_gta5(place / "gta5", test=2)
    write_stylised(place / "gta5_stylised")
    write_synthia(place / "synthia")
    write_cityscapes(place / "cityscapes")
    for seed, name in enumerate(("camvid_day", "camvid_dusk")):
        write_camvid(place / name, seed=seed)
    return place


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = tuple((8, 1, *others) for _, _, *others in drn._LEVELS)
    monkeypatch.setattr(drn, "_LEVELS", levels)
    # With FCN-8s' margin images of 32 x 32 are 230 x 230.
    monkeypatch.setattr(fcn8s, "_GROUPS", tuple((width,) for width in (2, 2, 4, 4, 4)))
    monkeypatch.setattr(fcn8s, "_POOLS", (8, 11, 14))
    monkeypatch.setattr(fcn8s.FCN8s, "taps", ("vgg.8", "vgg.11", "vgg.14", "fc6", "fc7"))
    monkeypatch.setattr(fcn8s, "_CHANNELS", (4, 4, 8))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erfnet, "_Residual", lambda *_: nn.ReLU())


@pytest.fixture
def without_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(run: Run, journal: Journal) -> None:
        run.folder.append({"step": run.step, "seconds": 0.0, "config_hash": run.config.hash})

    monkeypatch.setattr(Run, "evaluate", append)
    monkeypatch.setattr(Journal, "checkpoint", lambda journal, name, state: None)


def small(options: MethodConfig) -> MethodConfig:
    """No 500 steps of a discriminator alone, patches that fit, and no more labelled scenes than there are."""
    if isinstance(options, TargetOnlyConfig):
        return replace(options, labelled_images=min(options.labelled_images, 1))
    if isinstance(options, AdaptedConfig):
        return replace(options, discriminator_steps=0)
    if isinstance(options, CalibratorConfig):
        return replace(options, blocks=1, patch_size=min(options.patch_size, 8))
    return options


def kind(recipe: Recipe, row: Row) -> tuple[str, MethodConfig, str]:
    """Method, options as they are trained here, and the method of the row that a row starts from."""
    started = next((each.method for each in recipe.rows if each.label == row.starts_from), "")
    return row.method, small(row.options), started


def different_runs() -> dict[str, tuple[Recipe, str, Row]]:
    """Each row of each recipe; of those that train alike the first, but that without transfer on each of their
    data."""
    found: dict[Any, tuple[str, tuple[Recipe, str, Row]]] = {}
    for recipe in SCENES.values():
        (task,) = recipe.tasks
        for row in recipe.rows:
            data = (task, recipe.stylised) if row.method == "source-only" else None
            key = (kind(recipe, row), data)
            found.setdefault(key, (f"{recipe.name} {row.label}", (recipe, task, row)))
    return dict(found.values())


RUNS = different_runs()


def write_published(file: Path, num_classes: int) -> None:
    """An FCN-8s with CyCADA's names of what makes its scores."""
    network = build("fcn8s", num_classes=num_classes)
    scores = network.make_head().state_dict()
    renamed = {name.replace("score.", "vgg_head.6."): value for name, value in scores.items()}
    torch.save({**network.features.state_dict(), **renamed}, file)


def two_steps(recipe: Recipe, task: str, row: Row, root: Path, out: Path, after: Path | None = None) -> RunFolder:
    whole = recipe.config(task, row, 0, out=out, data_root=root, device="cpu", after=after)
    crop = (32, 32) if "crop_size" in recipe.run else None
    steps = min(2, row.run.get("max_steps", 2))
    run = replace(whole.run, max_steps=steps, eval_every=2, batch_size=2, image_size=(32, 64), crop_size=crop)
    options = small(whole.options)
    if row.method == "imported":
        write_published(Path(options.weights), 16)
    return engine.train(TrainConfig(row.method, run, options), console=Console(quiet=True))


@pytest.fixture(scope="module")
def source_runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe, str, Row], Path | None]:
    """The run that a row starts from, with its checkpoint; the same for all that start alike."""
    found: dict[Any, Path] = {}

    def folder(recipe: Recipe, task: str, row: Row) -> Path | None:
        if row.starts_from is None:
            return None
        first = next(each for each in recipe.rows if each.label == row.starts_from)
        key = (kind(recipe, first), task, recipe.stylised)
        if key not in found:
            before, place = folder(recipe, task, first), tmp_path_factory.mktemp("first") / "run"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Journal, "checkpoint", CHECKPOINT)
                found[key] = two_steps(recipe, task, first, root, place, before).path
        return found[key]

    return folder


Started = Callable[[Recipe, str, Row], Path | None]


def check_line(recipe: Recipe, task: str, row: Row, folder: RunFolder) -> None:
    line = record(task, row.label, 0, folder, recipe.metric)
    assert line["steps"] == 2
    for split in ("target-test", "source-test"):
        assert 0 <= line[f"{split} last"] <= 100
        assert all(0 <= line[f"{split} last {metric}"] <= 100 for metric in recipe.metrics[1:])
    text = report(recipe, [line])
    assert f"| {row.label} | {line['target-test last']:.1f} (n = 1)" in text


# The first row of each task and network, and of each task alone.
FIRST = {(task, row.options.backbone): name for name, (_, task, row) in reversed(RUNS.items())}
EVALUATED = {task: name for name, (_, task, _) in reversed(RUNS.items())}
FULL_MAPS = "calibrator-table2 Calibrator as released"


@pytest.mark.usefixtures("narrow", "shallow", "without_evaluation")
@pytest.mark.parametrize("name", [name for name in RUNS if name not in (*EVALUATED.values(), FULL_MAPS)])
def test_every_row_of_every_recipe_trains(name: str, root: Path, tmp_path: Path, source_runs: Started) -> None:
    recipe, task, row = RUNS[name]
    folder = two_steps(recipe, task, row, root, tmp_path / "run", source_runs(recipe, task, row))
    done = folder.read_done()
    assert done is not None
    if row.method in ("gaussian", "imported"):
        # Its one step is no training.
        assert done["selected"]["last"]["step"] == 1
        assert row.method == "imported" or folder.training_rows()[-1]["matching/layers"] > 0
        return
    assert done["selected"]["last"]["step"] == 2
    losses = [value for key, value in folder.training_rows()[-1].items() if "loss" in key or key == "cross_entropy"]
    assert losses and all(map(math.isfinite, losses))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", EVALUATED.values())
def test_a_run_gives_a_line_of_its_recipes_table(name: str, root: Path, tmp_path: Path) -> None:
    recipe, task, row = RUNS[name]
    assert row.starts_from is None
    check_line(recipe, task, row, two_steps(recipe, task, row, root, tmp_path / "run"))


@pytest.mark.usefixtures("narrow")
def test_a_discriminator_of_full_score_maps_is_trained_and_diagnosed_in_pieces(
    root: Path, tmp_path: Path, source_runs: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynconv.losses.rows.ROWS_AT_ONCE", 1000)
    recipe, task, row = RUNS[FULL_MAPS]
    assert row.options.score_maps == "full"
    folder = two_steps(recipe, task, row, root, tmp_path / "run", source_runs(recipe, task, row))
    check_line(recipe, task, row, folder)
    figures = folder.rows()[-1]
    for name in ("feature", "pixel"):
        assert all(0 <= figures[f"discriminator/{name}/{what}-accuracy"] <= 1 for what in ("trained", "held-out"))


def test_every_network_has_a_recipe_of_both_published_sources() -> None:
    assert set(FIRST) >= {(f"{source}-cityscapes", name) for source in ("gta5", "synthia") for name in SIZES}


# Of equal networks the first.
NETWORKS = {(row.method, row.options): name for name, (_, _, row) in reversed(RUNS.items())}


@pytest.mark.parametrize("name", NETWORKS.values())
def test_every_row_of_every_recipe_has_a_whole_network(name: str) -> None:
    recipe, task, row = RUNS[name]
    num_classes = {
        "gta5-cityscapes": 19,
        "synthia-cityscapes": 16,
        "synthia-cityscapes@22": 22,
        "camvid_day-camvid_dusk": 11,
    }[task]
    with torch.device("meta"), weights_left_out():
        method = METHODS[row.method].for_task(row.options, num_classes, 1)
        groups = [group for each in method.optimisers().values() for group in each.param_groups]
        assert method.predict(torch.zeros(1, 3, 64, 96)).shape == (1, num_classes, 64, 96)
    parameters = {id(parameter): parameter for parameter in method.parameters()}
    assert sum(parameter.numel() for parameter in method.features.parameters()) >= SIZES[row.options.backbone]
    assert {id(parameter) for group in groups for parameter in group["params"]} == parameters.keys()


def test_the_sources_images_may_be_in_another_style(root: Path) -> None:
    plain, stylised = RECIPES["calibrator-table2"], RECIPES["calibrator-table2-stylised"]
    (task,) = stylised.tasks
    shown = []
    for recipe in (plain, stylised):
        whole = recipe.config(task, recipe.rows[0], 0, out=root / "run", data_root=root, device="cpu")
        run = replace(whole.run, image_size=(32, 64), crop_size=(32, 32))
        train = loading.load_domains(TrainConfig(whole.method, run, whole.options)).sources[0].train
        first = torch.arange(1)
        assert int(train.label_maps_at(first)[0, 0, 0]) == CITYSCAPES_19.index("sky")
        shown.append(train.images_at(first)[0, :, 0].float().mean(dim=1))
    sky = torch.tensor(BANDS["sky"], dtype=torch.float32)
    torch.testing.assert_close(shown[0], sky, atol=12, rtol=0)
    torch.testing.assert_close(shown[1], 255 - sky, atol=12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST.values())
def test_whole_networks_train(name: str, root: Path, tmp_path: Path) -> None:
    recipe, task, row = RUNS[name]
    check_line(recipe, task, row, two_steps(recipe, task, row, root, tmp_path / "run"))

"""Every row of every recipe for labels of images trains: two steps (one of a matching) on a few images in the
publishers' layouts.

Of a recipe the first task alone is trained, and only steps, evaluations, batch and device are changed. So that all of
them take less than a minute of one core, the networks and discriminators are small here, and of recipes with the same
data one row alone is evaluated, has checkpoints and gives a line of the table. A row that learns the pseudo labels of
another is trained after that one, with a threshold that a network of two steps passes, and one that starts from another
row's classifier after that. The whole networks of every row are built, for as many classes as the task has, without
memory for their weights; the slow tier trains some.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from publishers_digits import write_digit_five, write_svhn
from publishers_files import partial_counts, write_digits, write_image_sets
from rich.console import Console
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from dynconv.data import Domain, Protocol, load_protocol, parse_spec
from dynconv.data.digits import DIGIT_SETS
from dynconv.data.image_sets import IMAGE_SETS, PDA_COUNTS
from dynconv.data.variants import M3SDA, Take
from dynconv.engine import loading
from dynconv.engine import train as engine
from dynconv.engine.config import TrainConfig
from dynconv.engine.journal import Journal
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.losses import Hierarchy
from dynconv.methods import METHODS, CalibratorConfig, GAMConfig, MethodConfig, SelfTrainingConfig
from dynconv.methods.gsda import GSDAConfig
from dynconv.models import Features, network
from dynconv.models.weights import weights_left_out
from dynconv.recipes import RECIPES as KNOWN
from dynconv.recipes import Recipe, Row
from dynconv.report.reproduction.records import record

BATCH = 8
CHECKPOINT = Journal.checkpoint
# For those for labels of pixels see test_two_steps_scenes.py.
RECIPES = {name: recipe for name, recipe in KNOWN.items() if not recipe.of_scenes}


class SmallTrunk(nn.Module):
    """What the backbones know of torchvision's ResNets, with one block of 8 channels on 28 x 28 places."""

    def __init__(self, weights: None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=8, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Bottleneck(8, 2))
        self.fc: nn.Module = nn.Linear(8, 1000)

    def forward(self, images: Tensor) -> Tensor:
        places = self.layer1(self.bn1(self.conv1(images)).relu())
        return self.fc(places.mean(dim=(2, 3)))


class SmallDTN(Features):
    """One convolution of 4 channels on 4 x 4 places."""

    image_size = 32

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        assert norm
        self.out_features = 8
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 5, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 8))
        self.taps = ("layers.1", "layers.3")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features.relu()


def first_images(domain: Domain, train: int, test: int) -> Domain:
    assert domain.test is not None
    return replace(domain, train=domain.train.subset(torch.arange(train)), test=domain.test.subset(torch.arange(test)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small files, known as the published ones; each protocol is read once."""
    place = tmp_path_factory.mktemp("data")
    write_digits(place)
    write_svhn(place, (60, 20))
    write_digit_five(place)
    small = write_image_sets(place)

    @functools.cache
    def read(spec: str, **options: Any) -> Protocol:
        if spec.startswith("domainnet:"):
            # Six domains of 345 classes: decoded at 256 x 256 they would be a gigabyte for every task.
            options["cache"], counts = "none", (20, 8)
        elif not spec.startswith("embedded:"):
            return load_protocol(spec, cache_dir=place / "cache", **options)
        else:
            # These have thousands of images.
            counts = (60, 20)
        whole = load_protocol(spec, **options)
        sources = tuple(first_images(source, *counts) for source in whole.sources)
        return replace(whole, sources=sources, target=first_images(whole.target, *counts))

    def load(spec: str, *, on_progress: object, **options: Any) -> Protocol:
        # Each call has a display of its own: with it no protocol was ever the same, and each row decoded its images.
        return read(spec, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name, known in small.items():
            patch.setitem(IMAGE_SETS, name, known)
        for domain, count in partial_counts(PDA_COUNTS).items():
            patch.setitem(PDA_COUNTS, domain, count)
        for name in ("mnist", "usps", "svhn"):
            patch.setitem(DIGIT_SETS, name, replace(DIGIT_SETS[name], splits={"train": 60, "test": 20}))
        for name, digits in DIGIT_SETS.items():
            if name.startswith("digit-five:"):
                patch.setitem(DIGIT_SETS, name, replace(digits, splits={"train": 24, "test": 21}))
                patch.setitem(M3SDA, name, Take(repeats=4) if name.endswith("usps") else Take(20, 15))
        patch.setattr(loading, "load_protocol", load)
        yield place


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("resnet50", "resnet101"):
        monkeypatch.setattr(torchvision.models, name, SmallTrunk)
    monkeypatch.setattr(network, "imagenet_state", lambda name: SmallTrunk().state_dict())
    monkeypatch.setattr(network, "DTN", SmallDTN)
    # 32 million parameters otherwise, in the first linear layer.
    monkeypatch.setitem(network._LENETS, "lenet-m3sda", replace(network._LENETS["lenet-m3sda"], linear=(32, 16)))


@pytest.fixture
def without_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(run: Run, journal: Journal) -> None:
        run.folder.append({"step": run.step, "seconds": 0.0, "config_hash": run.config.hash})

    monkeypatch.setattr(Run, "evaluate", append)
    monkeypatch.setattr(Journal, "checkpoint", lambda journal, name, state: None)


def kind(row: Row) -> tuple[str, MethodConfig]:
    """Method and options of a row, the same for each number of bases on images, for the digits' rows have them all, and
    for each size and bound of a calibrator."""
    options = row.options
    if isinstance(options, CalibratorConfig):
        options = replace(options, width=8, blocks=9, epsilon=0.4)
    if options.backbone.startswith("resnet") and options.residual in ("subspace", "combined"):
        options = replace(options, num_bases=4)
    return row.method, options


def different_runs() -> dict[str, tuple[Recipe, str, Row]]:
    """Each row of each recipe on its first task, but for those that learn the pseudo labels of another; of the same
    runs the first."""
    found: dict[Any, tuple[str, tuple[Recipe, str, Row]]] = {}
    for recipe in RECIPES.values():
        task = next(iter(recipe.tasks))
        for row in recipe.rows:
            if row.after is not None:
                continue
            run = tuple(sorted({**recipe.run, **row.run}.items()))
            key = (*kind(row), row.starts_from is None, task, run)
            found.setdefault(key, (f"{recipe.name} {row.label}", (recipe, task, row)))
    return dict(found.values())


RUNS = different_runs()


def steps(row: Row) -> int:
    """Of the run of a row: two, one of a matching that has no other, or one for each of GAM's discriminators."""
    if isinstance(row.options, GAMConfig):
        return max(2, len(row.options.taps))
    return min(2, row.run.get("max_steps", 2))


def two_steps(
    recipe: Recipe, task: str, row: Row, options: MethodConfig, root: Path, out: Path, **more: Any
) -> RunFolder:
    """Train a row; `more` changes the options of the run further."""
    after = more.pop("after", None)
    whole = recipe.config(task, replace(row, options=options), 0, out=out, data_root=root, device="cpu", after=after)
    run = replace(whole.run, epochs=None, max_steps=steps(row), eval_every=2, batch_size=BATCH, **more)
    return engine.train(TrainConfig(row.method, run, whole.options), console=Console(quiet=True))


def small(options: MethodConfig) -> MethodConfig:
    """45 discriminators of the full width have 60 million parameters; a warm-up, or what is before an adaptation, takes
    one step of both."""
    if isinstance(options, SelfTrainingConfig):
        return replace(options, warmup_steps=1, selection_every=1)
    if isinstance(options, CalibratorConfig):
        return replace(options, width=4, blocks=1, pretrain=0.5)
    if isinstance(options, GAMConfig):
        return replace(options, hidden_features=8, discriminator_steps=0)
    return replace(options, hidden_features=8) if hasattr(options, "hidden_features") else options


def check_line(recipe: Recipe, task: str, row: Row, folder: RunFolder) -> None:
    line = record(task, row.label, 0, folder, recipe.metric)
    assert line["steps"] == 2
    assert 0 <= line["target-test last"] <= 100 and 0 <= line["source-test last"] <= 100


@pytest.fixture(scope="module")
def source_runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe, str, Row], Path | None]:
    """The run of small networks that a row starts from, with its checkpoint; the same for all that start alike."""
    found: dict[Any, Path] = {}

    def folder(recipe: Recipe, task: str, row: Row) -> Path | None:
        if row.starts_from is None:
            return None
        first = next(each for each in recipe.rows if each.label == row.starts_from)
        key = (*kind(first), task)
        if key not in found:
            place = tmp_path_factory.mktemp("first") / "run"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Journal, "checkpoint", CHECKPOINT)
                found[key] = two_steps(recipe, task, first, small(first.options), root, place).path
        return found[key]

    return folder


@pytest.mark.usefixtures("small_networks", "without_evaluation")
@pytest.mark.parametrize("name", RUNS)
def test_every_row_of_every_recipe_trains(
    name: str, root: Path, tmp_path: Path, source_runs: Callable[[Recipe, str, Row], Path | None]
) -> None:
    recipe, task, row = RUNS[name]
    before = source_runs(recipe, task, row)
    folder = two_steps(recipe, task, row, small(row.options), root, tmp_path / "run", after=before)
    done = folder.read_done()
    assert done is not None and done["selected"]["last"]["step"] == steps(row)
    assert folder.training_rows()[-1]["step"] == steps(row)


# Of equal rows the first; GSDA's discriminators depend on the classes.
NETWORKS = {
    (*kind(row), task.partition(":")[0] if row.method == "gsda" else ""): name
    for name, (_, task, row) in reversed(RUNS.items())
}

# Parameters of each backbone, static and with batch normalisation (torchvision's ResNets without `fc`).
SIZES = {
    "lenet-small": 263_840,
    "lenet-m3sda": 31_785_408,
    "lenet-gam": 426_070,
    "dtn": 3_128_832,
    "resnet-small": 1_226_400,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
}


@pytest.mark.parametrize("name", NETWORKS.values())
def test_every_row_of_every_recipe_has_a_whole_network(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, task, row = RUNS[name]
    after = None if row.follows is None else tmp_path / "other"
    config = recipe.config(task, row, 0, out=tmp_path / "run", data_root=root, device="cpu", after=after)
    domains = loading.load_domains(config)
    num_classes = domains.num_classes
    divided = GSDAConfig.hierarchy

    def hierarchy(options: GSDAConfig, count: int) -> Hierarchy:
        # A division that is drawn at random has to be looked at.
        with torch.device("cpu"):
            return divided(options, count)

    monkeypatch.setattr(GSDAConfig, "hierarchy", hierarchy)
    with torch.device("meta"), weights_left_out():
        method = METHODS[row.method].for_task(row.options, num_classes, len(domains.sources))
        groups = [group for each in method.optimisers().values() for group in each.param_groups]
    parameters = {id(parameter): parameter for parameter in method.parameters()}
    assert {parameter.device.type for parameter in parameters.values()} == {"meta"}
    assert sum(parameter.numel() for parameter in method.features.parameters()) >= SIZES[row.options.backbone]
    assert {id(parameter) for group in groups for parameter in group["params"]} == parameters.keys()
    assert [head.out_features for head in method.heads] == [num_classes] * len(method.heads)


# Of recipes with the same last task, whose data are read, and metric the first.
TABLES = {(list(recipe.tasks)[-1], recipe.metric): name for name, recipe in reversed(RECIPES.items())}


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("name", TABLES.values())
def test_a_run_gives_a_line_of_its_recipes_table(name: str, root: Path, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    # Of those that follow no other; for these see FOLLOWING and `source_runs`. A bound sees no source.
    rows = [row for row in recipe.rows if row.follows is None and row.method != "target-only"]
    task, row = list(recipe.tasks)[-1], rows[-1]
    check_line(recipe, task, row, two_steps(recipe, task, row, small(row.options), root, tmp_path / "run"))


FOLLOWING = {
    f"{recipe.name} {row.label}": (recipe, row)
    for recipe in RECIPES.values()
    for row in recipe.rows
    if row.after is not None
}


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("name", FOLLOWING)
def test_a_row_learns_the_pseudo_labels_of_the_row_that_it_follows(name: str, root: Path, tmp_path: Path) -> None:
    recipe, row = FOLLOWING[name]
    task = next(iter(recipe.tasks))
    first = next(each for each in recipe.rows if each.label == row.after)
    before = two_steps(recipe, task, first, first.options, root, tmp_path / "first")
    # The paper's 0.8 is the recipe's default; after two steps no network is that sure of one of 345 classes.
    folder = two_steps(
        recipe, task, row, row.options, root, tmp_path / "second", after=before.path, pseudo_confidence=0.001
    )
    check_line(recipe, task, row, folder)
    assert folder.pseudo_labels.exists() and not before.pseudo_labels.exists()


def test_every_row_of_every_recipe_is_among_them() -> None:
    every = {kind(row) for recipe in RECIPES.values() for row in recipe.rows}
    assert {kind(row) for _, _, row in RUNS.values()} == {key[:2] for key in NETWORKS} == every


@pytest.mark.parametrize("name", {tuple(recipe.tasks): name for name, recipe in RECIPES.items()}.values())
def test_the_data_of_every_task_are_found_in_their_publishers_layout(name: str, root: Path) -> None:
    seen: set[tuple[str, str]] = set()
    for task in RECIPES[name].tasks:
        sources, goal, variant = parse_spec(task)
        domains = {(domain, variant) for domain in (*sources, goal)}
        # Found, and not decoded; of DomainNet's 30 pairs so many that each domain was read.
        if not task.startswith("embedded:") and not domains <= seen:
            assert load_protocol(task, data_root=root, cache_dir=root / "cache", image_size=8, cache="none").sources
        seen |= domains


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsda-ablation + synchronisation", "gsda-visda GSDA", "drt-domainnet combination"])
def test_whole_networks_train(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, task, row = RUNS[name]

    def random_state(backbone: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return {"resnet50": torchvision.models.resnet50, "resnet101": torchvision.models.resnet101}[
            backbone
        ]().state_dict()

    monkeypatch.setattr(network, "imagenet_state", random_state)
    check_line(recipe, task, row, two_steps(recipe, task, row, row.options, root, tmp_path / "run"))

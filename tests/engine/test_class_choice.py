from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dynconv.data import DataError
from dynconv.data.class_choice import ClassChoice
from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.loaded_run import dump, load_run
from dynconv.engine.measure import measure_run
from dynconv.engine.options import parse_train
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import train
from dynconv.methods import METHODS


@pytest.fixture
def other(domains: Path, tmp_path: Path) -> Path:
    """A domain that lacks class2 and has a class of its own."""
    shutil.copytree(domains / "two" / "class0", tmp_path / "other" / "class0")
    shutil.copytree(domains / "two" / "class1", tmp_path / "other" / "class1")
    shutil.copytree(domains / "two" / "class2", tmp_path / "other" / "strange")
    return tmp_path / "other"


@pytest.fixture
def lacking(other: Path) -> Path:
    """A domain that lacks class2."""
    shutil.rmtree(other / "strange")
    return other


def run(place: Path, source: Path, target: Path, classes: ClassChoice) -> Path:
    options = RunOptions(
        source=(f"one={source}",),
        target=f"other={target}",
        classes=classes,
        out=place / f"run-{classes}",
        max_steps=2,
        eval_every=2,
        batch_size=8,
        device="cpu",
    )
    config = TrainConfig("source-only", options, METHODS["source-only"].config_class(lr=1e-3))
    return train(config, console=Console(quiet=True)).path


def test_a_run_on_the_common_classes_is_opened_and_measured_with_them(
    domains: Path, other: Path, tmp_path: Path
) -> None:
    path = run(tmp_path, domains / "one", other, "common")
    loaded = load_run(path, device="cpu")
    assert loaded.classes == ("class0", "class1")
    protocol, _ = loaded.domains()
    assert protocol.counts()["other"] == {"train": 40, "test": 40}
    assert protocol.target.test is not None
    assert dump(loaded, protocol.target.test).scores.shape == (40, 2)
    assert load_config(loaded.folder.config).run.classes == "common"
    last = loaded.folder.read_done()["selected"]["last"]
    again = measure_run(path, device="cpu")
    assert again["target-test/other/accuracy"] == last["target-test/other/accuracy"]
    apart = measure_run(path, domain=f"new={other}", device="cpu")
    assert apart["test/new/accuracy"] == last["target-test/other/accuracy"]


def test_a_run_with_a_partial_target_knows_all_classes(domains: Path, lacking: Path, tmp_path: Path) -> None:
    path = run(tmp_path, domains / "one", lacking, "partial")
    loaded = load_run(path, device="cpu")
    assert loaded.classes == ("class0", "class1", "class2")
    protocol, _ = loaded.domains()
    assert protocol.partial == (0, 1)
    assert torch.bincount(protocol.target.train.labels, minlength=3).tolist() == [20, 20, 0]
    measured = measure_run(path, domain=f"two={domains / 'two'}", device="cpu")
    assert "test/two/accuracy-of-class2" in measured
    (lacking / "strange").mkdir()
    shutil.copy(next((lacking / "class0").iterdir()), lacking / "strange")
    with pytest.raises(DataError, match="does not know: strange"):
        measure_run(path, domain=f"new={lacking}", device="cpu")


def test_differing_classes_stop_a_run_before_it_writes(domains: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--classes common takes the 2"):
        run(tmp_path, domains / "one", other, "same")
    assert not (tmp_path / "run-same").exists()


def test_the_choice_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    own = {"source": ("a=x",), "target": "b=y"}
    method = METHODS["source-only"].config_class()
    same, common = (
        TrainConfig("source-only", RunOptions(**own, classes=choice), method) for choice in ("same", "common")
    )
    assert same.hash == TrainConfig("source-only", RunOptions(**own), method).hash
    assert same.hash != common.hash
    with pytest.raises(
        ValueError, match="--classes common is for own domains .*--protocol mnist-usps has its published"
    ):
        RunOptions(protocol="mnist-usps", classes="common")
    file = tmp_path / "config.yaml"
    file.write_text(common.to_yaml())
    taken = parse_train("source-only", ["--config", str(file)])
    assert taken.run.classes == "common"
    # The protocol of a flag replaces the folders of the file, and the choice that was for them.
    replaced = parse_train("source-only", ["--config", str(file), "--protocol", "mnist-usps"])
    assert replaced.run.classes == "same"

"""The bound: it learns from the target's training labels, is judged on other images, and tables say what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from publishers_files import write_digits
from rich.console import Console

from dynconv.data import DataError, Domain, Protocol, Split, load_protocol
from dynconv.data.arrangements import supervised_by_target
from dynconv.engine.config import TrainConfig
from dynconv.engine.evaluation import split_metrics
from dynconv.engine.loaded_run import load_run
from dynconv.engine.measure import measure_run
from dynconv.engine.runs import survey
from dynconv.engine.train import load_domains, train
from dynconv.methods import METHODS, GAMConfig, SourceOnlyConfig, TargetOnlyConfig
from dynconv.report.collect import find_runs
from dynconv.report.groups import group_runs
from dynconv.report.runs import runs_table
from dynconv.report.table import named

Make = Callable[..., TrainConfig]


@pytest.fixture
def config(make_config: Make, tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(**run: object) -> TrainConfig:
        return make_config(tmp_path / "run", "target-only", TargetOnlyConfig(lr=3e-3), **run)

    return make


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images_at(torch.arange(len(split)))}


def test_its_only_source_is_the_labelled_target_and_no_image_is_trained_on_and_tested_on(
    config: Make, make_config: Make, tmp_path: Path
) -> None:
    protocol = load_domains(config())
    (source,) = protocol.sources
    assert source.name == protocol.target.name == "three"
    assert source.test is None and protocol.target.test is not None
    # 60 images, of each class a fifth for the test.
    assert (len(source.train), len(protocol.target.test)) == (48, 12)
    assert torch.bincount(source.train.labels).tolist() == [16, 16, 16]
    assert torch.equal(source.train.labels, protocol.target.train.labels)
    train_rows, test_rows = rows(source.train), rows(protocol.target.test)
    assert len(train_rows) == 48 and len(test_rows) == 12 and not train_rows & test_rows
    adapted = load_domains(make_config(tmp_path / "other", "source-only"))
    assert [each.name for each in adapted.sources] == ["one", "two"]
    assert rows(adapted.target.train) == train_rows | test_rows
    # The division is the data's, not the run's.
    assert rows(load_domains(config(seed=5)).sources[0].train) == train_rows


def test_a_published_test_split_stays_what_it_is(tmp_path: Path) -> None:
    write_digits(tmp_path)
    options = {"data_root": tmp_path, "image_size": 8, "cache_dir": tmp_path / "cache", "target_limit": 50}
    protocols = [load_protocol("mnist-usps", divide_target=divide, **options) for divide in (False, True)]
    plain, divided = protocols
    assert torch.equal(plain.target.test.labels, divided.target.test.labels)
    # A limit keeps the classes' shares where labels are there to be looked at.
    assert torch.bincount(divided.target.train.labels).tolist() == [5] * 10
    assert torch.bincount(plain.target.train.labels, minlength=10).tolist() != [5] * 10
    (source,) = supervised_by_target(divided).sources
    assert torch.equal(source.train.labels, divided.target.train.labels)


def test_a_target_without_a_test_split_of_its_own_is_refused() -> None:
    split = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    for test in (split, None):
        domain = Domain("t", ("a", "b"), split, test)
        with pytest.raises(DataError, match="t: no test split is left beside the labelled training images"):
            supervised_by_target(Protocol("s-t", (domain,), domain))


def test_options_of_the_sources_are_refused(config: Make, quiet: Console) -> None:
    with pytest.raises(ValueError, match="--source-limit 9: target-only trains on the labelled target alone.*--target"):
        train(config(source_limit=9), console=quiet)
    with pytest.raises(ValueError, match="'adabn' normalises target images in training, and target-only looks at none"):
        TargetOnlyConfig(normalisation_policy="adabn")


def test_a_run_is_trained_measured_opened_and_named_as_a_bound(config: Make, tmp_path: Path) -> None:
    lines: list[str] = []

    class Listening(Console):
        def print(self, *words: object, **_: object) -> None:
            lines.append(" ".join(map(str, words)))

    folder = train(config(max_steps=30, eval_every=30, target_limit=45), console=Listening(quiet=True))
    last = folder.read_done()["selected"]["last"]
    accuracies = {name: value for name, value in last.items() if name.endswith("/accuracy")}
    assert set(accuracies) == {"source-val/three/accuracy", "target-test/three/accuracy"}
    # It learned from labels that no adaptation of ten steps has: a column's brightness tells each class.
    assert accuracies["target-test/three/accuracy"] > 0.9
    found = measure_run(folder.path, device="cpu")
    assert {name: found[name] for name in accuracies} == accuracies
    protocol, (held_out,) = load_run(folder.path, device="cpu").domains()
    assert (len(protocol.sources[0].train), len(held_out), len(protocol.target.train)) == (36, 9, 45)

    label = "target-only [bound: trained on target labels]"
    assert named("target-only") == label and named("mcd") == "mcd"
    assert [group.label for group in group_runs(find_runs([folder.path])[0]).groups] == [label]
    console = Console(width=200, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(runs_table(survey(tmp_path), tmp_path))
    assert "bound: trained on target labels" in " ".join(captured.get().split())
    assert any(
        "target-only is a bound: it trains on the labels of three and looks at no source" in each for each in lines
    )


def few(make_config: Make, out: Path, count: int, checkpoint: str = "", **run: object) -> TrainConfig:
    return make_config(
        out, "target-only", TargetOnlyConfig(lr=3e-3, labelled_images=count, source_checkpoint=checkpoint), **run
    )


def test_a_few_labelled_images_are_the_same_for_every_seed_and_all_that_is_trained_on(
    make_config: Make, tmp_path: Path, quiet: Console
) -> None:
    folders = [train(few(make_config, tmp_path / f"{seed}", 6, seed=seed), console=quiet) for seed in (0, 1)]
    loaded = [load_run(folder.path, device="cpu").domains() for folder in folders]
    one, two = ((rows(protocol.sources[0].train), rows(held)) for protocol, (held,) in loaded)
    assert len(one[0]) == 6 and one[0] == two[0] and one[1] != two[1]
    # 48 are labelled; of the 42 others a fifth of all is held out.
    assert len(one[1]) == len(two[1]) == 9 and not one[0] & one[1]
    protocol = loaded[0][0]
    assert torch.bincount(protocol.sources[0].train.labels).tolist() == [2, 2, 2]
    assert len(protocol.target.train) == 48 and not rows(protocol.target.test) & (one[0] | one[1])
    last = folders[0].read_done()["selected"]["last"]
    found = measure_run(folders[0].path, device="cpu")
    assert {name: found[name] for name in last if "/accuracy" in name} == {
        name: value for name, value in last.items() if "/accuracy" in name
    }
    for count in (1, 48):
        with pytest.raises(ValueError, match=f"labelled_images {count}: three has 48 labelled training images"):
            train(few(make_config, tmp_path / "none", count), console=quiet)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("method", ["source-only", "gam"])
def test_fine_tuning_goes_on_from_what_the_other_run_made_of_the_target(
    method: str, make_config: Make, tmp_path: Path, quiet: Console
) -> None:
    options = {
        "source-only": SourceOnlyConfig(lr=3e-3),
        "gam": GAMConfig(discriminator_steps=0, hidden_features=8, pretrain=0.5),
    }[method]
    start = train(make_config(tmp_path / "start", method, options), console=quiet)
    tuned = train(few(make_config, tmp_path / "tuned", 6, str(start.last), max_steps=4), console=quiet)
    # Before its first step it judges test images as the run that it starts from judges them: theirs are all images.
    protocol = load_run(tuned.path, device="cpu").domains()[0]
    opened = load_run(start.path, device="cpu")
    found = split_metrics(
        opened.method, "target-test/three", protocol.target.test, opened.classes, opened.scoring, by_class=False
    )
    first, *_, last = tuned.rows()
    assert first["step"] == 0 and first["target-test/three/accuracy"] == found["target-test/three/accuracy"]
    assert last["step"] == 4 and first["target-train/three/entropy"] != last["target-train/three/entropy"]
    # Opened again without the checkpoint that it began with.
    start.last.unlink()
    assert measure_run(tuned.path, device="cpu")["target-test/three/accuracy"] == last["target-test/three/accuracy"]


def test_a_run_that_learnt_the_targets_labels_is_no_start(make_config: Make, tmp_path: Path, quiet: Console) -> None:
    turned = make_config(tmp_path / "start", "source-only", SourceOnlyConfig())
    turned = dataclasses.replace(
        turned, run=dataclasses.replace(turned.run, source=(turned.run.target,), target=turned.run.source[0])
    )
    start = train(turned, console=quiet)
    with pytest.raises(ValueError, match="that run has seen its labels"):
        train(few(make_config, tmp_path / "tuned", 6, str(start.last)), console=quiet)
    bound = train(few(make_config, tmp_path / "bound", 6), console=quiet)
    with pytest.raises(ValueError, match="is of a run of target-only, which has seen the target's labels"):
        train(few(make_config, tmp_path / "tuned", 6, str(bound.last)), console=quiet)


def test_no_other_method_trains_on_the_targets_labels() -> None:
    assert [name for name, kind in METHODS.items() if kind.supervised_by_target] == ["target-only"]
    assert dataclasses.asdict(TargetOnlyConfig())["normalisation_policy"] == "source-only"

"""Runs whose networks label every pixel, from the first step to what is measured afterwards."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from publishers_scenes import write_camvid
from rich.console import Console
from same_run import whole_and_stopped
from scenes import write_day_and_dusk
from tiny_scenes import use_tiny
from torch import Tensor

from dynconv.data import DataError, source_validation_split
from dynconv.data.files import Decoding
from dynconv.data.scenes.label_maps import CAMVID_11
from dynconv.data.scenes.listing import list_own
from dynconv.data.scenes.split import SceneFiles, SceneSplit
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import load_run
from dynconv.engine.loading import load_domains
from dynconv.engine.measure import measure_run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.scoring import Scoring, evaluating
from dynconv.engine.segmentation import SceneScoring, SegmentationEvaluation, _places, scene_metrics
from dynconv.engine.train import train
from dynconv.methods import SourceOnlyConfig, TargetOnlyConfig
from dynconv.metrics import NonFiniteError, segmentation
from dynconv.models import input_of

# What a run on scenes is judged by, of every split.
FIGURES = ("mean-iou", "frequency-weighted-iou", "pixel-accuracy", "class-accuracy")


def config(root: Path, out: Path, **fields: Any) -> TrainConfig:
    options: dict[str, Any] = {"max_steps": 4, "eval_every": 4, "batch_size": 2, "image_size": (24, 32), **fields}
    run = RunOptions(protocol="camvid_day-camvid_dusk", data_root=root, out=out, **options)
    return TrainConfig("source-only", run, SourceOnlyConfig(backbone="erfnet-encoder", lr=1e-2))


@pytest.fixture(scope="module", autouse=True)
def _tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_day_and_dusk(tmp_path_factory.mktemp("scenes"), images=6, size=(24, 32))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(config(root, tmp_path_factory.mktemp("run") / "r", max_steps=40, eval_every=20))


def test_a_run_learns_and_measures_every_split(run: RunFolder) -> None:
    first, *_, last = run.rows()
    for split in ("source-val/camvid_day", "source-test/camvid_day", "target-test/camvid_dusk"):
        assert all(0 <= last[f"{split}/{name}"] <= 1 for name in FIGURES)
    assert last["source-val/camvid_day/pixel-accuracy"] > first["source-val/camvid_day/pixel-accuracy"] + 0.2
    of_classes = [value for name, value in last.items() if name.startswith("target-test/camvid_dusk/iou-of-")]
    assert last["target-test/camvid_dusk/mean-iou"] == pytest.approx(sum(of_classes) / len(of_classes))
    assert not any("accuracy-of" in name or name.endswith("/accuracy") for name in last)
    assert {"entropy", "information-maximisation", "soft-neighbourhood-density", "nuclear-norm"} == {
        name.rpartition("/")[2] for name in last if name.startswith("target-train/")
    }


def test_selection_goes_by_mean_iou(run: RunFolder) -> None:
    rows = [row for row in run.rows() if row["step"]]
    done = run.read_done()
    assert done is not None
    best = max(rows, key=lambda row: row["source-val/camvid_day/mean-iou"])
    assert done["selected"]["source-val"]["step"] == best["step"]


def test_a_resumed_run_is_the_run_that_was_never_stopped(root: Path, tmp_path: Path) -> None:
    fields = {"crop_size": (16, 24), "eval_every": 2}
    whole, _ = whole_and_stopped(lambda name: config(root, tmp_path / name, **fields), 2, Console(quiet=True))
    assert whole.rows()[-1]["step"] == 4


@pytest.mark.parametrize(
    "fields",
    [{"accumulate": 2, "batch_size": 4}, {"precision": "bf16-mixed"}, {"channels_last": False}, {"clip_norm": 0.1}],
)
def test_what_every_run_can_do_a_run_on_scenes_can(root: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    last = train(config(root, tmp_path / "r", max_steps=2, eval_every=2, **fields)).rows()[-1]
    assert 0 < last["target-test/camvid_dusk/mean-iou"] < 1
    assert np.isfinite(last["target-train/camvid_dusk/entropy"])


def test_a_checkpoint_is_measured_as_in_training_and_on_other_scenes(
    run: RunFolder, root: Path, tmp_path: Path
) -> None:
    last = run.rows()[-1]
    measured = measure_run(run.path, device="cpu")
    assert {name: value for name, value in measured.items() if "/" in name and name in last} == {
        name: value for name, value in last.items() if "/" in name
    }
    other = measure_run(run.path, domain=f"night={root / 'camvid_dusk'}", device="cpu")
    for name in FIGURES:
        assert other[f"test/night/{name}"] == last[f"target-test/camvid_dusk/{name}"]
    own = write_camvid(tmp_path / "own", images=2, size=(24, 32))
    (own / "classes.txt").write_text("\n".join(reversed(CAMVID_11)) + "\nvoid\n")
    with pytest.raises(DataError, match="the network has sky, .*they must be the same, in the same order"):
        measure_run(run.path, domain=f"own={own}", device="cpu")


def test_windows_change_label_maps_and_the_files_own_size_alone_does_not(run: RunFolder) -> None:
    loaded = load_run(run.path, device="cpu")
    split = loaded.protocol().sources[0].test
    assert isinstance(split, SceneSplit)

    def judged(**how: Any) -> tuple[Tensor, Tensor]:
        with evaluating(loaded.method):
            pairs = SceneScoring(loaded.scoring, **how).batches(loaded.method, split)
            predictions, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
        return predictions, labels

    whole, labels = judged()
    # The files are as large as the images: the same on another way.
    for same in (judged(full_resolution=True), judged(window=(48, 64))):
        assert torch.equal(same[0], whole) and torch.equal(same[1], labels)
    windowed, _ = judged(window=(16, 16))
    assert windowed.shape == whole.shape
    assert not torch.equal(windowed, whole)


def test_full_resolution_judges_by_the_label_files(tmp_path: Path) -> None:
    root = write_day_and_dusk(tmp_path / "large", images=4, size=(49, 63))
    folder = train(config(root, tmp_path / "r", max_steps=1, eval_every=1, full_resolution=True))
    loaded = load_run(folder.path, device="cpu")
    test = loaded.protocol().target.test
    assert isinstance(test, SceneSplit)
    pairs = list(SceneScoring(loaded.scoring, full_resolution=True).batches(loaded.method, test))
    files = [np.asarray(Image.open(root / "camvid_dusk" / "testannot" / f"{place}.png")) for place in range(4)]
    for (predictions, labels), file in zip(pairs, files, strict=True):
        assert predictions.shape == labels.shape == (1, 49, 63)
        assert np.array_equal(labels[0].numpy(), np.where(file == 11, 255, file))
    figures = segmentation(pairs, CAMVID_11)
    assert folder.rows()[-1]["target-test/camvid_dusk/mean-iou"] == figures.mean_iou


class _Broken(torch.nn.Module):
    """Scores that are not finite in one pixel."""

    def predict(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), len(CAMVID_11), *images.shape[2:])
        scores[0, 3, 5, 5] = float("nan")
        return scores


def test_a_score_that_is_not_finite_is_no_class(run: RunFolder) -> None:
    loaded = load_run(run.path, device="cpu")
    split = loaded.protocol().target.test
    assert isinstance(split, SceneSplit)
    loaded.method.predict = _Broken().predict  # type: ignore[method-assign]  # a network that broke
    with pytest.raises(NonFiniteError):
        scene_metrics(loaded.method, "test/x", split, loaded.classes, SceneScoring(loaded.scoring), by_class=False)


def test_adabn_takes_its_statistics_from_scenes_with_odd_sides(root: Path, tmp_path: Path) -> None:
    own = SourceOnlyConfig(backbone="erfnet-encoder", normalisation_policy="adabn")
    made = config(root, tmp_path / "r", image_size=(30, 37), crop_size=(16, 24), max_steps=1, eval_every=1)
    folder = train(dataclasses.replace(made, options=own))
    assert 0 <= folder.rows()[-1]["target-test/camvid_dusk/mean-iou"] <= 1


def test_scenes_that_a_network_cannot_take_whole_say_what_to_give(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="erfnet-encoder takes multiples of 8: give --crop-size 24 32"):
        train(config(root, tmp_path / "r", image_size=(30, 37)))
    with pytest.raises(ValueError, match="--crop-size 48 64 is larger than the scenes of camvid_day, 24 x 32"):
        train(config(root, tmp_path / "r", crop_size=(48, 64)))


def test_bad_scenes_stop_a_run_by_name_or_are_left_out(tmp_path: Path) -> None:
    root = write_day_and_dusk(tmp_path / "data", images=6, size=(24, 32))
    day = root / "camvid_day"
    label_map = (day / "trainannot" / "1.png").read_bytes()
    (day / "trainannot" / "1.png").unlink()
    with pytest.raises(DataError, match=r"trainannot/1\.png of the image .*1\.png is missing"):
        train(config(root, tmp_path / "missing", cache="none"))
    (day / "trainannot" / "1.png").write_bytes(label_map)
    Image.fromarray(np.full((24, 32, 3), 7, np.uint8)).save(day / "train" / "2.png")
    with pytest.raises(DataError, match=r"2\.png is of one colour"):
        train(config(root, tmp_path / "plain", cache="none"))
    (day / "trainannot" / "1.png").unlink()
    folder = train(config(root, tmp_path / "sound", skip_bad=True, cache="none", max_steps=1, eval_every=1))
    assert folder.skipped.exists()
    skipped = folder.skipped.read_text()
    assert "train/1.png" in skipped and "train/2.png" in skipped and skipped.count("camvid_day") >= 2


def test_cached_scenes_are_the_same_scenes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNCONV_CACHE", str(tmp_path / "cache"))
    crops = {"crop_size": (16, 24), "max_steps": 2, "eval_every": 2}
    rows = [
        train(config(root, tmp_path / cache, cache=cache, **crops)).rows()[-1] for cache in ("memory", "disk", "none")
    ]
    figures = [{name: value for name, value in row.items() if "/" in name} for row in rows]
    assert figures[0] == figures[1] == figures[2]
    assert list((tmp_path / "cache").glob("images-camvid_day-*.bin"))


def test_the_bound_trains_on_the_targets_labels_alone(root: Path, tmp_path: Path) -> None:
    made = config(root, tmp_path / "r", max_steps=1, eval_every=1)
    own = TargetOnlyConfig(backbone="erfnet-encoder")
    folder = train(TrainConfig("target-only", made.run, own))
    names = {name.split("/")[1] for name in folder.rows()[-1] if name.startswith(("source-", "target-"))}
    assert names == {"camvid_dusk"}


def test_a_target_without_labels_is_adapted_to_and_not_judged(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = write_camvid(tmp_path / "own", images=4, size=(24, 32))
    for folder in ("trainannot", "test", "testannot"):
        shutil.rmtree(own / folder)
    made = config(root, tmp_path / "r", max_steps=1, eval_every=1)
    run = dataclasses.replace(made.run, protocol=None, source=(f"day={root / 'camvid_day'}",), target=f"own={own}")
    last = train(dataclasses.replace(made, run=run)).rows()[-1]
    assert not any(name.startswith("target-test/") for name in last)
    assert "source-test/day/mean-iou" in last and "target-train/own/entropy" in last
    # Label maps without a class: nothing is measured, and it is said.
    void = write_camvid(tmp_path / "void", images=4, size=(24, 32))
    for file in (void / "testannot").iterdir():
        Image.fromarray(np.full((24, 32), 11, np.uint8)).save(file)
    run = dataclasses.replace(run, target=f"void={void}", out=tmp_path / "v")
    last = train(dataclasses.replace(made, run=run)).rows()[-1]
    assert not any(name.startswith("target-test/") for name in last)
    assert "target-test/void: none of its pixels has a class" in caplog.text


def test_a_targets_training_labels_are_not_looked_at(tmp_path: Path) -> None:
    root = write_day_and_dusk(tmp_path / "data", images=4, size=(24, 32))
    shutil.rmtree(root / "camvid_dusk" / "trainannot")
    (root / "camvid_dusk" / "trainannot").mkdir()
    folder = train(config(root, tmp_path / "r", max_steps=1, eval_every=1))
    assert "target-test/camvid_dusk/mean-iou" in folder.rows()[-1]
    with pytest.raises(ValueError, match="is missing"):
        own = TargetOnlyConfig(backbone="erfnet-encoder")
        train(TrainConfig("target-only", config(root, tmp_path / "bound", max_steps=1).run, own))


def test_another_domain_is_judged_at_the_size_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    config_of_run = load_run(run.path, device="cpu").config
    assert load_run(run.path, device="cpu").image_size == (24, 32)
    large = write_camvid(tmp_path / "large", images=2, size=(96, 128))
    found = measure_run(run.path, domain=f"large={large}", device="cpu")
    files = SceneFiles("x", list_own("x", large).test or (), list_own("x", large).labels, (24, 32), Decoding(0))
    labelled = int((SceneSplit.of(files).label_maps_at(torch.arange(2)) != 255).sum())
    right = found["test/large/pixel-accuracy"] * labelled
    assert right == pytest.approx(round(right), abs=1e-6)
    assert config_of_run.run.image_size == (24, 32)


def test_at_most_so_many_scenes_are_held_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = load_domains(config(root, Path("r")))
    monkeypatch.setattr(SceneSplit, "most_held_out", 0.3 * len(protocol.sources[0].train))
    assert len(source_validation_split(protocol, 0, fraction=0.5)[1][0]) == 2
    monkeypatch.setattr(SceneSplit, "most_held_out", None)
    assert len(source_validation_split(protocol, 0, fraction=0.5)[1][0]) == 3


def test_validators_look_at_pixels_of_all_scenes(root: Path) -> None:
    seen: list[tuple[int, ...]] = []

    class Method(torch.nn.Module):
        def predict(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            # Each place has another class, so that the mean prediction is even.
            places = torch.arange(images.shape[2] * images.shape[3]).view(images.shape[2:]) % len(CAMVID_11)
            return (
                50
                * torch.nn.functional.one_hot(places, len(CAMVID_11))
                .permute(2, 0, 1)
                .expand(len(images), -1, -1, -1)
                .float()
            )

        def evaluating_domain(self, domain: str) -> torch.no_grad:
            return torch.no_grad()

    protocol = load_domains(config(root, Path("r")))
    scoring = Scoring(torch.device("cpu"), network_input=input_of("erfnet-encoder"))
    evaluation = SegmentationEvaluation(protocol, (protocol.sources[0].train,), scoring)
    found = evaluation._pixel_validators(Method())  # type: ignore[arg-type]  # what it needs of a method
    assert sum(shape[0] for shape in seen) == len(protocol.target.train)
    places = _places(0, 6, 50, 24 * 32)
    assert len(set(places.flatten().tolist())) > 250
    assert torch.equal(places[2:], _places(2, 4, 50, 24 * 32))
    assert found["target-train/camvid_dusk/entropy"] < 1e-6
    assert found["target-train/camvid_dusk/information-maximisation"] == pytest.approx(np.log(11), abs=0.05)

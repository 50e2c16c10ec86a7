"""`dynconv predict` of a run of segmentation."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.nn.functional import interpolate

from dynconv import cli
from dynconv.data import normalise
from dynconv.data.scenes.label_maps import CAMVID_11, palette_of
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.options import PredictOptions
from dynconv.engine.predict_scenes import predict_scenes

Capture = pytest.CaptureFixture[str]
CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def loaded(scene_run: Path) -> LoadedRun:
    return load_run(scene_run, device="cpu")


@pytest.fixture
def images(scene_run: Path, tmp_path: Path) -> Path:
    """Scenes of two sizes in folders, and a file that is none."""
    folder = tmp_path / "images"
    (folder / "a b").mkdir(parents=True)
    scene = Image.open(scene_run.parents[1] / "camvid_dusk" / "test" / "0.png")
    scene.save(folder / "one.png")
    scene.resize((51, 37)).save(folder / "a b" / "two.jpg")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def test_each_image_gets_a_label_map_of_its_size_and_unreadable_ones_are_told(
    scene_run: Path, loaded: LoadedRun, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "maps"
    capsys.readouterr()
    assert cli.main(["predict", str(scene_run), str(images), "--out", str(out), *CPU]) == 2
    assert "1 of 3 images could not be read: they have no label map" in capsys.readouterr().err
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "a b/two.png",
        "one.png",
        "predictions.json",
    ]
    facts = json.loads((out / "predictions.json").read_text())
    assert tuple(facts["classes"]) == CAMVID_11 and facts["image_size"] == [24, 32]
    assert [each["image"] for each in facts["images"]] == ["a b/two.jpg", "bad.png", "one.png"]
    assert "bad.png" in facts["images"][1]["error"] and facts["images"][0]["label_map"] == "a b/two.png"
    for name, file in (("one.png", "one.png"), ("a b/two.jpg", "a b/two.png")):
        picture = torch.from_numpy(np.array(Image.open(images / name))).permute(2, 0, 1)[None]
        small = interpolate(picture, (24, 32), mode="bilinear", antialias=True) if name != "one.png" else picture
        with torch.no_grad():
            scores = loaded.method.predict(normalise(small, normalisation=loaded.scoring.network_input.normalisation))
        whole = interpolate(scores, tuple(picture.shape[2:]), mode="bilinear", align_corners=False)
        label_map = Image.open(out / file)
        assert label_map.mode == "P"
        expected = torch.from_numpy(np.array(label_map)).long()
        # Of scores that are equal but for rounding either is right.
        assert (whole.argmax(dim=1)[0] == expected).float().mean() > 0.995
        palette = label_map.getpalette()
        assert palette is not None
        assert palette[: 3 * len(CAMVID_11)] == [part for colour in palette_of(CAMVID_11) for part in colour]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": Path("table.csv")}, "--out table.csv: the run is of segmentation, and each image gets a label map"),
        ({"out": Path("-")}, "give a folder for them, not a file"),
        ({"out": Path("maps"), "top": 2}, "--top 2: the run is of segmentation"),
        ({"out": Path("maps"), "batch_size": 2}, "--batch-size 2: the run is of segmentation"),
        ({"out": Path("images/maps")}, "the label maps would be images of the next call"),
    ],
)
def test_options_of_classification_are_refused_with_words(
    loaded: LoadedRun, images: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    with pytest.raises(ValueError, match=re.escape(message)):
        predict_scenes(loaded, PredictOptions(loaded.folder.path, Path("images"), **options))
    assert [path.name for path in images.parent.iterdir()] == ["images"]


def test_two_images_never_share_a_label_map_and_none_is_written_elsewhere(
    loaded: LoadedRun, images: Path, tmp_path: Path
) -> None:
    shutil.copy(images / "one.png", images / "one.jpg")
    options = PredictOptions(loaded.folder.path, images, tmp_path / "maps")
    with pytest.raises(ValueError, match=r"one.jpg and one.png would both get the label map one.png"):
        predict_scenes(loaded, options)
    listed = images / "list.txt"
    listed.write_text(f"{images / 'one.png'}\n")
    with pytest.raises(ValueError, match="lies outside of the list's own folder"):
        predict_scenes(loaded, dataclasses.replace(options, images=listed))


@pytest.mark.parametrize("place", ["list.txt", "one.png", "."])
def test_no_label_map_takes_the_place_of_an_image_that_is_read(
    loaded: LoadedRun, images: Path, tmp_path: Path, place: str
) -> None:
    (images / "list.txt").write_text("one.png\n")
    # By whatever way one comes there.
    (tmp_path / "link").symlink_to(images)
    before = (images / "one.png").read_bytes()
    for out in (images, tmp_path / "link"):
        with pytest.raises(ValueError, match=r"written over .*one.png, which is read|images of the next call"):
            predict_scenes(loaded, PredictOptions(loaded.folder.path, images / place, out))
    assert (images / "one.png").read_bytes() == before and not (images / "predictions.json").exists()


def test_what_is_read_through_a_link_stays_as_it_is(loaded: LoadedRun, images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "one.png").symlink_to(images / "one.png")
    shutil.copy(images / "one.png", images / "plain.jpg")
    options = PredictOptions(loaded.folder.path, other / "one.png", images)
    with pytest.raises(ValueError, match=r"written over .*one.png, which is read"):
        predict_scenes(loaded, options)
    # The list of images is read too.
    listed = images / "predictions.json"
    listed.write_text("plain.jpg\n")
    with pytest.raises(ValueError, match=r"written over .*predictions.json, which is read"):
        predict_scenes(loaded, dataclasses.replace(options, images=listed))
    listed.unlink()
    # A label map of an earlier call is no image of this one.
    options = dataclasses.replace(options, images=images / "plain.jpg")
    quiet = Console(quiet=True)
    (images / "plain.png").write_bytes(b"old")
    assert predict_scenes(loaded, options, quiet) == (0, 1)
    assert Image.open(images / "plain.png").size == (32, 24)


def test_the_window_is_the_runs_and_is_told(loaded: LoadedRun, images: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(loaded.config.run, eval_window=(16, 24))
    windowed = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, run=run))
    maps = {}
    for name, each, window in (("whole", loaded, None), ("windows", windowed, [16, 24])):
        options = PredictOptions(loaded.folder.path, images / "one.png", tmp_path / name)
        assert predict_scenes(each, options, Console(quiet=True)) == (0, 1)
        assert json.loads((options.out / "predictions.json").read_text())["eval_window"] == window
        maps[name] = np.array(Image.open(options.out / "one.png"))
    assert not np.array_equal(maps["whole"], maps["windows"])


def test_the_size_that_the_network_sees_is_the_runs_or_has_to_be_given(
    loaded: LoadedRun, images: Path, tmp_path: Path
) -> None:
    unsized = dataclasses.replace(loaded, image_size=None)
    options = PredictOptions(loaded.folder.path, images / "one.png", tmp_path / "maps")
    with pytest.raises(ValueError, match=r"--image-size: .* does not tell the size .* give H W"):
        predict_scenes(unsized, options)
    quiet = Console(quiet=True)
    assert predict_scenes(unsized, dataclasses.replace(options, image_size=(16, 24)), quiet) == (0, 1)
    assert json.loads((options.out / "predictions.json").read_text())["image_size"] == [16, 24]
    assert Image.open(options.out / "one.png").size == (32, 24)

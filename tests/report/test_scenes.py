"""Runs of segmentation in the report, the tables and the figures."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import fails
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from scenes import IGNORED

from dynconv import cli
from dynconv.data.scenes.label_maps import IGNORE
from dynconv.engine.inspect import load_run
from dynconv.methods.adda import ADDA, ADDAConfig
from dynconv.report import scenes
from dynconv.report.kept import load, save
from dynconv.report.scenes import SceneViews, view
from dynconv.report.table import selection_table

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def views(scene_run: Path) -> SceneViews:
    return view(load_run(scene_run, device="cpu"), count=3)


def test_scenes_stand_beside_their_truth_and_what_the_network_makes_of_them(
    scene_run: Path, views: SceneViews, tmp_path: Path
) -> None:
    assert views.heads == ("ground truth", "before: classifier alone", "after: with calibrator")
    assert views.names == ("0.png", "2.png", "3.png") and views.domain == "camvid_dusk" and views.step == 2
    folder = scene_run.parents[1] / "camvid_dusk"
    for place, name in enumerate(views.names):
        assert np.array_equal(views.images[place], np.asarray(Image.open(folder / "test" / name)))
        truth = np.array(Image.open(folder / "testannot" / name))
        truth[truth == IGNORED] = IGNORE
        assert np.array_equal(views.label_maps[0, place], truth)
    loaded = load_run(scene_run, device="cpu")
    method = loaded.method
    before = []
    with torch.no_grad():
        for images in loaded.scoring.images(loaded.domains()[0].target.test.subset(torch.tensor([0, 2, 3]))):
            before.append(method.scores(method.features(images)).argmax(dim=1))
    # Of scores that are equal but for rounding either is right.
    assert (torch.cat(before).numpy() == views.label_maps[1]).mean() > 0.995
    save(views, tmp_path / "x.npz", "stamp")
    again = load(SceneViews, tmp_path / "x.npz", "stamp")
    assert again is not None
    assert all(np.array_equal(getattr(again, name), value) for name, value in vars(views).items())
    assert (again.domain, again.names) == (views.domain, views.names)


def test_before_is_the_sources_encoder_where_the_target_has_its_own(scene_run: Path) -> None:
    loaded = load_run(scene_run, device="cpu")
    options = ADDAConfig(backbone="erfnet-encoder")
    own = dataclasses.replace(loaded, method=ADDA(options, 11))
    assert [(way.head, way.domain) for way in scenes._ways(own, "target")] == [
        ("before: the source's encoder", "source"),
        ("after: the target's encoder", "target"),
    ]
    shared = dataclasses.replace(own, method=ADDA(dataclasses.replace(options, weight_sharing="shared"), 11))
    assert [(way.head, way.domain) for way in scenes._ways(shared, "source")] == [("prediction", "source")]


def test_a_report_shows_mean_iou_all_measures_scenes_and_classes(scene_run: Path, tmp_path: Path) -> None:
    assert cli.main(["report", str(scene_run), "--out", str(tmp_path), "--device", "cpu"]) == 0
    text = (tmp_path / "report.md").read_text()
    for title in (
        "**Target mean IoU**",
        "**Source mean IoU before and after**",
        "**Measures of segmentation**",
        "**IoU of each class**",
        "**Scenes**",
    ):
        assert title in text
    assert "| mean IoU | frequency-weighted IoU | pixel accuracy | class accuracy |" in text
    assert "Columns: the image, ground truth, before: classifier alone, after: with calibrator" in text
    assert "t-SNE" not in text and "accuracy in %" not in text.lower()
    rows = [json.loads(line) for line in (scene_run / "results.jsonl").read_text().splitlines()]
    # Before: the classifier as its own pre-training, the first step, left it.
    pair = [f"{100 * row['source-test/camvid_day/pixel-accuracy']:.1f}" for row in rows[1:]]
    (line,) = [line for line in text.splitlines() if line.startswith("| calibrator") and "| source |" in line]
    assert line.split(" | ")[5].startswith(" → ".join(pair))
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"calibrator-scenes.png", "calibrator-class-iou.png", "class-iou-0.png", "trade-off.png"} <= names


def test_the_selection_has_every_measure_of_every_split(scene_run: Path) -> None:
    from dynconv.engine.run_folder import RunFolder

    shown = io.StringIO()
    Console(width=100, file=shown).print(selection_table(RunFolder(scene_run)))
    lines = [[cell.strip() for cell in line.strip("│\n").split("│")] for line in shown.getvalue().splitlines()]
    heads = [cells[0] for cells in lines]
    start = heads.index("target-test/camvid_dusk")
    assert heads[start + 1 : start + 5] == ["mean IoU", "frequency-weighted IoU", "pixel accuracy", "class accuracy"]
    rows = [json.loads(line) for line in (scene_run / "results.jsonl").read_text().splitlines()]
    assert lines[start + 3][2] == f"{100 * rows[-1]['target-test/camvid_dusk/pixel-accuracy']:.1f}"
    assert "accuracy in %" not in shown.getvalue()


def test_eval_prints_measures_and_classes_and_lists_of_runs_say_what_their_figures_are(
    scene_run: Path, capsys: Capture
) -> None:
    words = ["eval", str(scene_run), "--device", "cpu"]
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (pixel,) = [line for line in lines if line.startswith("│ target-test/camvid_dusk ")]
    assert f"{100 * found['target-test/camvid_dusk/pixel-accuracy']:.1f}" in pixel
    assert any(line.startswith("│ road ") for line in lines) and any("information-max" in line for line in lines)
    assert cli.main(["runs", str(scene_run.parent)]) == 0
    assert "mean IoU in %" in capsys.readouterr().out
    assert cli.main(["runs", str(scene_run.parent), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["metric"] == "mean-iou"


def test_figures_of_whole_images_refuse_label_maps_with_words(scene_run: Path, tmp_path: Path, capsys: Capture) -> None:
    run, out = str(scene_run), ["--out", str(tmp_path / "x.png")]
    for words in (["predictions", run], ["stream", run], ["coefficients", run]):
        message = fails(capsys, "plot", *words, *out, "--device", "cpu")
        assert f"plot {words[0]} is for networks that give an image one class, and erfnet-encoder labels" in message
    message = fails(capsys, "plot", "degradation", run, "--oracles", run, *out)
    assert "compares accuracies, and erfnet-encoder labels every pixel" in message
    assert not list(tmp_path.iterdir())


def test_scenes_spectra_and_mean_iou_over_epsilon_are_drawn(
    scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: Any, **kwargs: Any) -> None:
        drawn.extend(text for axis in figure.axes for text in (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()))
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    words = [str(scene_run), "--out", str(tmp_path / "x.png")]
    assert cli.main(["plot", "scenes", *words, "--device", "cpu", "--side", "source", "--images", "2"]) == 0
    assert {"ground truth", "before: classifier alone", "0.png", "3.png"} <= set(drawn)
    assert cli.main(["plot", "spectra", *words, "--device", "cpu", "--images", "2", "--samples", "1"]) == 0
    assert cli.main(["plot", "epsilon", *words]) == 0
    assert "test mean IoU, %" in drawn

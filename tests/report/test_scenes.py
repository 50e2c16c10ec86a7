"""Runs of segmentation in the report, the tables and the figures."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fails
from PIL import Image
from publishers_scenes import IGNORED
from rich.console import Console, Group
from rich.table import Table

from dynconv import cli
from dynconv.data.scenes.label_maps import IGNORE
from dynconv.engine import inspect
from dynconv.engine.inspect import LoadedRun, load_run
from dynconv.engine.measure import measure_run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.runs import survey
from dynconv.methods.adda import ADDA, ADDAConfig
from dynconv.plots.trade_off import trade_off_figure
from dynconv.report import calibrated, scenes
from dynconv.report.calibrated import open_calibrated
from dynconv.report.collect import readable_runs
from dynconv.report.epsilon import epsilon_lines, epsilon_table
from dynconv.report.kept import load, save
from dynconv.report.runs import runs_table
from dynconv.report.scenes import SceneViews, view
from dynconv.report.spectra import measure_spectra
from dynconv.report.table import metric_table, selection_table
from dynconv.report.trade_off import measure_as_target, trade_off_table, trade_offs

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def loaded(scene_run: Path) -> LoadedRun:
    return load_run(scene_run, device="cpu")


@pytest.fixture(scope="module")
def views(loaded: LoadedRun) -> SceneViews:
    return view(loaded, count=3)


def test_scenes_stand_beside_their_truth_and_what_the_network_makes_of_them(
    scene_run: Path, loaded: LoadedRun, views: SceneViews, tmp_path: Path
) -> None:
    assert views.heads == ("ground truth", "before: classifier alone", "after: with calibrator")
    assert views.names == ("0.png", "2.png", "3.png") and views.domain == "camvid_dusk" and views.step == 2
    folder = scene_run.parents[1] / "camvid_dusk"
    for place, name in enumerate(views.names):
        assert np.array_equal(views.images[place], np.asarray(Image.open(folder / "test" / name)))
        truth = np.array(Image.open(folder / "testannot" / name))
        truth[truth == IGNORED] = IGNORE
        assert np.array_equal(views.label_maps[0, place], truth)
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


def test_before_is_the_sources_encoder_where_the_target_has_its_own(loaded: LoadedRun) -> None:
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


def shown(table: Table | Group) -> list[list[str]]:
    """The cells of each line that is printed in 80 columns."""
    text = io.StringIO()
    Console(width=80, file=text).print(table)
    return [[cell.strip() for cell in line.strip("│\n").split("│")] for line in text.getvalue().splitlines()]


def test_the_selection_has_every_measure_of_every_split(scene_run: Path) -> None:
    lines = shown(selection_table(RunFolder(scene_run)))
    heads = [cells[0] for cells in lines]
    start = heads.index("source-test/camvid_day")
    assert heads[start + 1 : start + 5] == ["mean IoU", "frequency-weighted IoU", "pixel accuracy", "class accuracy"]
    last = json.loads((scene_run / "results.jsonl").read_text().splitlines()[-1])
    assert lines[start + 3][2] == f"{100 * last['source-test/camvid_day/pixel-accuracy']:.1f}" != "0.0"
    assert not any("accuracy in %" in head for head in heads)


def test_an_evaluation_is_a_table_of_measures_and_one_of_classes(scene_run: Path) -> None:
    found = measure_run(scene_run, device="cpu")
    lines = {cells[0]: cells[1:] for cells in shown(metric_table(found))}
    names = ("mean-iou", "frequency-weighted-iou", "pixel-accuracy", "class-accuracy")
    expected = [f"{100 * found[f'source-test/camvid_day/{name}']:.1f}" for name in names]
    assert lines["source-test/camvid_day"] == expected != ["0.0"] * 4
    ious = {label: value for name, value in found.items() if (label := name.partition("/iou-of-")[2])}
    assert len(ious) > 3 and all(lines[label] == [f"{100 * value:.1f}"] for label, value in ious.items())
    assert float(lines["target-train/camvid_dusk/entropy"][0]) > 0


def test_a_list_of_runs_says_what_their_figures_are(scene_run: Path) -> None:
    found = survey(scene_run.parent)
    assert [run.metric for run in found] == ["mean-iou"]
    words = " ".join(" ".join(cells) for cells in shown(runs_table(found, scene_run.parent)))
    assert "mean IoU in %; source-val" in words


def test_figures_of_whole_images_refuse_label_maps_with_words(
    scene_run: Path, loaded: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for module in (inspect, calibrated):
        monkeypatch.setattr(module, "load_run", lambda *_args, **_options: loaded)
    run, out = str(scene_run), ["--out", str(tmp_path / "x.png")]
    for words in (["predictions"], ["perturbation"], ["epsilon", "--sweep"], ["stream"], ["coefficients"]):
        message = fails(capsys, "plot", words[0], run, *words[1:], *out, "--device", "cpu")
        assert f"plot {' '.join(words)} is for networks that give an image one class, and erfnet-encoder" in message
    message = fails(capsys, "plot", "degradation", run, "--oracles", run, *out)
    assert "compares accuracies, and erfnet-encoder labels every pixel" in message
    assert not list(tmp_path.iterdir())


def test_the_command_draws_scenes_of_either_side(
    scene_run: Path, loaded: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "load_run", lambda *_args, **_options: loaded)
    out = tmp_path / "x.png"
    assert cli.main(["plot", "scenes", str(scene_run), "--out", str(out), "--side", "source", "--images", "2"]) == 0
    with Image.open(out) as picture:
        assert picture.width > 3 * picture.height / 2
    source = view(loaded, side="source", count=2)
    assert (source.domain, source.names) == ("camvid_day", ("0.png", "3.png"))


def test_other_figures_say_that_they_show_mean_iou(scene_run: Path) -> None:
    runs = readable_runs([scene_run], "RUN")
    (line,) = epsilon_lines(runs, "last")
    assert str(epsilon_table([line]).title).startswith("Test mean IoU over")
    (traded,) = trade_offs(runs, "last", None)
    assert str(trade_off_table([traded]).title) == "Source and target test mean IoU before and after adaptation"
    axis = trade_off_figure([traded.change()], "mean IoU").axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("source test mean IoU, %", "target test mean IoU, %")
    last = json.loads((scene_run / "results.jsonl").read_text().splitlines()[-1])
    expected = pytest.approx(100 * last["source-test/camvid_day/mean-iou"])
    assert traded.after[0][0] == expected != 0
    # Of a calibrator it is the same network.
    assert measure_as_target(runs[0], "last", device="cpu", data_root=None) == expected


def test_spectra_are_of_scenes_too(scene_run: Path) -> None:
    run = open_calibrated(scene_run, device="cpu")
    before, after = measure_spectra(run, run.parts(2)[1], radius=0.25, samples=1)
    assert before.samples.shape == after.samples.shape == (1, 3, 24, 32)
    assert not torch.equal(before.samples, after.samples)
    assert before.shares.isfinite().all() and before.spectrum.shape == (24, 32)

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
from publishers_scenes import IGNORED
from rich.console import Console, Group
from rich.table import Table

from dynconv import cli
from dynconv.data.scenes.label_maps import IGNORE
from dynconv.engine import loaded_run
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.measure import measure_run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.runs import survey
from dynconv.methods.adda import ADDA, ADDAConfig
from dynconv.models import DomainName
from dynconv.plots.palette import save_png
from dynconv.plots.trade_off import trade_off_figure
from dynconv.report.before import STEP_0, Before
from dynconv.report.collect import readable_runs
from dynconv.report.figures import calibrated, scenes
from dynconv.report.figures.calibrated import open_calibrated
from dynconv.report.figures.epsilon import epsilon_lines, epsilon_table
from dynconv.report.figures.scenes import SceneViews, view
from dynconv.report.figures.spectra import measure_spectra
from dynconv.report.figures.trade_off import measure_as_target, trade_off_table, trade_offs
from dynconv.report.groups import group_runs
from dynconv.report.page import run_figures
from dynconv.report.page.cache import load, save
from dynconv.report.page.run_figures import class_iou_bars, class_iou_figures
from dynconv.report.runs import runs_table
from dynconv.report.spread import class_order
from dynconv.report.table import metric_table, selection_table

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
    split = loaded.domains()[0].target.test
    assert split is not None
    before = []
    with torch.no_grad():
        for images in loaded.scoring.images(split.subset(torch.tensor([0, 2, 3]))):
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
    torch.manual_seed(0)
    method = ADDA(options, 11)
    own = dataclasses.replace(loaded, method=method)
    assert method.encoders is not None
    with torch.no_grad():
        # As they begin, two equal ones that give every pixel one class.
        for parameter in method.encoders.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    found = view(own, count=2)
    assert found.heads == ("ground truth", "before: the source's encoder", "after: the target's encoder")
    split = own.domains()[0].target.test
    assert split is not None
    (images,) = own.scoring.images(split.subset(torch.tensor([0, 3])))
    columns: dict[DomainName, np.ndarray[Any, Any]] = {"source": found.label_maps[1], "target": found.label_maps[2]}
    for domain, drawn in columns.items():
        with torch.no_grad(), method.evaluating_domain(domain):
            expected = method.eval().predict(images).argmax(dim=1).numpy()
        # Of scores that are equal but for rounding either is right.
        assert (drawn == expected).mean() > 0.995
    assert (columns["source"] == columns["target"]).mean() < 0.9
    shared = dataclasses.replace(own, method=ADDA(dataclasses.replace(options, weight_sharing="shared"), 11))
    assert view(shared, side="source", count=1).heads == ("ground truth", "prediction")


def test_large_scenes_are_kept_as_they_are_drawn(
    loaded: LoadedRun, views: SceneViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "DRAWN", 16)
    found = view(loaded, count=3)
    assert found.images.shape == (3, 12, 16, 3) and found.label_maps.shape == (3, 3, 12, 16)
    whole = torch.from_numpy(views.images).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(whole, (12, 16), mode="bilinear", antialias=True)
    assert np.array_equal(found.images, expected.permute(0, 2, 3, 1).numpy())
    # A pixel of those that each stands for, and none in between.
    blocks = views.label_maps.reshape(3, 3, 12, 2, 16, 2)
    assert (blocks == found.label_maps[:, :, :, None, :, None]).any(axis=(3, 5)).all()


def test_classes_stand_in_the_runs_order_with_its_own_mean(
    scene_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = readable_runs([scene_run], "RUN")
    rows = [{"step": 0, **ious(sky=0.5, car=0.25)}, {"step": 1, **ious(road=0.5, sky=0.5, sofa=0.0, car=0.5)}]
    rows[1]["target-test/b/mean-iou"] = 0.3
    rows[0]["target-test/b/mean-iou"] = 0.2
    made = dataclasses.replace(run, rows=tuple(rows), done={"selected": {"last": rows[1]}})
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        save_png(figure, path)

    monkeypatch.setattr(run_figures, "save_png", keep)
    class_iou_bars(made, Before(rows[0], STEP_0, run.name), tmp_path / "x.png", rule="last")
    assert [each.path for each in class_iou_figures(group_runs([made]), "last", tmp_path)]
    for figure in drawn:
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["road", "sky", "sofa", "car"]
    texts = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in drawn]
    assert texts == [["before (step 0): mean 20.0", "after (last): mean 30.0"], ["calibrator: mean 30.0"]]
    assert class_order([ious(a=1, d=1), ious(b=1, c=1, d=1), ious(a=1, b=1, d=1)]) == ["a", "b", "c", "d"]


def ious(**of_classes: float) -> dict[str, float]:
    return {f"target-test/b/iou-of-{label}": value for label, value in of_classes.items()}


def test_a_report_shows_mean_iou_all_measures_scenes_and_classes(
    scene_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert cli.main(["report", str(scene_run), "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert "run 1 of 1: scenes of calibrator" in capsys.readouterr().err
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
    for module in (loaded_run, calibrated):
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
    monkeypatch.setattr(loaded_run, "load_run", lambda *_args, **_options: loaded)
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

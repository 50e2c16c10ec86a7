"""Figures of one calibrator's run, with classifiers and calibrators whose every answer is known."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import fails
from known_calibrators import Shift, known_run, split_of
from torch import Tensor

from dynconv import cli
from dynconv.data import Domain, Split
from dynconv.methods import METHODS
from dynconv.methods.calibrator import CalibratorConfig, CalibratorMethod
from dynconv.metrics import NonFiniteError
from dynconv.metrics.spectra import high_frequency_share, log_spectra
from dynconv.report.figures import calibrated
from dynconv.report.figures.calibrated import CalibratedRun, Part, open_calibrated
from dynconv.report.figures.perturbation import KINDS, SIGNED, Effect, measure_perturbations
from dynconv.report.figures.prediction_panels import predict_both_ways
from dynconv.report.figures.spectra import measure_spectra, share_of

# Above 127.5 the classifier says bright: it is right about three. Not one is black or white with ADDED more or less.
TARGET = ((60, 0), (100, 1), (110, 1), (120, 0), (160, 1), (190, 0))
ADDED = 50


class KnownShift(Shift):
    def options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}


class Smooth(KnownShift):
    """Leaves each image's mean alone, which has no frequency."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3), keepdim=True) + 0 * images


class Blur(KnownShift):
    """The mean of a pixel and its neighbour to the left, around the edge: nothing of Nyquist's frequency is left."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + images.roll(1, dims=3)) / 2


def known(*, added: int = ADDED, calibrator: Shift | None = None) -> CalibratedRun:
    loaded = known_run("target", TARGET, added)
    assert isinstance(loaded.method, CalibratorMethod)
    loaded.method.calibrated.calibrator = KnownShift(added / 255) if calibrator is None else calibrator
    return CalibratedRun(loaded, loaded.method)


@pytest.fixture
def run() -> CalibratedRun:
    return known()


@pytest.fixture
def opened(run: CalibratedRun, monkeypatch: pytest.MonkeyPatch) -> CalibratedRun:
    """What every command opens."""
    monkeypatch.setattr(calibrated, "load_run", lambda *_, **__: run.loaded)
    return run


def noisy(count: int = 250, side: int = 16) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 2)


def test_images_are_the_bytes_and_the_classifier_sees_them_as_the_pipeline_does() -> None:
    torch.manual_seed(0)
    method = CalibratorMethod(CalibratorConfig(backbone="lenet-small", width=1, blocks=1), 2).eval()
    method.calibrating = True
    loaded = replace(known_run("target", TARGET, ADDED), method=method)
    run, part = CalibratedRun(loaded, method), Part("a", "target", noisy(30, 32))
    seen = [images for images, _ in run.batches(part)]
    torch.testing.assert_close(torch.cat(seen), part.split.images_at(torch.arange(30)) / 255, atol=1e-6, rtol=0)
    predicted = torch.cat([scores for scores, _ in loaded.scoring.batches(method, part.split)])
    with torch.no_grad():
        behind = run.classify(run.calibrate(torch.cat(seen)), "target")
        alone = run.classify(torch.cat(seen), "target")
    torch.testing.assert_close(behind, predicted, atol=1e-5, rtol=0)
    assert (behind - alone).abs().max() > 1e-3
    assert run.described()["calibrator"] == method.calibrator.options() and "ε = 0.4" in run.title()


def test_parts_are_test_images_of_sources_and_target(run: CalibratedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = run.parts()
    assert [(part.name, part.side, len(part.split)) for part in parts] == [
        ("source", "source", 4),
        ("target", "target", 6),
    ]
    # Places 0, 2 (of 2.5) and 5.
    assert run.parts(3)[1].split.labels.tolist() == [0, 1, 0]
    protocol, held_out = run.loaded.domains()
    without = replace(protocol.sources[0], test=None)
    own = replace(protocol, sources=(without,))
    monkeypatch.setattr(type(run.loaded), "domains", lambda _: (own, (split_of(((9, 0),)),)))
    assert len(run.parts()[0].split) == 1, "those held out"
    own = replace(protocol, target=replace(protocol.target, test=None))
    with pytest.raises(ValueError, match="target has no test images with labels"):
        run.parts()
    unlabelled = run.parts(labelled=False)[1]
    assert unlabelled.split is protocol.target.train and unlabelled.kind == "training image"


def test_what_has_no_calibrator_yet_is_refused(
    opened: CalibratedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_calibrated(tmp_path).method is opened.method
    opened.method.calibrating = False
    words = ["--out", str(tmp_path / "x.png")]
    for figure in ("spectra", "predictions", "perturbation"):
        message = fails(capsys, "plot", figure, "RUN", *words)
        assert "its checkpoint last (step 7) is from before the calibrator's first step" in message
    other = METHODS["source-only"]
    method = other.for_task(other.config_class(backbone="lenet-small"), 2, 1).eval()
    config = replace(opened.loaded.config, method="source-only", options=method.config)
    loaded = replace(opened.loaded, method=method, config=config)
    monkeypatch.setattr(calibrated, "load_run", lambda *_, **__: loaded)
    message = fails(capsys, "plot", "predictions", "RUN", *words)
    assert "is a run of source-only, which has no calibrator; give one of `dynconv train calibrator`" in message
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_is_told(run: CalibratedRun) -> None:
    assert isinstance(run.method.calibrator, Shift)
    run.method.calibrator.amount = float("nan")
    with pytest.raises(NonFiniteError, match="calibrated: 768 of 768 are not finite"):
        run.calibrate(torch.zeros(1, 3, 16, 16))
    with pytest.raises(NonFiniteError, match="scores: 2 of 2"):
        run.classify(torch.full((1, 3, 16, 16), torch.nan), "target")


def test_spectra_are_of_every_image_before_and_after() -> None:
    # More images than a chunk holds.
    run, part = known(calibrator=Blur(0.0)), Part("noise", "target", noisy())
    images = part.split.images_at(torch.arange(250)) / 255
    before, after = measure_spectra(run, part, radius=0.3, samples=4)
    torch.testing.assert_close(before.shares, high_frequency_share(images, 0.3), atol=1e-6, rtol=0)
    torch.testing.assert_close(before.spectrum, log_spectra(images).mean(dim=0), atol=1e-4, rtol=0)
    assert (after.shares < before.shares).double().mean() > 0.99
    # Column 0 of a shifted spectrum is Nyquist's frequency across; at values of 255 rounding leaves less than 1.
    assert after.spectrum[:, 0].max() < 0.1 < 5 < before.spectrum[:, 0].min()
    torch.testing.assert_close(before.samples, images[[0, 83, 166, 249]], atol=1e-6, rtol=0)
    torch.testing.assert_close(after.samples, (before.samples + before.samples.roll(1, 3)) / 2)
    share = share_of(before, after, "noise")
    assert share["before"]["mean"] == pytest.approx(before.shares.mean().item())
    assert share["after"]["std"] == pytest.approx(after.shares.numpy().std())
    assert share["change"]["mean"] == pytest.approx(share["after"]["mean"] - share["before"]["mean"])
    assert (share["images"], share["images_of_one_colour"]) == (250, 0)


def test_images_of_one_colour_are_left_out_and_told() -> None:
    split = noisy(5)
    assert isinstance(split.images, Tensor)
    split.images[2] = 77
    run, part = known(calibrator=Blur(0.0)), Part("noise", "target", split)
    before, after = measure_spectra(run, part, radius=0.25, samples=1)
    share = share_of(before, after, "noise")
    assert (share["images"], share["images_of_one_colour"]) == (4, 1)
    assert share["before"]["mean"] == pytest.approx(before.shares[[0, 1, 3, 4]].mean().item())
    smooth = known(calibrator=Smooth(0.0))
    with pytest.raises(ValueError, match="noise: all test images are of one colour"):
        share_of(*measure_spectra(smooth, part, radius=0.25, samples=1), "noise")


def test_predictions_without_and_with_the_calibrator(run: CalibratedRun) -> None:
    source, target = run.parts()
    alone, behind = predict_both_ways(run, [source, target], torch.tensor([5, 1]))
    assert alone.predictions.tolist() == [0, 0, 1, 1] + [0, 0, 0, 0, 1, 1]
    # 50 and 80 with 50 more: the second is bright.
    assert behind.predictions.tolist() == [0, 1, 1, 1] + [0, 1, 1, 1, 1, 1]
    assert alone.confusion(2).tolist() == [[4, 1], [2, 3]] and behind.confusion(2).tolist() == [[2, 3], [0, 5]]
    assert (alone.accuracy, behind.accuracy) == (0.7, 0.7)
    np.testing.assert_allclose(alone.samples[:, 0, 0, 0] * 255, [80, 100], atol=1e-3)
    np.testing.assert_allclose(behind.samples[:, 0, 0, 0] * 255, [130, 150], atol=1e-3)
    assert alone.confidences[4] == pytest.approx(1 / (1 + np.exp(2 * (60 / 127.5 - 1))), abs=1e-5)


def effects_by_kind(effects: tuple[Effect, ...], bound: float | None = None) -> dict[str, list[bool]]:
    return {effect.kind: effect.right.tolist() for effect in effects if effect.bound == bound}


def test_perturbations_have_the_calibrators_size_and_do_what_they_say(run: CalibratedRun) -> None:
    found = measure_perturbations(run, run.parts()[1], [0.1])
    assert [effect.kind for effect in found.equal] == list(KINDS)
    size = ADDED / 255
    for effect in found.equal:
        expected = 0.0 if effect.kind == "none" else size
        torch.testing.assert_close(effect.found.largest, torch.full((6,), expected).double(), atol=1e-6, rtol=0)
        # Every value is moved as far.
        length = torch.full((6,), expected * (3 * 16 * 16) ** 0.5).double()
        torch.testing.assert_close(effect.found.length, length, atol=1e-4, rtol=0)
    right = effects_by_kind(found.equal)
    dim, bright = True, False
    assert right["none"] == [dim, False, False, dim, True, bright]
    assert right["calibrator"] == [True, True, True, False, True, False]
    # The dim ones from 100 on and the bright one at 160 are taken over the edge: some that were wrong are right so.
    assert right["fgsm"] == [True, True, True, False, False, False]
    assert right["fgsm-descending"] == right["none"], "surer of the same"
    # Away from the true label, and to it: 60 and 190 stay on their side.
    assert right["fgsm-oracle"] == [True, False, False, False, False, False]
    assert right["fgsm-oracle-descending"] == [True, True, True, True, True, False]
    # Half of the values up and half down leave the mean where it was.
    assert right["random"][0] is True and right["random"][4] is True and right["random"][5] is False
    # 0.1 is 25.5: from 110 and 120 over the edge.
    assert [(effect.kind, effect.bound) for effect in found.by_size] == [(kind, 0.1) for kind in SIGNED]
    smaller = effects_by_kind(found.by_size, 0.1)
    assert smaller["fgsm"] == [True, False, True, False, True, False]
    assert smaller["fgsm-oracle-descending"] == [True, False, True, True, True, False]


def test_plot_spectra_writes_a_picture_and_numbers(
    opened: CalibratedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = known(calibrator=Blur(0.0))
    protocol, held = run.loaded.domains()
    target = Domain("target", protocol.classes, noisy(), noisy())
    source = Domain("source", protocol.classes, noisy(2), noisy(2))
    own = replace(protocol, sources=(source,), target=target)
    monkeypatch.setattr(type(run.loaded), "domains", lambda _: (own, held))
    monkeypatch.setattr(calibrated, "load_run", lambda *_, **__: run.loaded)
    out = tmp_path / "made" / "x.svg"
    words = ["plot", "spectra", "RUN", "--out", str(out), "--images", "20", "--samples", "12", "--radius", "0.3"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".json"))]
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert (numbers["radius"], numbers["checkpoint"], numbers["step"]) == (0.3, "last", 7)
    assert [(one["name"], one["side"], one["images"]) for one in numbers["domains"]] == [
        ("source", "source", 2),
        ("target", "target", 20),
    ]
    part = run.parts(20)[1]
    share = share_of(*measure_spectra(run, part, radius=0.3, samples=1), "target")
    assert numbers["domains"][1]["high_frequency_share"] == share
    radial = numbers["domains"][1]["radial_log_spectrum"]
    assert radial["frequency"] == [place / 16 for place in range(9)]
    assert radial["after"][-1] < radial["before"][-1]
    picture = out.read_text()
    assert f"{100 * share['before']['mean']:.1f} ± " in picture and "difference" in picture
    # Two columns, for the source has no more: five rows of each domain, three means, of which two share their
    # bar.
    assert picture.count("<image") == 2 * (5 * 2 + 3 + 2)


def test_plot_predictions_writes_four_confusion_matrices(
    opened: CalibratedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.svg"
    assert cli.main(["plot", "predictions", "RUN", "--out", str(out), "--samples", "3"]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "x.json")]
    numbers = json.loads((tmp_path / "x.json").read_text())
    assert numbers["classes"] == ["dim", "bright"]
    source, target = numbers["source"], numbers["target"]
    assert source["classifier alone"] == {"accuracy": 1.0, "confusion": [[2, 0], [0, 2]]}
    assert source["with calibrator"] == {"accuracy": 0.75, "confusion": [[1, 1], [0, 2]]}
    assert (source["put_right"], source["put_wrong"]) == (0, 1)
    assert target["classifier alone"]["confusion"] == [[2, 1], [2, 1]]
    assert target["with calibrator"]["confusion"] == [[1, 2], [0, 3]]
    assert (target["put_right"], target["put_wrong"], target["images"]) == (2, 1, 6)
    picture = out.read_text()
    for title in (
        "(a) classifier alone on source (source)",
        "(b) classifier alone on target (target)",
        "(c) with calibrator on source (source)",
        "(d) with calibrator on target (target)",
        "75.00 % of 4 right",
    ):
        assert title in picture, title
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.svg"]


def test_plot_perturbation_writes_a_table_and_csv(
    opened: CalibratedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.svg"
    assert cli.main(["plot", "perturbation", "RUN", "--out", str(out), "--sizes", "0.3", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert printed.split()[-2:] == [str(out), str(tmp_path / "x.csv")]
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert len(rows) == 2 * (len(KINDS) + 2 * len(SIGNED))
    target = {(row["perturbation"], row["bound"]): row for row in rows if row["side"] == "target"}
    own = target["calibrator", "its own"]
    assert (own["linf_mean"], own["linf_max"], own["accuracy"]) == ("0.196078", "0.196078", "0.666667")
    assert target["none", "0"]["accuracy"] == "0.500000"
    equal = target["fgsm-oracle-descending", "the calibrator's on each image"]
    assert (equal["accuracy"], equal["looks_at_labels"], equal["images"]) == ("0.833333", "yes", "6")
    assert target["fgsm", "0.1"]["accuracy"] == "0.500000" and target["fgsm", "0.1"]["looks_at_labels"] == "no"
    lines = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.count("│") == 7}
    assert "66.7" in lines["calibrator"] and "0.196" in lines["calibrator"]
    assert "83.3" in lines["oracle: FGSM descending"], "the target's table is the last"
    picture = out.read_text()
    assert "oracle: FGSM descending: lowers the loss of the true label" in picture and "target (target)" in picture


def test_pictures_lie_in_the_run_by_default(
    opened: CalibratedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", "perturbation", str(tmp_path), "--sizes", "0.1"]) == 0
    assert (tmp_path / "perturbation.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "perturbation.csv")
    (tmp_path / "file").write_text("")
    message = fails(capsys, "plot", "perturbation", "RUN", "--out", str(tmp_path / "file" / "x.png"))
    assert "cannot be written" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spectra", "RUN", "--radius", "0.5"], "--radius must be cycles per pixel, from 0 to below 0.5, got 0.5"),
        (["spectra", "RUN", "--images", "0"], "--images must be at least 1, got 0"),
        (["predictions", "RUN", "--samples", "0"], "--samples must be at least 1, got 0"),
        (["predictions", "RUN", "--out", "x.doc"], "give a file such as predictions.png"),
        (["perturbation", "RUN", "--sizes", "0.1", "1.5"], "--sizes must be above 0 and at most 1"),
        (["perturbation", "RUN", "--sizes", "0"], "got 0.0"),
    ],
)
def test_wrong_words_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(capsys, "plot", *words)

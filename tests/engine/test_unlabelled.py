"""A target without labels, from the first step to the last report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import fails

from dynconv import cli
from dynconv.engine.loaded_run import load_run
from dynconv.engine.pseudo_label_file import read_pseudo_labels
from dynconv.engine.run_folder import RunFolder
from dynconv.metrics import classification
from dynconv.report.page.analysis import analyse

LINE = "target camera: 30 images without labels: no target accuracy, no oracle"
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def flat(domains: Path, tmp_path: Path) -> Path:
    """30 images of the domain two, of which nothing tells the class."""
    (tmp_path / "flat").mkdir()
    for number, image in enumerate(sorted((domains / "two").rglob("*.png"))[::2]):
        shutil.copy(image, tmp_path / "flat" / f"{number:02}.png")
    return tmp_path / "flat"


def words(domains: Path, flat: Path, out: Path, method: str = "source-only", *more: str) -> list[str]:
    data = ["--source", f"one={domains / 'one'}", "--target", f"camera={flat}", "--backbone", "lenet-small"]
    return ["train", method, *data, "--batch-size", "8", "--device", "cpu", "--out", str(out), *more]


def test_accuracy_of_images_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="labels: 2 images have none, so that their accuracy is undefined"):
        classification([(torch.eye(3), torch.tensor([0, -1, -1]))], 3)


def test_a_run_is_trained_resumed_measured_matched_and_reported(
    domains: Path, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "plain"
    train = words(domains, flat, out, "source-only", "--norm", "none", "--lr", "1e-3", "--max-steps", "2")
    assert cli.main([*train, "--eval-every", "1"]) == 0
    said = capsys.readouterr()
    assert LINE in said.err and "label-free" in said.out
    assert "the target has no labels" in " ".join(said.out.split()) and "oracle looks" not in said.out
    folder = RunFolder(out)
    done = folder.read_done()
    assert done is not None and set(done["selected"]) == {"last", "source-val", "label-free"}
    rows = folder.rows()
    assert not [name for row in rows for name in row if name.startswith("target-test/")]
    assert "target-train/camera/information-maximisation" in rows[-1] and "source-val/one/accuracy" in rows[-1]

    # As if it had been killed at its end: it goes on from the checkpoint to the same.
    folder.done.unlink()
    assert cli.main(["train", "source-only", "--config", str(folder.config), "--out", str(out)]) == 0
    assert RunFolder(out).rows() == rows and RunFolder(out).read_done() == done
    capsys.readouterr()

    assert cli.main(["eval", str(out), "--device", "cpu", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert {name: measured[name] for name in rows[-1] if "/" in name} == {
        name: value for name, value in rows[-1].items() if "/" in name
    }
    assert cli.main(["eval", str(out), "--device", "cpu"]) == 0
    assert "the target has no labels" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["eval", str(out), "--device", "cpu", "--domain", f"two={domains / 'two'}"]) == 0
    assert "test/two/accuracy" in capsys.readouterr().out
    assert "Its 30 images have no labels" in fails(capsys, "eval", str(out), "--domain", f"camera={flat}")

    predictions = tmp_path / "predictions.csv"
    assert cli.main(["predict", str(out), str(flat), "--out", str(predictions), "--device", "cpu"]) == 0
    assert len(predictions.read_text().splitlines()) == 31
    matched = tmp_path / "runs" / "matched"
    again = tmp_path / "list.txt"
    again.write_text("".join(f"flat/{image.name}\n" for image in sorted(flat.iterdir())))
    capsys.readouterr()
    match = ["match", str(out), "--target", f"camera={again}", "--device", "cpu", "--out", str(matched)]
    assert cli.main(match) == 0
    said = capsys.readouterr()
    assert LINE in said.err and "the target has no labels" in " ".join(said.out.split())
    assert cli.main(["runs", str(tmp_path / "runs")]) == 0

    assert cli.main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report"), "--device", "cpu"]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "There is no figure of one-camera" in text and "the target's images have no labels" in text
    assert "*Confusion matrix is left out:* the images of camera have no labels" in text
    assert "A-distance: " in text and (tmp_path / "report" / "figures" / "plain-tsne.png").exists()
    assert "has no such measure of the target's test images; it has none, for they have no labels" in fails(
        capsys, "plot", "curves", str(out), "--out", str(tmp_path / "x.png")
    )


def test_an_analysis_has_no_accuracy_and_no_guess_at_labels(domains: Path, flat: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli.main(words(domains, flat, out, "source-only", "--max-steps", "1")) == 0
    found = analyse(load_run(out, device="cpu"))
    assert not found.labelled and not found.confusion.any() and len(found.samples) == 0
    of_target = found.point_domains == 1
    assert of_target.sum() == 30 and (found.point_labels[of_target] == -1).all()
    assert set(found.point_labels[~of_target]) == {0, 1, 2}
    with pytest.raises(ValueError, match="camera: its images have no labels, so that their accuracy is undefined"):
        _ = found.accuracy


def test_pseudo_labels_have_no_oracle(
    domains: Path, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main(words(domains, flat, first, "source-only", "--max-steps", "1")) == 0
    more = ("--max-steps", "1", "--pseudo-labels-from", str(first), "--pseudo-confidence", "0.01")
    assert cli.main(words(domains, flat, second, "source-only", *more)) == 0
    assert "(oracle: none, the target has no labels)" in capsys.readouterr().err
    found = read_pseudo_labels(RunFolder(second))
    assert found is not None and found.oracle_accuracy is None and len(found.indices) == 30
    logged = RunFolder(second).training_rows()[0]
    assert "pseudo-labels/images" in logged and "pseudo-labels/oracle-accuracy" not in logged


def test_what_trains_on_the_target_s_labels_is_refused(
    domains: Path, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, *words(domains, flat, tmp_path / "run", "target-only", "--max-steps", "1"))
    assert "have no labels, and are to be trained on with them; give one folder of images per class" in message
    assert not (tmp_path / "run").exists()

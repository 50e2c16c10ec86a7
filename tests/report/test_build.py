"""`dynconv report` from the command line: three files, all runs, and a reason for every gap."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import config_of, row_of, write_run

from dynconv import cli
from dynconv.engine import loaded_run
from dynconv.report.page import run_figures
from dynconv.report.page.build import _slugs
from dynconv.report.page.latex import escape


def test_three_files_say_the_figures_of_the_runs(trained: Path, reported: Path) -> None:
    names = ("report.md", "report.tex", "report.html")
    page = (reported / "report.html").read_text(encoding="utf-8")
    for seed in (0, 1):
        done = json.loads((trained / "runs" / "mcd" / f"seed{seed}" / "done").read_text())
        right = [value for name, value in done["selected"]["last"].items() if name == "target-test/two/accuracy"]
        assert f"<td>{100 * right[0]:.1f}</td>" in page
    for name in names:
        text = (reported / name).read_text(encoding="utf-8")
        for words in ("mcd", "source-only", "one-two", "oracle", "information", "Trade", "alchemy", "damaged"):
            assert (escape(words) if name.endswith("tex") else words) in text, (name, words)
        assert "<title></title>" not in text
    assert "<title>A &lt;title&gt;</title>" in page
    assert not [path.name for path in reported.iterdir() if path.name.startswith(".")]


def test_the_page_shows_every_figure_and_a_reason_for_each_gap(reported: Path) -> None:
    page = (reported / "report.html").read_text(encoding="utf-8")
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    # Of two runs with checkpoint four each, of the third its curves, and the trade-off.
    assert len(images) == 2 * 4 + 1 + 1
    for image in images:
        with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
            assert picture.width > 200
    assert "were measured now" not in page, "the network gets the accuracies that its run recorded"
    gaps = re.findall(r'<p class="missing"><strong>([^<]+)</strong> is left out: ([^<]+)</p>', page)
    assert [title for title, _ in gaps] == [
        "Confusion matrix",
        "t-SNE of the features",
        "A-distance",
        "Samples with predictions",
    ]
    assert all("last.pt" in reason for _, reason in gaps)
    assert page.count("A-distance</dt>") == 2
    alts = re.findall(r'<img src="[^"]+" alt="([^"]*)"', page)
    assert len(alts) == len(images) and all(len(alt) > 20 for alt in alts)


def test_what_is_kept_agrees_with_the_run(trained: Path, reported: Path) -> None:
    done = json.loads((trained / "runs" / "source-only" / "seed0" / "done").read_text())
    (kept,) = (reported / "cache").glob(f"{done['config_hash']}-last-2.npz")
    with np.load(kept) as held:
        confusion, points, domains = held["confusion"], held["points"], held["point_domains"]
    last = done["selected"]["last"]
    assert np.trace(confusion) / confusion.sum() == pytest.approx(last["target-test/two/accuracy"])
    of_classes = [last[f"target-test/two/accuracy-of-class{label}"] for label in range(3)]
    assert (np.diag(confusion) / confusion.sum(axis=1)).tolist() == pytest.approx(of_classes)
    # A fifth of the source is its test split here; all of the target is.
    assert np.bincount(domains).tolist() == [6, 24] and points.shape == (30, 2)


def test_a_second_call_computes_nothing_anew(
    trained: Path, reported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (reported / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(loaded_run, "load_run", lambda *args, **kwargs: pytest.fail("the cache was not used"))
    for name in ("save_confusion", "save_embedding", "save_predictions", "save_training"):
        monkeypatch.setattr(run_figures, name, lambda *args, **kwargs: pytest.fail("a figure was drawn again"))
    arguments = ["report", str(trained / "runs"), "--out", str(reported), "--device", "cpu", "--title", "A <title>"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.split() == [str(reported / f"report.{suffix}") for suffix in ("md", "tex", "html")]
    assert (reported / "report.html").read_text(encoding="utf-8") == before


def test_a_second_call_loads_no_training_code(trained: Path, reported: Path) -> None:
    words = ["report", str(trained / "runs"), "--out", str(reported), "--device", "cpu", "--title", "A <title>"]
    program = f"""
import sys
from dynconv import cli
assert cli.main({words!r}) == 0
print([name for name in ("lightning", "torchvision", "dynconv.engine.loaded_run") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_introduction_says_what_is_known_of_target_labels(tmp_path: Path) -> None:
    config = config_of("mcd")
    write_run(tmp_path / "run", config, [row_of(config, 0, 0.1, 0.1), row_of(config, 50, 0.9, 0.5)])
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    introduction = text.split("\n\n")[1]
    assert introduction.startswith("1 finished run of 1 found")
    assert "none chose the step of one but the oracle's" in introduction and "cannot know it" in introduction
    assert "of 1 run, arrows" in text and "1 runs" not in text


def test_an_unfinished_run_is_told_by_its_youngest_row(tmp_path: Path) -> None:
    config = config_of("mcd")
    folder = write_run(tmp_path / "run", config, [row_of(config, 20, 0.9, 0.5)], finish=False)
    with folder.training.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 70, "epoch": 1.0, "seconds": 4000.0, "loss": 1.0}) + "\n")
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"| run | {config.hash} | not finished | 70 | 1:06:40 | 1 |" in text
    assert (
        "unfinished at step 70 of 100; the same command goes on with it (dynconv train, or dynconv reproduce)" in text
    )
    assert "\\`" not in text
    assert "2 threads of 4 cores" in text


def test_missing_data_are_said_and_the_tables_stand(trained: Path, tmp_path: Path) -> None:
    data = trained / "data"
    data.rename(trained / "away")
    try:
        assert (
            cli.main(["report", str(trained / "runs" / "mcd" / "seed0"), "--out", str(tmp_path), "--device", "cpu"])
            == 0
        )
    finally:
        (trained / "away").rename(data)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Confusion matrix is left out" in text and str(data) in text.replace("\\", "")
    assert "| mcd | 1 |" in text


def test_the_chosen_model_is_the_one_shown(trained: Path, tmp_path: Path) -> None:
    run = trained / "runs" / "mcd" / "seed0"
    assert cli.main(["report", str(run), "--out", str(tmp_path), "--device", "cpu", "--checkpoint", "source-val"]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    step = json.loads((run / "done").read_text())["selected"]["source-val"]["step"]
    assert f"at step {step} (source-val)" in text and "the model that source-val chose" in text


def test_wrong_use_is_answered_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["report"])
    assert stop.value.code == 2
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path), "--out", str(tmp_path / "file")])
    assert stop.value.code == 2
    assert "is a file" in capsys.readouterr().err


def test_runs_never_share_the_name_of_a_file() -> None:
    slugs = _slugs(["a/b", "a_b", "a:b", "../..", "Ünï"])
    assert len(set(slugs.values())) == 5
    assert slugs["a/b"] == "a_b" and slugs["../.."] == "run"

"""`dynconv reproduce --all`: what the data allow is trained and gathered in one page, the rest named with its want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_training import Plan

from dynconv.cli import main
from dynconv.recipes import RECIPES
from dynconv.report.reproduction import reproduce_all as subject
from dynconv.report.reproduction.options import ReproduceOptions
from dynconv.report.reproduction.records import read_records
from dynconv.report.reproduction.reproduce import Reproduction
from dynconv.report.reproduction.reproduce_all import reproduce_all

TABLES = ("calibrator-digits", "gam-causes-digits", "gsda-ablation", "gam-table1")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with MNIST and USPS; of the recipes there are TABLES alone, and no ImageNet weights."""
    root = tmp_path / "data"
    (root / "MNIST" / "raw").mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (root / "MNIST" / "raw" / f"{split}-{kind}-ubyte").touch()
    for name in ("usps.bz2", "usps.t.bz2"):
        (root / name).touch()
    monkeypatch.setattr(subject, "RECIPES", {name: RECIPES[name] for name in TABLES})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return root


def call(data: Path, said: list[str] | None = None, **fields: Any) -> Reproduction:
    fields = {"out": data.parent / "runs", "device": "cpu", "seeds": 1, "data_root": data, **fields}
    options = ReproduceOptions(all=True, **fields)
    return reproduce_all(options, line=(said if said is not None else []).append)


def test_what_the_data_allow_is_trained_and_gathered_in_one_page(data: Path, plan: Plan) -> None:
    plan()
    said: list[str] = []
    made = call(data, said)
    out = data.parent / "runs"
    assert made.failed == () and made.text.endswith(str(out / "RESULTS.md"))
    # Five rows of two tasks each; the third of calibrator-digits begins at MNIST-M.
    ran = [line.split()[0] for line in plan()]
    assert len(ran) == len(set(ran)) == 20
    assert len(read_records(out / "kept" / "runs" / "calibrator-digits.csv", RECIPES["calibrator-digits"])) == 10
    assert sorted(path.name for path in out.iterdir()) == [
        "RESULTS.md",
        "calibrator-digits",
        "gam-causes-digits",
        "kept",
    ]
    assert any(line.startswith("table 2 of 2: gam-causes-digits (") for line in said)
    page = (out / "RESULTS.md").read_text()
    assert "## gam-causes-digits" in page and "`dynconv reproduce gam-table1 --data-root DATA`" in page
    # A second call has nothing to do.
    assert call(data).failed == () and plan() == []


def test_the_small_form_is_kept_where_it_is_said_to_be(data: Path, plan: Plan) -> None:
    plan()
    kept = data.parent / "small"
    call(data, keep=kept)
    assert sorted(path.name for path in (kept / "runs").iterdir()) == ["calibrator-digits.csv", "gam-causes-digits.csv"]
    page = (data.parent / "runs" / "RESULTS.md").read_text()
    assert f"(`{kept}/runs/*.csv`:" in page and not (data.parent / "runs" / "kept").exists()


def test_finished_runs_are_gathered_where_nothing_could_be_trained(data: Path, plan: Plan) -> None:
    plan()
    call(data)
    (data / "usps.bz2").unlink()
    page = data.parent / "runs" / "RESULTS.md"
    written = page.read_text()
    page.unlink()
    assert "for want of usps" not in call(data).text and page.read_text() == written
    page.unlink()
    assert call(data, report_only=True).text == str(page) and page.read_text() == written


def test_weights_in_the_data_root_are_looked_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(subject, "RECIPES", {name: RECIPES[name] for name in ("camvid", "gam-table4-published")})
    monkeypatch.setattr(subject, "presence", lambda name, root: "present")
    assert f"the weights {data / 'fcn8s_synthia.pth'}:" in call(data, dry_run=True, device="auto").text
    (data / "fcn8s_synthia.pth").touch()
    assert "gam-table4-published: " in call(data, dry_run=True, device="auto").text


def test_what_cannot_be_run_is_named_with_its_want_and_its_command(data: Path, plan: Plan) -> None:
    plan()
    text = call(data, dry_run=True).text
    assert plan() == [] and not (data.parent / "runs").exists()
    assert "gam-causes-digits: 10 of 10 runs to train" in text
    assert "for want of mnist_m:\n  dynconv reproduce calibrator-digits" in text
    wanted = text.partition("resnet50-0676ba61.pth)")[0].splitlines()[-1]
    assert wanted.startswith("for want of a GPU") and "ImageNet weights of resnet50" in wanted
    assert f"svhn:\n  dynconv reproduce gam-table1 --data-root {data}" in text


def test_on_a_gpu_the_papers_scale_is_run_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    text = call(data, dry_run=True, device="auto").text
    # Two of its three tasks: SVHN is not there.
    runs = 2 * len(RECIPES["gam-table1"].rows)
    assert f"gam-table1: {runs} of {runs} runs to train" in text and "for want of svhn:" in text
    assert "for want of a GPU" not in text
    assert "gam-table1: " not in call(data, dry_run=True, device="cpu").text


def test_one_tables_failure_leaves_the_others_alone(data: Path, plan: Plan) -> None:
    plan(**{"gam-causes-digits": "fail"})
    made = call(data)
    assert [each.partition(":")[0] for each in made.failed] == ["gam-causes-digits"] * 10
    page = (data.parent / "runs" / "RESULTS.md").read_text()
    assert "## calibrator-digits" in page and "## gam-causes-digits" not in page


def test_no_run_begins_after_the_hours_given(data: Path, plan: Plan) -> None:
    plan()
    said: list[str] = []
    with pytest.raises(ValueError, match="no finished run"):
        call(data, said, hours=1e-9)
    assert plan() == [] and sum("are over" in line for line in said) == 2


def test_all_are_checked_before_the_first_is_trained(data: Path, plan: Plan) -> None:
    plan()
    call(data)
    wrong = data.parent / "runs" / "gam-causes-digits" / "usps-mnist@cycada" / "no_adaptation" / "seed0"
    text = (wrong / "config.yaml").read_text()
    (wrong / "config.yaml").write_text(text.replace("batch_size: 128", "batch_size: 64"))
    (data.parent / "runs" / "calibrator-digits" / "mnist-usps" / "source-only" / "seed0" / "done").unlink()
    plan()
    with pytest.raises(ValueError, match="batch_size: 64 -> 128"):
        call(data)
    assert plan() == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--all", "camvid"], "expected a TABLE or --all, got camvid --all"),
        (["--seeds", "1"], "expected a TABLE or --all, got neither"),
        (["--all", "--rows", "GAM"], "--rows and --all contradict each other"),
        (["camvid", "--hours", "0"], "--hours must be above 0, got 0"),
    ],
)
def test_contradictions_are_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reproduce", *words])
    assert exit_.value.code == 2
    assert says in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_nothing_to_run_is_an_error_that_tells_what_is_wanted(tmp_path: Path, data: Path, plan: Plan) -> None:
    with pytest.raises(ValueError, match=r"no table can be run:(.|\n)*for want of mnist, mnist_m, usps:"):
        call(data, data_root=tmp_path / "hub")

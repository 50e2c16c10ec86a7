"""RESULTS.md: it is what the committed lines of runs make, it says what was not run, and damaged lines are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_folders import finished

from dynconv.recipes import RECIPES
from dynconv.report.reproduction.records import in_order, keep, read_records, record, to_csv
from dynconv.report.reproduction.results_page import main, results_page
from dynconv.report.reproduction.statistics import average, rounded, spread, values

ROOT = Path(__file__).resolve().parents[2]
RECIPE = RECIPES["gsda-ablation-digits"]


def line(tmp_path: Path, task: str, row: str, seed: int, target: float, **fields: Any) -> dict[str, Any]:
    config = RECIPE.config(task, RECIPE.row(row), seed, out=tmp_path, data_root=None, device="cpu")
    folder = finished(tmp_path / f"{task}{row}{seed}", target, config_hash=config.hash)
    return {**record(task, row, seed, folder), "commit": "0123456789", **fields}


def written(folder: Path, *lines: dict[str, Any]) -> Path:
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    path = folder / "runs" / f"{RECIPE.name}.csv"
    path.write_text(to_csv(lines))
    return path


def test_the_page_in_the_repository_is_made_of_the_runs_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = results_page(Path("bench/results"))
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == made, (
        "RESULTS.md is not what its runs make: "
        "python -m dynconv.report.reproduction.results_page bench/results > RESULTS.md"
    )


@pytest.mark.parametrize(
    ("table", "row", "tasks"),
    [
        ("calibrator-digits", "Calibrator", ("mnist-usps", "usps-mnist")),
        ("calibrator-digits", "Calibrator on scores", ("mnist-usps", "usps-mnist")),
        ("gam-digits", "GAM", ("mnist-usps@cycada", "usps-mnist@cycada")),
        ("gam-digits", "GAM without regularisation", ("mnist-usps@cycada", "usps-mnist@cycada")),
        ("gam-digits", "ADDA", ("mnist-usps@cycada", "usps-mnist@cycada")),
        ("gsda-ablation-digits", "+ synchronisation", ("mnist-usps", "usps-mnist")),
        ("gsda-ablation-office31-64", "+ synchronisation", ("office31:dslr-webcam", "office31:webcam-dslr")),
        ("camvid", "source-only", ("camvid_day-camvid_dusk",)),
        ("camvid", "Calibrator, features and pixels", ("camvid_day-camvid_dusk",)),
    ],
)
def test_the_figures_in_the_readme_are_those_of_the_runs(table: str, row: str, tasks: tuple[str, ...]) -> None:
    records = read_records(ROOT / "bench" / "results" / "runs" / f"{table}.csv", RECIPES[table])
    figures = "; ".join(spread(values(records, task, row, "target-test last")) for task in tasks)
    assert f" {figures} " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_averages_in_the_readme_are_those_of_the_runs() -> None:
    recipe = RECIPES["drt-digits"]
    records = read_records(ROOT / "bench" / "results" / "runs" / "drt-digits.csv", recipe)
    averages = (
        average({task: values(records, task, row.label, "target-test last") for task in recipe.tasks})
        for row in recipe.rows
    )
    assert f"| {' / '.join(map(rounded, averages))} |" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_pictures_of_the_notes_are_there() -> None:
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    pictures = [part.partition(")")[0] for part in text.split("](")[1:] if part.partition(")")[0].endswith(".png")]
    assert pictures and not [name for name in pictures if not (ROOT / name).is_file()]


def test_a_table_has_its_command_its_runs_and_what_is_not_among_them(tmp_path: Path) -> None:
    lines = [line(tmp_path, "mnist-usps", "global", seed, value) for seed, value in enumerate((0.5, 0.7, 0.6))]
    lines += [line(tmp_path, "usps-mnist", "global", 0, 0.4)]
    lines += [line(tmp_path, task, "+ class", seed, 0.6) for task in RECIPE.tasks for seed in (0, 2)]
    written(tmp_path, *lines)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / f"{RECIPE.name}.md").write_text("What was seen.\n")
    page = results_page(tmp_path)
    assert "| global | 60.0 ± 10.0 | 40.0 (n = 1) | 50.0 | 90.0 |" in page
    assert "dynconv reproduce gsda-ablation-digits --data-root DATA" in page
    assert "8 of 24 runs, 1 minute in all on x, 1 thread a run; torch 2.10; commit `0123456`." in page
    assert (
        "Not run: global (USPS → MNIST seeds 1, 2); + class (seed 1); + group (all); + synchronisation (all)." in page
    )
    assert "**Notes.** What was seen." in page
    below = page.partition("## Not run")[2]
    small, paper = below.split("### At the papers' scale")
    assert "reproduce drt-embedded " in small and "For want of time" in small and "not run here" not in below
    assert "reproduce gsda-visda " in paper and "For want of a GPU" in paper
    assert "`dynconv reproduce gsda-visda --data-root DATA`" in below and RECIPES["gsda-visda"].needs in below
    assert "gsda-ablation-digits" not in below


def test_runs_of_another_configuration_or_of_changed_files_are_named(tmp_path: Path) -> None:
    task = "mnist-usps"
    clean = line(tmp_path, task, "global", 0, 0.5, dirty="False")
    assert "another hash" not in results_page(written(tmp_path, clean).parents[1])
    assert "in no commit" not in results_page(tmp_path)
    written(tmp_path, clean, line(tmp_path, task, "+ class", 0, 0.5, config_hash="other", dirty="True"))
    page = results_page(tmp_path)
    assert "another hash than the recipe's of today: + class." in page
    assert "in no commit: 0123456." in page


def test_a_gpu_takes_the_place_of_the_processor(tmp_path: Path) -> None:
    written(tmp_path, line(tmp_path, "mnist-usps", "global", 0, 0.5, gpu="NVIDIA H200"))
    assert "on NVIDIA H200, 1 thread a run" in results_page(tmp_path)


def test_lines_come_back_from_the_csv_as_they_were(tmp_path: Path) -> None:
    lines = [line(tmp_path, "mnist-usps", row, seed, 0.5) for row in ("+ class", "global") for seed in (1, 0)]
    path = written(tmp_path, *lines)
    assert read_records(path, RECIPE) == lines
    order = [(each["seed"], each["row"]) for each in in_order(lines, RECIPE)]
    assert order == [(0, "global"), (0, "+ class"), (1, "global"), (1, "+ class")]


def test_kept_lines_replace_those_of_the_same_run_alone(tmp_path: Path) -> None:
    first = [line(tmp_path, "mnist-usps", "global", seed, 0.5) for seed in (0, 1)]
    path = tmp_path / "runs" / f"{RECIPE.name}.csv"
    keep(first, path, RECIPE)
    keep([{**first[1], "target-test last": 70.0}], path, RECIPE)
    assert [(each["seed"], each["target-test last"]) for each in read_records(path, RECIPE)] == [(0, 50.0), (1, 70.0)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("mnist-usps,global", "mnist-svhn,global"), "has no 'mnist-svhn'"),
        (lambda text: text.replace("mnist-usps,global", "mnist-usps,all"), "row 'all'"),
        (lambda text: text + text.splitlines()[1] + "\n", "is there twice"),
        (lambda text: text.replace("target-test last", "accuracy"), "found no target-test last"),
        (lambda text: text.replace("50.0", "fifty", 1), "line 2: could not convert"),
        (lambda text: text + "mnist-usps,global\n", "line 3: the column seed is missing"),
    ],
)
def test_lines_that_are_no_runs_of_the_recipe_are_refused(tmp_path: Path, change: Any, says: str) -> None:
    path = written(tmp_path, line(tmp_path, "mnist-usps", "global", 0, 0.5))
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=says):
        results_page(tmp_path)


def test_files_of_no_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none"):
        results_page(tmp_path)
    path = written(tmp_path, line(tmp_path, "mnist-usps", "global", 0, 0.5))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "camvid.md").write_text("words")
    with pytest.raises(ValueError, match="notes of camvid, and no runs"):
        results_page(tmp_path)
    path.rename(path.with_name("mine.csv"))
    with pytest.raises(ValueError, match=r"mine.*no such recipe"):
        results_page(tmp_path)


def test_wrong_use_is_told_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        ([], "usage:"),
        (["--help"], "usage:"),
        ([str(tmp_path), "more"], "usage:"),
        ([str(tmp_path)], f"error: {tmp_path / 'runs'}: expected TABLE.csv"),
    ):
        assert main(words) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and told in shown.err
    written(tmp_path, line(tmp_path, "mnist-usps", "global", 0, 0.5))
    assert main([str(tmp_path)]) == 0 and capsys.readouterr().out.startswith("# Results")

"""The tables of bench/digits_table.py and of the demo: their recipes parse, and their figures are the runs'."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from dynconv import demo
from dynconv.engine.options import parse_train
from dynconv.engine.run_folder import RunFolder
from dynconv.report.table import comparison_table, markdown, selection_table


@pytest.fixture(scope="module")
def table() -> ModuleType:
    path = Path(__file__).parent.parent / "bench" / "digits_table.py"
    spec = importlib.util.spec_from_file_location("digits_table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its own module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def finished(path: Path, target: float, source: float = 0.9, step: int = 10, config_hash: str = "abc") -> RunFolder:
    """A finished run's `done` and env.json; source-val chose an earlier row, half as good."""
    folder = RunFolder(path)
    path.mkdir(parents=True)

    def row(at: int, factor: float) -> dict[str, Any]:
        head = {"step": at, "epoch": 1.0, "seconds": 5.0, "config_hash": config_hash}
        scores = {"source-test/a/accuracy": source * factor, "target-test/b/accuracy": target * factor}
        return {**head, **scores}

    selected = {"last": row(step, 1.0), "source-val": row(5, 0.5)}
    folder.done.write_text(json.dumps({"config_hash": config_hash, "selected": selected}))
    start = {"versions": {"torch": "2.10"}, "git": None, "hardware": {"cpu": "x", "threads": 1}}
    folder.environment.write_text(json.dumps([start]))
    return folder


def test_every_recipe_of_the_table_is_a_valid_command(table: ModuleType, tmp_path: Path) -> None:
    options = table.Options(data_root=tmp_path)
    for task in table.TASKS:
        for method in table.METHODS:
            config = parse_train(method, table.arguments(task, method, 2, tmp_path / "run", options))
            assert (config.run.protocol, config.run.seed, config.run.data_root) == (task, 2, tmp_path)


def test_static_mcd_and_drt_of_the_tables_differ_in_the_network_alone(table: ModuleType, tmp_path: Path) -> None:
    def settings(method: str, words: list[str]) -> dict[str, Any]:
        config = parse_train(method, words)
        return {name.partition(".")[2]: value for name, value in config.identity().items() if "." in name}

    options = table.Options()
    for pair in (
        [settings(m, table.arguments("mnist-usps", m, 0, tmp_path, options)) for m in ("mcd", "drt")],
        [settings(m, ["--protocol", demo.PROTOCOL, *demo.RUNS[m]]) for m in ("mcd", "drt")],
    ):
        mcd, drt = pair
        assert mcd.items() <= drt.items()


def test_mean_and_standard_deviation_are_those_of_the_seeds(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, seed, target in (("drt", 0, 0.5), ("drt", 1, 0.6), ("drt", 2, 0.7), ("mcd", 0, 0.25)):
        path = tmp_path / "runs" / "mnist-usps" / method / f"seed{seed}"
        recipe = parse_train(method, table.arguments("mnist-usps", method, seed, path, table.Options()))
        finished(path, target, config_hash=recipe.hash)
    words = ["--report-only", "--out", str(tmp_path / "runs"), "--csv", str(tmp_path / "table.csv")]
    monkeypatch.setattr(sys, "argv", ["digits_table", *words])
    assert table.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | MNIST → USPS | average | source, average |"
    assert "| MCD, static | 25.0 (n = 1) | 25.0 | 90.0 |" in lines
    assert "| DRT | 60.0 ± 10.0 | 60.0 | 90.0 |" in lines
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert [row["target-test last"] for row in rows if row["method"] == "drt"] == ["50.0", "60.0", "70.0"]
    assert [row["target-test source-val"] for row in rows if row["method"] == "drt"] == ["25.0", "30.0", "35.0"]


@pytest.mark.parametrize("words", [["--report-only"], []])
def test_a_run_of_another_recipe_is_refused_by_its_folder(
    words: list[str],
    table: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = finished(tmp_path / "runs" / "mnist-usps" / "drt" / "seed1", 0.5, config_hash="0" * 12)
    only = ["--tasks", "mnist-usps", "--methods", "drt", "--seeds", "1"]
    out = ["--out", str(tmp_path / "runs"), "--csv", str(tmp_path / "table.csv")]
    monkeypatch.setattr(sys, "argv", ["digits_table", *words, *only, *out])
    assert table.main() == 2
    message = capsys.readouterr().err
    assert str(folder.path) in message and "0" * 12 in message
    assert not (tmp_path / "table.csv").exists()
    folder.done.write_text("torn")
    assert table.main() == 2
    assert str(folder.done) in capsys.readouterr().err


def test_no_finished_run_is_said(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["digits_table", "--report-only", "--out", str(tmp_path)])
    assert table.main() == 2
    assert "no finished run" in capsys.readouterr().err


def test_an_unknown_task_or_method_is_refused(table: ModuleType) -> None:
    with pytest.raises(ValueError, match="mnist-svhn"):
        table.Options(tasks=("mnist-svhn",))
    with pytest.raises(ValueError, match="dann"):
        table.Options(methods=("dann",))


def text(table: Any) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_demos_table_shows_both_selections_and_both_sides(tmp_path: Path) -> None:
    runs = {"a": finished(tmp_path / "a", 0.75), "b": finished(tmp_path / "b", 0.125)}
    lines = [line.replace("│", " ").split() for line in text(comparison_table(runs, "title")).splitlines()]
    assert ["a", "75.0", "90.0", "37.5", "45.0"] in lines
    assert ["b", "12.5", "90.0", "6.2", "45.0"] in lines


def test_a_runs_table_has_a_column_per_rule(tmp_path: Path) -> None:
    lines = [
        line.replace("│", " ").split() for line in text(selection_table(finished(tmp_path / "a", 0.75))).splitlines()
    ]
    assert ["step", "10", "5"] in lines
    assert ["target-test/b", "75.0", "37.5"] in lines
    with pytest.raises(ValueError, match="not finished"):
        selection_table(RunFolder(tmp_path / "none"))


def test_markdown_has_one_line_per_row() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from dynconv.engine.run_folder import RunFolder
from dynconv.report.table import metric_table, selection_table, validator_table


def text(table: Table | None) -> str:
    shown = io.StringIO()
    Console(width=120, file=shown).print(table)
    return shown.getvalue()


def row(step: int, right: float) -> dict[str, Any]:
    classes = {f"target-test/web/accuracy-of-class{index}": right for index in range(65)}
    target = {"target-test/web/accuracy": right, "target-test/web/class-mean-accuracy": right / 2}
    return {"step": step, "source-val/cam/accuracy": right, **target, **classes}


def test_the_selection_shows_the_mean_over_the_classes_and_no_line_per_class(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step, right in ((1, 0.5), (2, 0.25)):
        folder.append(row(step, right))
    with pytest.raises(ValueError, match="not finished"):
        selection_table(folder)
    folder.finish("0" * 12)
    lines = text(selection_table(folder)).splitlines()
    # The name fills two lines, the figures stand in the first.
    (place,) = [place for place, line in enumerate(lines) if "mean over classes" in line]
    mean = lines[place - 1].split()
    assert [word for word in mean if word.replace(".", "").isdigit()] == ["12.5", "25.0", "25.0"]
    assert len([line for line in lines if "web" in line]) == 2
    assert not any("class7" in line for line in lines)


def test_source_and_target_before_adaptation_stand_beside_what_was_chosen(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step, right in ((0, 0.125), (1, 0.5), (2, 0.25)):
        folder.append({**row(step, right), "target-train/web/nuclear-norm": -right})
    folder.finish("0" * 12, "nuclear-norm")
    table = selection_table(folder)
    heads = [str(column.header) for column in table.columns]
    assert heads == ["selected by", "before", "last", "source-val", "label-free\nnuclear-\nnorm", "oracle"]
    shown = io.StringIO()
    Console(width=80, file=shown).print(table)
    lines = [line.replace("│", " ").split() for line in shown.getvalue().splitlines()]
    assert "…" not in shown.getvalue()
    assert ["step", "0", "2", "1", "2", "1"] in lines
    for name in ("source-val/cam", "target-test/web"):
        assert [name, "12.5", "25.0", "50.0", "25.0", "50.0"] in lines


def test_what_each_validator_would_have_chosen(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="not finished"):
        validator_table(folder)
    for step, right, norm in ((0, 0.125, 0.9), (1, 0.5, 0.2), (2, 0.25, 0.4)):
        validators = {"target-train/web/entropy": -right, "target-train/web/nuclear-norm": norm}
        folder.append({**row(step, right), "source-test/cam/accuracy": right / 2, **validators})
    folder.finish("0" * 12, "nuclear-norm")
    lines = [line.replace("│", " ").split() for line in text(validator_table(folder)).splitlines()]
    assert ["entropy", "1", "25.0", "50.0"] in lines
    assert ["nuclear-norm", "*", "2", "12.5", "25.0"] in lines
    # A run of an earlier version.
    folder.done.write_text('{"config_hash": "0", "selected": {"last": {"step": 2}}}')
    assert validator_table(folder) is None


def test_an_evaluation_shows_per_cent_and_says_where_the_classes_are() -> None:
    head = {"run": "runs/one", "checkpoint": "last", "step": 2, "config_hash": "0"}
    shown = text(metric_table({**head, **row(2, 0.25), "target-train/web/entropy": 1.25}))
    assert "12.5 %" in shown and "1.250" in shown and "each of 65 classes" in shown
    assert "accuracy-of" not in shown
    assert "classes" not in text(metric_table({**head, "test/web/accuracy": 0.5}))

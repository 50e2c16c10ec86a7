from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from dynconv.engine.run_folder import RunFolder
from dynconv.report.table import metric_table, selection_table


def text(table: Table) -> str:
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
    (mean,) = [line.split() for line in lines if "mean over classes" in line]
    assert [word for word in mean if word.replace(".", "").isdigit()] == ["12.5", "25.0", "25.0"]
    assert len([line for line in lines if "web" in line]) == 2
    assert not any("class7" in line for line in lines)


def test_an_evaluation_shows_per_cent_and_says_where_the_classes_are() -> None:
    head = {"run": "runs/one", "checkpoint": "last", "step": 2, "config_hash": "0"}
    shown = text(metric_table({**head, **row(2, 0.25), "target-train/web/entropy": 1.25}))
    assert "12.5 %" in shown and "1.250" in shown and "each of 65 classes" in shown
    assert "accuracy-of" not in shown
    assert "classes" not in text(metric_table({**head, "test/web/accuracy": 0.5}))

"""The method and the tests of docs/add_a_method.md run as they are written there."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dynconv.data import Batch
from dynconv.methods import METHODS
from dynconv.methods.table import field_docs

PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"


def as_module(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = folder / f"{name.rpartition('.')[2]}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_method_of_the_page_passes_its_tests(
    batch: Batch, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, tests = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    coral = as_module("dynconv.methods.coral", method, tmp_path, monkeypatch)
    monkeypatch.setitem(METHODS, "coral", coral.CORAL)
    assert "coral_weight" in field_docs(coral.CORALConfig)
    fixtures = {"batch": batch, "train": train}
    ran = 0
    for name, test in vars(as_module("test_coral", tests, tmp_path, monkeypatch)).items():
        if name.startswith("test_"):
            test(**{each: fixtures[each] for each in inspect.signature(test).parameters})
            ran += 1
    assert ran == 4

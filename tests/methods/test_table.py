"""The page of the methods: current, complete, and with every field's documentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from dynconv.methods import METHODS, MethodConfig
from dynconv.methods.adapted import AdaptedConfig
from dynconv.methods.adversarial import AdversarialConfig
from dynconv.methods.table import field_docs, image_sizes, methods_page

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == methods_page(), "python -m dynconv.methods.table > docs/methods.md"


def test_every_method_has_a_line_as_it_says_of_itself() -> None:
    lines = {cells(line)[0]: cells(line) for line in methods_page().splitlines() if line.startswith("| [")}
    assert list(lines) == [f"[{name}](#{name})" for name in METHODS]
    for name, kind in METHODS.items():
        assert lines[f"[{name}](#{name})"][-1] == kind.about.paper and kind.about.paper
    assert lines["[afn](#afn)"][1:-1] == ["SAFN, HAFN", "28, 32, 64, 224", "-", "union", "yes"]
    assert lines["[dann](#dann)"][1] == "-"
    assert lines["[m3sda](#m3sda)"][4] == "by domain"
    assert lines["[target-only](#target-only)"][4] == "none: a bound, trained on target labels"


def test_the_sizes_of_the_images_are_those_of_the_backbones_that_may_be_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class OfDigits(MethodConfig):
        backbone: Literal["lenet-small", "lenet-m3sda"] = "lenet-small"

    assert image_sizes(OfDigits) == [32]


@pytest.mark.parametrize("name", METHODS)
def test_every_field_stands_on_the_page_once_for_each_default(name: str) -> None:
    config = METHODS[name].config_class
    page = methods_page()
    own = page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
    inherited = {field.name: field.default for field in dataclasses.fields(MethodConfig)}
    if issubclass(config, AdversarialConfig):
        inherited |= {field.name: field.default for field in dataclasses.fields(AdversarialConfig)}
    if issubclass(config, AdaptedConfig):
        inherited |= {field.name: field.default for field in dataclasses.fields(AdaptedConfig)}
    docs = field_docs(config)
    assert all(docs.values())
    for field in dataclasses.fields(config):
        is_own = field.name not in inherited or inherited[field.name] != field.default
        assert (f"\n| `{field.name}` |" in own) is is_own, field.name


def test_a_field_that_a_class_takes_over_has_its_new_documentation() -> None:
    found = field_docs(METHODS["target-only"].config_class)
    assert "The one source is the target's labelled training split." in found["normalisation_policy"]
    assert found["lr"] == field_docs(MethodConfig)["lr"] == "Learning rate (MCD digits: 2e-4)."


def test_defaults_and_choices_are_written_as_on_the_command_line() -> None:
    page = methods_page()
    assert "| `nesterov` | `false` | bool |" in page
    assert '| `optimiser` | `"adam"` | `"adam"`, `"sgd"` |' in page
    assert "| `lr_milestones` | `(0.3333333333333333, 0.6666666666666666)` | several float |" in page

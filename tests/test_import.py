"""Imports run downward only, and importing the package is light: torch alone, no CUDA start, no training code."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dynconv

PROGRAM = """
import json, sys
import torch
before = set(sys.modules)
{statement}
new = sorted(set(sys.modules) - before)
print(json.dumps({{"new": new, "cuda": torch.cuda.is_initialized()}}))
"""
# What costs much or belongs to the training code; all that torch itself has loaded by then is not counted.
HEAVY = {"lightning", "matplotlib", "onnx", "PIL", "sklearn", "tensorboard", "torchmetrics", "torchvision", "triton"}
HEAVY_OF_TORCH = {"torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.cpp_extension"}
# The import rule of the house: a module imports from its own room and from those on the lines below it.
FLOORS = (
    {"__main__"},
    {"cli"},
    {"commands", "demo"},
    {"bench", "report", "ending"},
    {"recipes", "plots"},
    {"engine"},
    {"methods"},
    {"losses", "models", "data", "metrics"},
    {"nn"},
    {"functional", "info"},
    {"ops"},
    {"kernels", "reference", "backends"},
    # Below all: they import nothing of ours.
    {"distributed", "parsing", "timing", "usage"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ABOVE_NN = set().union(*FLOORS[: FLOOR_OF["nn"]])


def modules() -> Iterator[tuple[str, Path]]:
    """Room and file of every module of the package but its own __init__, which a test below has import nothing."""
    root = Path(dynconv.__file__).parent
    # In a checkout kernels and bench are links.
    for folder, _, files in os.walk(root, followlinks=True):
        for file in (Path(folder, name) for name in files if name.endswith(".py")):
            parts = file.relative_to(root).with_suffix("").parts
            if parts != ("__init__",):
                yield parts[0], file


def imported_rooms(file: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of ours in a file, those within functions and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for package, *rest in (name.split(".") for name in names):
            # What `dynconv` itself has (its __version__) is no room.
            if package == "dynconv" and rest and not rest[0].startswith("__"):
                yield node.lineno, rest[0]


def test_every_module_has_its_floor() -> None:
    rooms = {room for room, _ in modules()}
    assert rooms == set(FLOOR_OF), "FLOORS and the package have other rooms"


def test_imports_run_downward_only() -> None:
    upward = [
        f"{file}:{line}: {room} imports {other}"
        for room, file in modules()
        for line, other in imported_rooms(file)
        if other != room and FLOOR_OF[other] <= FLOOR_OF[room]
    ]
    assert upward == []


def new_modules(statement: str) -> set[str]:
    """The modules that ``statement`` loads after torch, in a process of its own."""
    program = PROGRAM.format(statement=statement)
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    facts = json.loads(result.stdout)
    assert not facts["cuda"], "the import started CUDA"
    return set(facts["new"])


@pytest.fixture(scope="module")
def everything_below_nn() -> set[str]:
    by_attribute = "import dynconv; dynconv.functional.coefficients; dynconv.nn.DynamicConv2d"
    return new_modules(f"{by_attribute}; import dynconv.backends, dynconv.reference")


def test_the_package_alone_does_not_even_load_torch() -> None:
    program = "import sys, dynconv; print([n for n in sys.modules if n.partition('.')[0] in ('dynconv', 'torch')])"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout == "['dynconv']\n"


def test_operators_and_modules_load_nothing_but_torch(everything_below_nn: set[str]) -> None:
    roots = {name.partition(".")[0] for name in everything_below_nn}
    foreign = {root for root in roots - sys.stdlib_module_names - {"dynconv", "torch"} if not root.startswith("__")}
    assert foreign == set()
    assert not roots & HEAVY


def test_operators_and_modules_load_no_compiler(everything_below_nn: set[str]) -> None:
    assert not everything_below_nn & HEAVY_OF_TORCH


def test_operators_and_modules_load_no_training_code(everything_below_nn: set[str]) -> None:
    assert not {name for name in everything_below_nn if name.split(".")[1:2] and name.split(".")[1] in ABOVE_NN}


def test_functional_and_nn_are_reached_as_attributes(everything_below_nn: set[str]) -> None:
    assert {"dynconv.functional", "dynconv.nn"} <= everything_below_nn


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    import dynconv

    with pytest.raises(AttributeError, match="no attribute 'functionals'"):
        _ = dynconv.functionals

"""Importing the package is light: torch alone, no CUDA start, no compiler, no training code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
# The import rule of the house: nn and below know nothing of these.
ABOVE_NN = {"data", "models", "losses", "methods", "engine", "metrics", "plots", "report", "recipes", "cli", "bench"}


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

"""The Python of the tutorials runs as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from dynconv.bench.bench_dynamic_conv2d import Options
from dynconv.data import load_protocol
from dynconv.engine.options import parse_train

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str = "python") -> list[str]:
    """The fenced blocks of a language; "" for those of none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return [text for said, text in fenced if said == language]


def run(page: str, *, instead: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """All Python blocks of a page, one after the other in one module; `instead` replaces a line of it."""
    names: dict[str, Any] = {"__name__": "tutorial"}
    assert instead[0] in "".join(blocks(page))
    for number, block in enumerate(blocks(page)):
        exec(compile(block.replace(*instead) if instead[0] else block, f"{page}, block {number}", "exec"), names)
    return names


def commands(page: str) -> list[list[str]]:
    """The words of every command that a page shows."""
    shown = "\n".join(blocks(page, "")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in shown.splitlines() if line.startswith(("dynconv ", "python "))]


@pytest.mark.parametrize("exported", ["own", pytest.param("model", marks=pytest.mark.slow)])
def test_dynamic_convolution(exported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="pip install dynconv[export]")
    pytest.importorskip("onnxscript", reason="pip install dynconv[export]")
    monkeypatch.chdir(tmp_path)
    names = run("tutorials/dynamic_convolution.md", instead=("exported = own", f"exported = {exported}"))
    assert names["y"].shape == (8, 32, 28, 28)
    assert torch.equal(names["layer"].weight, names["static"].weight)
    torch.testing.assert_close(names["after"], names["before"], rtol=1e-4, atol=1e-5)
    assert names["losses"][-1] < names["losses"][0]
    assert names["vectors"].shape == (4, 64) and next(iter(names["collected"].dimensions)) == "layer1.0.conv1"
    torch.testing.assert_close(
        torch.from_numpy(names["scores"]), names["exported"](names["batch"]), rtol=1e-3, atol=1e-4
    )


def test_the_folders_of_the_adaptation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("tutorials/adaptation.md", instead=("range(600)", "range(60)"))
    found = load_protocol(None, source=["printed=images/printed"], target="handwritten=images/handwritten")
    assert found.classes == tuple("0123456789")
    (source,) = found.sources
    # A fifth of the source's images is its test split; the target's are all in both.
    assert (source.name, len(source.train), len(found.target.train)) == ("printed", 48, 60)


def test_the_trainings_of_the_adaptation_are_what_the_command_line_takes() -> None:
    trainings = [words[2:] for words in commands("tutorials/adaptation.md") if words[:2] == ["dynconv", "train"]]
    assert [words[0] for words in trainings] == ["source-only", "drt", "gsda", "calibrator", "gam"]
    for method, *options in trainings:
        config = parse_train(method, options)
        assert (config.method, config.run.out) == (method, Path("runs", method))
        assert config.run.source == (f"printed={Path('images/printed').absolute()}",)
        assert config.run.target == f"handwritten={Path('images/handwritten').absolute()}"


def test_the_commands_of_the_benchmarks_are_what_they_take() -> None:
    found = commands("tutorials/benchmarks.md")
    tables = [words[2:] for words in found if words[:2] == ["dynconv", "bench"]]
    assert len(tables) == 3
    for options in tables:
        assert tyro.cli(Options, args=options).out is not None
    assert [words[2] for words in found if words[:2] == ["python", "-m"]] == [
        "dynconv.bench.plot",
        "dynconv.bench.compare",
    ]

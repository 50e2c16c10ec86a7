"""`dynconv export` as a user has it: what the files compute, and that nothing half-written stays."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import fails
from PIL import Image
from rich.console import Console

from dynconv import cli, ending
from dynconv.engine import export
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import load_run
from dynconv.engine.train import train
from dynconv.methods import METHODS

Capture = pytest.CaptureFixture[str]
Make = Callable[..., TrainConfig]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "source-only": ("source-only", {}),
    "mcd": ("mcd", {"prediction": "max"}),
    "drt-subspace": ("drt", {}),
    "drt-channel": ("drt", {"residual": "channel"}),
    "drt-combined": ("drt", {"residual": "combined", "basis_kernel_size": None, "scale_activation": "hard"}),
    "gsda": ("gsda", {"num_groups": (2,), "hidden_features": 16}),
    "cdan": ("cdan", {"hidden_features": 16}),
    "resnet-small": ("source-only", {"backbone": "resnet-small"}),
}


@pytest.fixture
def run_of(tmp_path: Path, make_config: Make, quiet: Console) -> Callable[[str], str]:
    """A run of two steps of one of the cases."""

    def make(case: str) -> str:
        method, own = CASES[case]
        config = make_config(tmp_path / "run", method, METHODS[method].config_class(**own), max_steps=2, eval_every=2)
        return str(train(config, console=quiet).path)

    return make


def prepared(files: list[Path], facts: dict[str, Any]) -> torch.Tensor:
    """Images as the words of model.json say, with nothing of dynconv."""
    height, width = facts["preprocessing"]["resize"]
    rows = [np.asarray(Image.open(f).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)) for f in files]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / facts["preprocessing"]["divide_by"]


def predicted(run: str, folder: Path, out: Path) -> list[dict[str, str]]:
    assert cli.main(["predict", run, str(folder), "--out", str(out), "--device", "cpu"]) == 0
    with out.open(newline="") as lines:
        return list(csv.DictReader(lines))


TORCH = ("mcd", "drt-combined")
ONNX = ("drt-subspace",)


def slow_but(fast: tuple[str, ...]) -> list[Any]:
    """Every case; an export takes seconds, so that the default tier runs those that differ most."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", slow_but(TORCH))
def test_a_torch_program_says_what_predict_says(
    case: str, run_of: Callable[[str], str], domains: Path, tmp_path: Path, capsys: Capture
) -> None:
    run, out = run_of(case), tmp_path / "exported"
    assert cli.main(["export", run, "--format", "torch", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'model.pt2'}\n"
    assert "largest difference to the network's scores" in captured.err
    facts = json.loads((out / "model.json").read_text())
    program = torch.export.load(out / facts["file"])
    assert not any("dynconv" in str(node.target) for node in program.graph.nodes)
    rows = predicted(run, domains / "three", tmp_path / "table.csv")
    images = prepared([domains / "three" / row["path"] for row in rows], facts)
    for batch in (1, 3, 60):
        with torch.no_grad():
            probabilities = program.module()(images[:batch]).softmax(dim=1)
        for row, values in zip(rows, probabilities, strict=False):
            assert facts["classes"][int(values.argmax())] == row["class"]
            assert float(values.max()) == pytest.approx(float(row["confidence"]), rel=1e-4)


@pytest.mark.parametrize("case", slow_but(ONNX))
def test_an_onnx_file_says_what_predict_says(
    case: str, run_of: Callable[[str], str], domains: Path, tmp_path: Path, capsys: Capture
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install dynconv[export]")
    pytest.importorskip("onnxscript", reason="pip install dynconv[export]")
    run, out = run_of(case), tmp_path / "exported"
    capsys.readouterr()
    assert cli.main(["export", run, "--format", "onnx", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'model.onnx'}\n"
    assert sorted(file.name for file in out.iterdir()) == ["model.json", "model.onnx"]
    facts = json.loads((out / "model.json").read_text())
    assert set(facts["versions"]) == {"dynconv", "torch", "onnx", "onnxruntime", "onnxscript"}
    session = runtime.InferenceSession(out / facts["file"], providers=["CPUExecutionProvider"])
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    side = 64 if case == "resnet-small" else 32
    assert (given.name, given.shape) == ("images", ["batch", 3, side, side]) == ("images", facts["input"]["shape"])
    assert (got.name, got.shape) == ("scores", ["batch", 3]) == ("scores", facts["output"]["shape"])
    rows = predicted(run, domains / "three", tmp_path / "table.csv")
    images = prepared([domains / "three" / row["path"] for row in rows], facts).numpy()
    for batch in (1, 3, 60):
        (scores,) = session.run(None, {"images": images[:batch]})
        probabilities = torch.from_numpy(scores).softmax(dim=1)
        for row, values in zip(rows, probabilities, strict=False):
            assert facts["classes"][int(values.argmax())] == row["class"]
            assert float(values.max()) == pytest.approx(float(row["confidence"]), rel=1e-3)


@pytest.fixture(scope="module")
def run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run of a method that trains with more than it predicts with."""
    out = str(tmp_path_factory.mktemp("runs") / "run")
    data = ["--source", f"one={domains / 'one'}", "--target", f"three={domains / 'three'}"]
    words = ["--max-steps", "2", "--batch-size", "8", "--num-groups", "2", "--hidden-features", "16", "--device", "cpu"]
    assert cli.main(["train", "gsda", *data, *words, "--out", out]) == 0
    return out


@pytest.fixture(scope="module")
def exported(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run's model, in a folder that was there already, beside what a killed export left."""
    out = tmp_path_factory.mktemp("exported") / "model"
    out.mkdir()
    (out.parent / "model.tmp").mkdir()
    (out.parent / "model.tmp" / "half").write_text("half")
    assert cli.main(["export", run, "--format", "torch", "--out", str(out), "--checkpoint", "source-val"]) == 0
    return out


def test_nothing_but_the_model_and_its_description_is_left(exported: Path) -> None:
    assert sorted(file.name for file in exported.iterdir()) == ["model.json", "model.pt2"]
    assert [file.name for file in exported.parent.iterdir()] == ["model"]


def test_what_only_training_needs_is_left_out(exported: Path) -> None:
    names = torch.export.load(exported / "model.pt2").state_dict
    assert {name.split(".")[1] for name in names if "." in name} == {"features", "heads"}
    assert {name for name in names if "." not in name} == {"low", "span"}


def test_model_json_says_how_to_feed_the_model_and_where_it_comes_from(run: str, exported: Path) -> None:
    facts = json.loads((exported / "model.json").read_text())
    loaded = load_run(Path(run), checkpoint="source-val", device="cpu")
    assert facts["classes"] == ["class0", "class1", "class2"]
    assert facts["input"]["shape"] == ["batch", 3, 32, 32] and facts["output"]["shape"] == ["batch", 3]
    assert facts["preprocessing"]["resize"] == facts["preprocessing"]["centre_crop"] == [32, 32]
    assert facts["preprocessing"]["mean_in_model"] == facts["preprocessing"]["deviation_in_model"] == [0.5, 0.5, 0.5]
    assert "divide by 255" in facts["preprocessing"]["words"] and "middle" not in facts["preprocessing"]["words"]
    assert (facts["run"], facts["method"], facts["backbone"]) == (run, "gsda", "lenet-small")
    assert (facts["checkpoint"], facts["step"]) == ("source-val", loaded.step)
    assert facts["config_hash"] == loaded.config.hash
    assert facts["versions"]["torch"] == torch.__version__
    assert 0 <= facts["largest_difference"] <= facts["tolerance"] < 0.01


def test_a_margin_is_in_the_words_and_imagenets_numbers_are_in_the_model(run: str) -> None:
    from dynconv.models import NetworkInput

    loaded = load_run(Path(run), device="cpu")
    object.__setattr__(loaded.scoring, "network_input", NetworkInput(224, "imagenet"))
    facts = export.describe(loaded, "torch", export.AdaptedModel(loaded.method, "imagenet"), (224, 224))
    assert facts["preprocessing"]["resize"] == [256, 256] and facts["preprocessing"]["centre_crop"] == [224, 224]
    assert "take the middle 224 x 224" in facts["preprocessing"]["words"]
    assert facts["preprocessing"]["mean_in_model"] == pytest.approx([0.485, 0.456, 0.406])
    assert facts["preprocessing"]["deviation_in_model"] == pytest.approx([0.229, 0.224, 0.225])


def test_a_program_that_computes_something_else_is_refused(
    run: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.AdaptedModel, "forward", lambda self, images: self.method.predict(images))
    before = sorted(tmp_path.iterdir())
    message = fails(capsys, "export", run, "--format", "torch", "--out", str(tmp_path / "exported"), code=1)
    assert "model.pt2 differs from the network by" in message
    assert sorted(tmp_path.iterdir()) == before


def test_what_does_not_fit_is_refused_in_words(
    run: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "exported")
    before = sorted(tmp_path.rglob("*"))
    assert "no run folder" in fails(capsys, "export", str(tmp_path), "--format", "torch", "--out", out)
    assert "tflite" in fails(capsys, "export", run, "--format", "tflite", "--out", out)
    assert "--format" in fails(capsys, "export", run, "--out", out)
    assert "--out" in fails(capsys, "export", run, "--format", "torch")
    assert "is not empty" in fails(capsys, "export", run, "--format", "torch", "--out", run)
    assert "is not empty" in fails(capsys, "export", run, "--format", "torch", "--out", f"{run}/config.yaml")
    assert "cannot be written" in fails(capsys, "export", run, "--format", "torch", "--out", "/proc/x")
    monkeypatch.setitem(ending.PACKAGES, "export", ("torch", "not_a_package"))
    message = fails(capsys, "export", run, "--format", "onnx", "--out", out)
    assert "not_a_package" in message and "pip install 'dynconv[export]'" in message
    assert sorted(tmp_path.rglob("*")) == before

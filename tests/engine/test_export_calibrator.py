"""The calibrator of a run as files of its own, and docs/deployment.md, whose commands and blocks are run here."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import fails
from torch import Tensor, nn

from dynconv import cli
from dynconv.engine import export_calibrator as module
from dynconv.engine import overhead
from dynconv.engine.export import AdaptedModel, adapted_model
from dynconv.engine.export_calibrator import export_calibrator
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.overhead import Latency, Overhead, measure_overhead
from dynconv.engine.programs import ExportMismatch, agreement
from dynconv.methods import METHODS
from dynconv.methods.calibrator import CalibratorMethod
from dynconv.models import Calibrator

Capture = pytest.CaptureFixture[str]

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
# Folder below deployed/ -> the words of its command.
COMMANDS = {line.split("/")[-1]: shlex.split(line) for line in re.findall(r"^dynconv export .*$", PAGE, re.MULTILINE)}
# Title -> the block of Python below it.
BLOCKS = dict(re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def root(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the page's commands are given in: runs/calibrator has learnt for a step and adapted for two."""
    root = tmp_path_factory.mktemp("page")
    data = ["--source", f"one={domains / 'one'}", "--target", f"three={domains / 'three'}"]
    words = ["--max-steps", "3", "--pretrain", "0.3", "--batch-size", "8", "--backbone", "lenet-small", "--width", "4"]
    words += ["--blocks", "1", "--device", "cpu", "--out", str(root / "runs" / "calibrator")]
    patch = pytest.MonkeyPatch()
    # What is timed is of no concern here.
    patch.setattr(overhead, "BUDGET", 1e-3)
    patch.setattr(overhead, "MIN_ROUNDS", 1)
    assert cli.main(["train", "calibrator", *data, *words]) == 0
    yield root
    patch.undo()


@pytest.fixture(scope="module")
def deployed(root: Path) -> Callable[[str], Path]:
    """Runs one of the page's commands, once, and gives its folder."""

    def deploy(name: str) -> Path:
        folder = root / "deployed" / name
        if not folder.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(root)
                assert cli.main(COMMANDS[name][1:]) == 0
        return folder

    return deploy


@pytest.fixture(scope="module")
def loaded(root: Path) -> LoadedRun:
    return load_run(root / "runs" / "calibrator", device="cpu")


@pytest.fixture(scope="module")
def classifier(loaded: LoadedRun) -> AdaptedModel:
    with adapted_model(loaded, (32, 32), "classifier") as classifier:
        return classifier


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def calibrator_of(loaded: LoadedRun) -> Calibrator:
    assert isinstance(loaded.method, CalibratorMethod)
    return loaded.method.calibrator


def test_the_page_has_a_block_for_each_way_and_a_command_for_each_folder() -> None:
    ways = ["A module", "An exported program", "ONNX", "A dynamically quantised classifier", "A pruned classifier"]
    assert list(BLOCKS) == ways
    assert PAGE.count("```python") == len(ways)
    used = set(re.findall(r'"deployed/([\w-]+)', "".join(BLOCKS.values())))
    assert set(COMMANDS) == used


# An export of each of the two networks takes seconds.
MARKS: dict[str, Any] = {
    "An exported program": pytest.mark.slow,
    "ONNX": pytest.mark.slow,
    "A dynamically quantised classifier": pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("way", [pytest.param(way, marks=MARKS.get(way, ())) for way in BLOCKS])
@torch.no_grad()
def test_the_calibrator_works_in_front_of(
    way: str,
    root: Path,
    deployed: Callable[[str], Path],
    loaded: LoadedRun,
    classifier: AdaptedModel,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = BLOCKS[way]
    if way == "ONNX":
        pytest.importorskip("onnxruntime", reason="pip install dynconv[export]")
        pytest.importorskip("onnxscript", reason="pip install dynconv[export]")
    for name in set(re.findall(r'"deployed/([\w-]+)', block)):
        deployed(name)
    monkeypatch.chdir(root)
    # Where there is no torch, they are an array.
    given = images.numpy() if way == "ONNX" else images
    names: dict[str, Any] = {"images": given, "classifier": classifier}
    exec(compile(block, f"docs/deployment.md, {way}", "exec"), names)
    found = torch.as_tensor(names["scores"])
    calibrated = calibrator_of(loaded)(images)
    behind = names.get("quantised") or names.get("pruned") or classifier
    torch.testing.assert_close(found, behind(calibrated), rtol=1e-4, atol=1e-5)
    # The whole method, from the pipeline's own normalisation on.
    whole = loaded.method.predict(images * classifier.span + classifier.low)
    compressed = behind is not classifier
    assert float((found - whole).abs().max()) < (0.5 * float(whole.abs().max()) if compressed else 1e-4)
    # Without the calibrator the scores are others.
    assert float((found - behind(images)).abs().max()) > 1e-3
    if way == "A dynamically quantised classifier":
        kinds = [type(layer) for layer in behind.modules()]
        assert nn.Linear not in kinds and torch.ao.nn.quantized.dynamic.Linear in kinds
        assert not torch.equal(found, classifier(calibrated))
    if way == "A pruned classifier":
        weights = [p for name, p in behind.named_parameters() if name.endswith("weight") and p.dim() > 1]
        zero = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        assert zero == pytest.approx(0.5, abs=1e-3) and not any("orig" in name for name in behind.state_dict())


PROGRAM = """
import json, sys
import numpy as np
images = np.load(sys.argv[1])
{statements}
np.save(sys.argv[2], found)
print(json.dumps(sorted(sys.modules)))
"""
BY_SAFETENSORS = """
import torch
from dynconv.models import load_calibrator
found = load_calibrator({folder!r})(torch.from_numpy(images)).detach().numpy()
"""
BY_TORCH = """
import torch
found = torch.export.load({folder!r} + "/{file}.pt2").module()(torch.from_numpy(images)).detach().numpy()
"""
BY_ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession({folder!r} + "/{file}.onnx", providers=["CPUExecutionProvider"])
(found,) = session.run(None, {{"images": images}})
"""
TRAINING = ("dynconv.methods", "dynconv.engine", "dynconv.data", "dynconv.losses", "dynconv.metrics", "dynconv.report")
TRAINING += ("lightning", "torchvision", "matplotlib", "sklearn", "torchmetrics", "tyro", "PIL")
# An export takes seconds: the default tier has one of ONNX.
FRESH = [
    ("calibrator", BY_SAFETENSORS, TRAINING),
    pytest.param("calibrator-torch", BY_TORCH, ("dynconv", *TRAINING), marks=pytest.mark.slow),
    ("calibrator-onnx", BY_ONNX, ("dynconv", "torch", *TRAINING)),
    pytest.param("classifier-torch", BY_TORCH, ("dynconv", *TRAINING), marks=pytest.mark.slow),
    pytest.param("classifier-onnx", BY_ONNX, ("dynconv", "torch", *TRAINING), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("folder", "statements", "forbidden"), FRESH)
def test_a_fresh_process_needs_no_training_code(
    folder: str,
    statements: str,
    forbidden: tuple[str, ...],
    deployed: Callable[[str], Path],
    loaded: LoadedRun,
    classifier: AdaptedModel,
    tmp_path: Path,
) -> None:
    if folder.endswith("-onnx"):
        pytest.importorskip("onnxruntime", reason="pip install dynconv[export]")
        pytest.importorskip("onnxscript", reason="pip install dynconv[export]")
    # A calibrator takes another size than the run's, and not square.
    size, file, whole = (20, 48), "calibrator", calibrator_of(loaded)
    if folder.startswith("classifier"):
        size, file, whole = (32, 32), "model", classifier
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(2))
    np.save(tmp_path / "images.npy", images.numpy())
    program = PROGRAM.format(statements=statements.format(folder=str(deployed(folder)), file=file))
    arguments = [sys.executable, "-c", program, str(tmp_path / "images.npy"), str(tmp_path / "found.npy")]
    result = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=tmp_path)
    found = torch.from_numpy(np.load(tmp_path / "found.npy"))
    with torch.no_grad():
        torch.testing.assert_close(found, whole(images), rtol=0, atol=1e-5)
    modules = json.loads(result.stdout)
    assert [name for name in modules if name.startswith(tuple(f"{f}." for f in forbidden)) or name in forbidden] == []


def test_the_weights_alone_and_what_is_told_of_them(
    root: Path, loaded: LoadedRun, classifier: AdaptedModel, tmp_path: Path, capsys: Capture
) -> None:
    run, out = str(root / "runs" / "calibrator"), tmp_path / "new"
    assert cli.main(["export", run, "--part", "calibrator", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'calibrator.safetensors'}\n"
    assert sorted(file.name for file in out.iterdir()) == ["calibrator.json", "calibrator.safetensors"]
    facts = json.loads((out / "calibrator.json").read_text())
    assert facts["calibrator"] == calibrator_of(loaded).options() and facts["calibrator"]["width"] == 4
    assert (facts["run"], facts["method"], facts["backbone"], facts["step"]) == (run, "calibrator", "lenet-small", 3)
    assert facts["program"] is None and facts["input"]["range"] == facts["output"]["range"] == [0, 1]
    assert "squeeze to 32 x 32" in facts["use"]
    own, theirs = (sum(p.numel() for p in part.parameters()) for part in (calibrator_of(loaded), classifier))
    parameters = facts["overhead"]["parameters"]
    assert (parameters["calibrator"], parameters["classifier"]) == (own, theirs)
    assert f"parameters: calibrator {own:,}, classifier {theirs:,} ({100 * own / theirs:.1f} %)" in captured.err
    assert [row["batch"] for row in facts["overhead"]["milliseconds_per_batch"]] == [1, 64]
    assert facts["overhead"]["threads"] == torch.get_num_threads()


@pytest.mark.slow
@torch.no_grad()
def test_the_whole_model_is_what_the_run_predicts(
    root: Path, loaded: LoadedRun, images: Tensor, tmp_path: Path
) -> None:
    words = ["--part", "model", "--format", "torch", "--out", str(tmp_path / "new")]
    assert cli.main(["export", str(root / "runs" / "calibrator"), *words]) == 0
    assert json.loads((tmp_path / "new" / "model.json").read_text())["part"] == "model"
    program = torch.export.load(tmp_path / "new" / "model.pt2").module()
    torch.testing.assert_close(program(images), loaded.method.predict(images * 2 - 1), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused_in_words(
    root: Path, loaded: LoadedRun, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = str(root / "runs" / "calibrator"), tmp_path / "new"
    message = fails(capsys, "export", run, "--part", "classifier", "--out", str(out))
    assert "--part classifier is written as a program: give --format torch or --format onnx" in message
    assert "is not empty" in fails(capsys, "export", run, "--part", "calibrator", "--out", run)
    assert "generator" in fails(capsys, "export", run, "--part", "generator", "--out", str(out))
    other = METHODS["source-only"](METHODS["source-only"].config_class(), 3)
    with pytest.raises(ValueError, match="which has no calibrator; give one of `dynconv train calibrator`"):
        export_calibrator(dataclasses.replace(loaded, method=other), out)
    monkeypatch.setattr(loaded.method, "calibrating", False)
    with pytest.raises(ValueError, match="step 3.* is from before the calibrator's first step"):
        export_calibrator(loaded, out)
    assert list(tmp_path.iterdir()) == []


def test_files_that_give_other_images_are_refused(
    loaded: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_calibrator", lambda folder: lambda images: images)
    with pytest.raises(ExportMismatch, match="calibrator.safetensors differs from the network by"):
        export_calibrator(loaded, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_no_number_agrees_with_anything() -> None:
    number, none = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert agreement(lambda x: x, [(number, number)], "f", "scores") == ("scores", 0.0, 1e-4)
    for found, expected in ((none, number), (number, none), (none, none)):
        with pytest.raises(ExportMismatch, match="f differs from the network by nan"):
            agreement(lambda x, found=found: found, [(number, number), (number, expected)], "f", "scores")
    with pytest.raises(ExportMismatch, match=r"f: scores \(1,\) where the network has \(2,\)"):
        agreement(lambda x: x[:1], [(number, number)], "f", "scores")


class Clocked(nn.Linear):
    """Takes its time by a clock that is advanced by hand."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        super().__init__(4, 4)
        self.clock, self.seconds = clock, seconds

    def forward(self, images: Tensor) -> Tensor:
        self.clock[0] += self.seconds * len(images)
        return super().forward(images)


def test_the_overhead_is_the_medians_of_both_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(overhead, "MIN_ROUNDS", 5)
    monkeypatch.setattr(overhead, "BUDGET", 0.01)
    monkeypatch.setattr("dynconv.timing.time.perf_counter", lambda: clock[0])
    found = measure_overhead(Clocked(clock, 0.002), Clocked(clock, 0.005), (4, 4), batches=(1, 3))
    assert (found.calibrator_parameters, found.classifier_parameters) == (20, 20)
    # A linear layer of 4 on each of 3 x 4 rows.
    assert (found.calibrator_macs, found.classifier_macs) == (192, 192)
    for row, batch in zip(found.latencies, (1, 3), strict=True):
        assert (row.batch, row.without, row.calibrated) == (batch, pytest.approx(5 * batch), pytest.approx(7 * batch))
        assert row.rounds == 5


def test_the_overhead_in_words() -> None:
    cost = Overhead(180_419, 3_133_962, 14_204_928, 29_545_472, (Latency(1, 1.5, 2.25, 30),), 2, "a processor")
    assert cost.lines() == [
        "parameters: calibrator 180,419, classifier 3,133,962 (5.8 %)",
        "multiply-adds per image: calibrator 14.20 M, classifier 29.55 M (48.1 %)",
        "batch of 1: 1.50 ms without the calibrator, 2.25 ms with it",
        "medians of interleaved repeats, 2 threads of a processor",
    ]
    (row,) = cost.to_dict()["milliseconds_per_batch"]
    assert row == {"batch": 1, "classifier": 1.5, "with_calibrator": 2.25, "repeats": 30}

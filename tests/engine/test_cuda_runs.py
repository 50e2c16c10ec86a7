"""The engine by device: the CPU's parameters prove the bodies, those of CUDA run with `-m gpu`.

On CUDA a run is held against the same one on the CPU, whose results the other tests look at. Where a run on the CPU
would say nothing that these do not say already, its parameter is slow.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import test_distributed as distributed
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from rich.console import Console
from same_run import assert_same_run, call_at_step, flat, interrupt
from scenes import write_day_and_dusk
from tiny_scenes import use_tiny
from torch import Tensor

from dynconv import cli
from dynconv.data import Batch, DomainBatches, SourceBatch, TargetBatch, TargetSelection
from dynconv.engine.checkpoint import load_checkpoint, random_state, set_random_state
from dynconv.engine.config import TrainConfig
from dynconv.engine.interrupt import Interrupted
from dynconv.engine.loaded_run import load_run
from dynconv.engine.meter import Meter
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.step import Stepper
from dynconv.engine.train import make_fabric, open_folder, prepare, train
from dynconv.methods import METHODS, Method

Make = Callable[..., TrainConfig]
# For its quick stand-in for deep embedded validation.
pytestmark = pytest.mark.usefixtures("tiny")

SLOW_ON_CPU = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
GAME = {"norm": "none", "hidden_features": 8, "pretrain": 0.34}
# One of each family, as small as it runs.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "source-only": ("source-only", {}),
    "mcd": ("mcd", {"class_balance": 0.3}),
    "drt": ("drt", {"num_bases": 2}),
    "dann": ("dann", {"hidden_features": 8}),
    "gsda": ("gsda", {"hidden_features": 8, "num_groups": (2,), "selection_every": 2, "confidence": 0.4}),
    "calibrator": ("calibrator", {"width": 2, "blocks": 1, "pretrain": 0.34}),
    "gam": ("gam", GAME | {"discriminator_steps": 1, "order": "jointly"}),
    "adda": ("adda", GAME | {"residual": "combined", "num_bases": 2}),
    "cyclegan": ("cyclegan", {"width": 2, "blocks": 1, "discriminator_width": 4, "pool_size": 7}),
    "gaussian": ("gaussian", {"norm": "none"}),
    "adabn": ("adabn", {}),
    "dan": ("dan", {"bottleneck": 8, "weights_every": 1}),
    "self-training": ("self-training", {"warmup_steps": 2, "selection_every": 2, "pseudo_labels": "soft"}),
}
SCENES: dict[str, dict[str, Any]] = {
    "source-only": {},
    "mcd": {},
    "calibrator": {"pretrain": 0.34},
    "gam": {"pretrain": 0.34, "discriminator_steps": 1, "hidden_features": 8},
    "gaussian": {},
}


def of_family(make_config: Make, out: Path, family: str, device: str, **run: Any) -> TrainConfig:
    name, fields = FAMILIES[family]
    run = {"max_steps": 6, "eval_every": 3, "device": device, **run}
    return make_config(out, name, METHODS[name].config_class(**fields), **run)


def of_scenes(root: Path, out: Path, name: str, device: str, **run: Any) -> TrainConfig:
    options: dict[str, Any] = {"max_steps": 4, "eval_every": 2, "batch_size": 2, "image_size": (24, 32), **run}
    given = RunOptions(protocol="camvid_day-camvid_dusk", data_root=root, out=out, device=device, **options)
    return TrainConfig(name, given, METHODS[name].config_class(backbone="erfnet-encoder", **SCENES[name]))


def prepared(config: TrainConfig) -> Run:
    is_half = (config.run.device, config.run.precision) == ("cpu", "16-mixed")
    fabric = half_on_the_cpu() if is_half else make_fabric(config.run)
    return prepare(config, open_folder(config), fabric)


def half_on_the_cpu() -> Fabric:
    """16-mixed as on a GPU, with the same scaler; no run is allowed it on the CPU, where it would crawl."""
    scaler = torch.amp.GradScaler("cpu")
    return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))


def close(found: Tensor, expected: Tensor, *, name: str, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(
        found.double().cpu(), expected.double().cpu(), rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}"
    )


def steps_on(device: torch.device, case: str, accelerator: str | None = None) -> dict[str, Tensor]:
    """As `test_distributed.train` in one process: the parameters after its steps and the mean losses, in float64."""
    name, fields = distributed.CASES[case]
    torch.manual_seed(0)
    cls, data = METHODS[name], distributed.protocol()
    method: Method = cls.for_task(cls.config_class(**fields), distributed.CLASSES, len(data.sources)).double()
    method.to(device)
    batches = DomainBatches(
        data, batch_size=12, seed=0, class_balanced=method.class_balanced, augmentation="flip", prefetch=0
    )
    fabric = Fabric(accelerator=accelerator or device.type, devices=1)
    stepper = Stepper(fabric, method, method.optimisers(), clip_norm=0.5)
    meter = Meter(device)
    method.train()
    for step in range(distributed.STEPS):
        if method.refresh_interval(1) and method.refresh_due():
            with torch.no_grad():
                scores = method.eval().predict(data.target.train.images.to(device).double() / 255)
            found = method.train().refresh(scores)
            if found.changed:
                batches.select_target(found.selection)
        # Normalised on the CPU, for its float32 differs in the last bit from device to device.
        stepper.advance(moved(next(batches), device), step, distributed.STEPS, meter)
    means = {f"log/{key}": torch.tensor(value) for key, value in meter.means().items() if "accuracy" not in key}
    return {**{key: value.detach().cpu() for key, value in method.state_dict().items()}, **means}


def moved(batch: Batch, device: torch.device) -> Batch:
    source, target = batch.source, batch.target

    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(device)

    return Batch(
        SourceBatch(source.images.double().to(device), source.labels.to(device), source.domains.to(device)),
        TargetBatch(
            target.images.double().to(device),
            target.indices.to(device),
            of(target.pseudo_labels),
            of(target.pseudo_probabilities),
        ),
    )


STEPPED = [
    pytest.param("cpu", "self-training", id="cpu-self-training"),
    *(pytest.param("cuda", case, id=f"cuda-{case}", marks=pytest.mark.gpu) for case in distributed.CASES),
]


@pytest.mark.parametrize(("device", "case"), STEPPED)
def test_a_method_takes_the_steps_of_the_cpu(device: str, case: str) -> None:
    found, expected = steps_on(torch.device(device), case), distributed.train(case, 0, 1)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 0 if device == "cpu" else 1e-6
        close(found[name], value, name=name, atol=tolerance, rtol=tolerance)


def finite(folder: RunFolder) -> None:
    for row in (*folder.rows(), *folder.training_rows()):
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        assert numbers and all(torch.tensor(value).isfinite() for value in numbers.values()), row


def check_run(config: TrainConfig, device: str) -> Run:
    """Train; everything is on the device, every figure is finite, and the state comes back, there and on the CPU."""
    run = prepared(config)
    before = [p.detach().clone() for p in run.method.parameters()]
    run.fit(Console(quiet=True))
    finite(run.folder)
    assert all(
        t.device.type == device and t.isfinite().all() for t in (*run.method.parameters(), *run.method.buffers())
    )
    assert any(not torch.equal(a, b) for a, b in zip(before, run.method.parameters(), strict=True))
    again = prepared(config)
    assert again.step == run.max_steps
    left, right = flat(run.state()), flat(again.state())
    assert left.keys() == right.keys()
    for key in left.keys() - {"/seconds"}:
        same = torch.equal(left[key], right[key]) if isinstance(left[key], Tensor) else left[key] == right[key]
        assert same, key
    again.folder.lock.release()
    return run


def check_on_the_cpu(run: Run) -> None:
    """The run's network, opened on the CPU, gives the scores that it gives where it was trained."""
    loaded = load_run(run.folder.path, device="cpu")
    assert all(t.device.type == "cpu" for t in loaded.method.state_dict().values())
    few = run.evaluation.protocol.target.test.subset(torch.arange(4))
    with torch.no_grad():
        (here,), (there,) = (
            [scores for scores, _ in scoring.batches(method.eval(), few)]
            for scoring, method in ((loaded.scoring, loaded.method), (run.evaluation.scoring, run.method))
        )
    close(there, here, atol=1e-2 * float(here.abs().max()), name="scores")


@pytest.mark.parametrize("device", SLOW_ON_CPU)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_comes_back(family: str, device: str, tmp_path: Path, make_config: Make) -> None:
    check_on_the_cpu(check_run(of_family(make_config, tmp_path / "run", family, device), device))


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny(monkeypatch)
    return write_day_and_dusk(tmp_path / "scenes", images=4, size=(24, 32))


@pytest.mark.parametrize("device", SLOW_ON_CPU)
@pytest.mark.parametrize("name", SCENES)
def test_scenes_train_and_come_back(name: str, device: str, tmp_path: Path, scenes: Path) -> None:
    check_run(of_scenes(scenes, tmp_path / "run", name, device), device)


MIXED = [
    pytest.param(device, precision, marks=mark)
    for device, mark in (("cpu", pytest.mark.slow), ("cuda", pytest.mark.gpu))
    for precision in ("bf16-mixed", "16-mixed")
]


@pytest.mark.parametrize(("device", "precision"), MIXED)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_in_mixed_precision(
    family: str, device: str, precision: str, tmp_path: Path, make_config: Make
) -> None:
    """With clipping, before which a scaler takes its scale back, and micro-batches, whose gradients share one."""
    options = {"precision": precision, "clip_norm": 1.0, "accumulate": 1 if family == "gaussian" else 2}
    run = check_run(of_family(make_config, tmp_path / "run", family, device, **options), device)
    assert all(p.dtype == torch.float32 for p in run.method.parameters())
    assert (run.stepper.scaler is not None) == (precision == "16-mixed")
    if run.stepper.scaler is not None:
        # Of the first steps it may take back some; one that takes back all of them halves its scale each time.
        assert run.stepper.scaler.get_scale() > 2**8


@pytest.mark.parametrize(("device", "precision"), MIXED)
def test_scenes_train_in_mixed_precision(device: str, precision: str, tmp_path: Path, scenes: Path) -> None:
    check_run(of_scenes(scenes, tmp_path / "run", "calibrator", device, precision=precision), device)


@pytest.mark.parametrize("device", SLOW_ON_CPU)
@pytest.mark.parametrize("fields", [{"channels_last": False}, {"channels_last": True}, {"compile": True}], ids=str)
def test_layout_and_compilation_change_no_result(
    fields: dict[str, Any], device: str, tmp_path: Path, make_config: Make, quiet: Console
) -> None:
    # By SGD: a gradient of about zero, whose sign is rounding's, moves its weight by nothing and not by a whole step.
    options = METHODS["drt"].config_class(num_bases=2, optimiser="sgd", lr=0.02)

    def weights(name: str, **run: Any) -> dict[str, Tensor]:
        config = make_config(tmp_path / name, "drt", options, max_steps=2, eval_every=2, device=device, **run)
        return load_checkpoint(train(config, console=quiet).last)["method"]

    found, plain = weights("one", **fields), weights("two", channels_last=False)
    torch.manual_seed(0)
    start = METHODS["drt"].for_task(options, 3, 2).state_dict()
    gone = max(float((plain[name] - value).abs().max()) for name, value in start.items() if value.is_floating_point())
    assert gone > 1e-2
    for name, value in plain.items():
        close(found[name], value, name=name, atol=2e-4, rtol=5e-3)
    torch._dynamo.reset()


def selection(count: int) -> TargetSelection:
    indices = torch.arange(0, count, 2)
    labels = indices % distributed.CLASSES
    return TargetSelection(indices, labels, torch.nn.functional.one_hot(labels, distributed.CLASSES).float())


@pytest.mark.parametrize("selected", [False, True])
def test_batches_arrive_on_the_device_as_the_cpu_draws_them(device: str, selected: bool) -> None:
    data = distributed.protocol()
    options = {"batch_size": 12, "seed": 3, "augmentation": "crop-flip", "normalisation": "imagenet"}
    here, there = DomainBatches(data, **options), DomainBatches(data, **options, device=device, prefetch=2)
    if selected:
        for batches in (here, there):
            batches.select_target(selection(len(data.target.train)))
    for _ in range(5):
        one, other = next(here), next(there)
        for name in ("images", "labels", "domains"):
            same_values(name, getattr(other.source, name), getattr(one.source, name), device)
        for name in ("images", "indices", "pseudo_labels", "pseudo_probabilities"):
            same_values(name, getattr(other.target, name), getattr(one.target, name), device)
        assert other.target.images.is_contiguous(memory_format=torch.channels_last)
    waiting = [future.result() for future in there._ahead]
    assert len(waiting) == (2 if device == "cuda" else 0), "what is in memory is drawn ahead for a GPU alone"
    assert all(drawn.source.is_pinned() and drawn.target.is_pinned() for drawn in waiting)


def same_values(name: str, found: Tensor | None, expected: Tensor | None, device: str) -> None:
    if expected is None:
        assert found is None
        return
    assert found is not None and found.device.type == device and found.dtype == expected.dtype
    # Normalisation in float32 may be rounded once more or less.
    close(found, expected, atol=1e-6 if name == "images" else 0, name=name)


def test_the_generators_of_the_device_come_back(device: str) -> None:
    before = random_state()

    def drawn() -> list[Tensor]:
        return [torch.rand(5), torch.rand(5, device=device)]

    first = drawn()
    set_random_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(), strict=True))
    assert all(state.device.type == "cpu" for state in before["cuda"]) and (device == "cpu" or before["cuda"])


@pytest.mark.parametrize("device", SLOW_ON_CPU)
@pytest.mark.parametrize("family", ["dann", "gsda", "gam", "cyclegan"])
def test_a_stopped_run_goes_on_where_it_was(
    family: str, device: str, tmp_path: Path, make_config: Make, quiet: Console
) -> None:
    """Bit-identical on the CPU; on a GPU, whose sums may change their order, with the same draws to close losses."""
    whole = train(of_family(make_config, tmp_path / "whole", family, device), console=quiet)
    config = of_family(make_config, tmp_path / "broken", family, device)
    run = prepared(config)
    call_at_step(run, 3, interrupt)
    with pytest.raises(Interrupted):
        run.fit(quiet)
    broken = train(config, console=quiet)
    if device == "cpu":
        assert_same_run(whole, broken)
        return
    left, right = (load_checkpoint(folder.last) for folder in (whole, broken))
    for name, value in flat(left["random"]).items():
        other = flat(right["random"])[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name
    for row, other in zip(whole.training_rows(), broken.training_rows(), strict=True):
        losses = {name: value for name, value in row.items() if name.startswith("loss")}
        assert losses and {name: other[name] for name in losses} == pytest.approx(losses, rel=0.02, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("there", ["cpu", "cuda"])
def test_a_run_goes_on_on_another_device(there: str, tmp_path: Path, make_config: Make, quiet: Console) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run = prepared(of_family(make_config, tmp_path / "run", "dann", "cuda" if there == "cpu" else "cpu"))
    call_at_step(run, 3, interrupt)
    with pytest.raises(Interrupted):
        run.fit(quiet)
    again = prepared(of_family(make_config, tmp_path / "run", "dann", there))
    assert again.step == 4 and all(p.device.type == there for p in again.method.parameters())
    again.fit(quiet)
    finite(again.folder)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def accuracies(printed: str) -> dict[str, float]:
    found = {name: value for name, value in json.loads(printed).items() if name.endswith("/accuracy")}
    assert found
    return found


@pytest.mark.parametrize("device", SLOW_ON_CPU)
def test_a_run_is_read_on_either_device(
    device: str, tmp_path: Path, make_config: Make, domains: Path, capsys: pytest.CaptureFixture[str], quiet: Console
) -> None:
    """Evaluated and asked there, on the CPU and on a machine without a GPU; exported, reported."""
    config = of_family(make_config, tmp_path / "run", "source-only", device, max_steps=12)
    run = str(train(config, console=quiet).path)
    tables, figures = {}, {}
    for where in {"cpu", device}:
        out = tmp_path / f"{where}.csv"
        assert cli.main(["predict", run, str(domains / "three"), "--out", str(out), "--device", where]) == 0
        tables[where] = table(out)
        capsys.readouterr()
        assert cli.main(["eval", run, "--json", "--device", where]) == 0
        figures[where] = accuracies(capsys.readouterr().out)
    other = subprocess.run(
        [sys.executable, "-m", "dynconv", "eval", run, "--json", "--device", "cpu"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert other.returncode == 0, other.stderr
    assert accuracies(other.stdout) == figures["cpu"]
    for name, value in figures["cpu"].items():
        # One of twelve images may change sides.
        assert figures[device][name] == pytest.approx(value, abs=0.1), name
    assert [row["path"] for row in tables[device]] == [row["path"] for row in tables["cpu"]]
    agree = [row["class"] == own["class"] for row, own in zip(tables[device], tables["cpu"], strict=True)]
    assert sum(agree) >= len(agree) - 2
    assert cli.main(["export", run, "--format", "torch", "--out", str(tmp_path / "program")]) == 0
    assert cli.main(["report", run, "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.md").exists()


@pytest.mark.parametrize("device", SLOW_ON_CPU)
def test_two_devices_end_where_one_ends(device: str, tmp_path: Path, make_config: Make, quiet: Console) -> None:
    """On GPUs by NCCL, batch normalisation over both; on a CPU, for which torch has none, without normalisation."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices; there are {torch.cuda.device_count()}")
    fields = {"norm": "batch" if device == "cuda" else "none", "optimiser": "sgd", "lr": 0.01}
    options = METHODS["mcd"].config_class(**fields)
    run = {"max_steps": 4, "eval_every": 4, "device": device}
    one = train(make_config(tmp_path / "one", "mcd", options, **run), console=quiet)
    distributed.run_train(make_config(tmp_path / "two", "mcd", options, **run), tmp_path / "two", "--devices", "2")
    alone, shared = (load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (one.path, tmp_path / "two"))
    assert len(shared["random"]) == 2
    for name, value in alone["method"].items():
        close(shared["method"][name], value, atol=1e-3, name=name)

"""A published file as a run, and the methods that start from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fails
from rich.console import Console
from scenes import write_day_and_dusk
from tiny_scenes import TinyScenes, use_tiny
from torch import nn

from dynconv import cli
from dynconv.data.scenes.label_maps import CAMVID_11
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import load_run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import train
from dynconv.methods import (
    METHODS,
    ADDAConfig,
    ImportedConfig,
    MethodConfig,
)
from dynconv.models import build

# The file's classes: another order than the run's, and one more.
NAMES = ("void", *reversed(CAMVID_11))
SMALL: dict[str, Any] = {"hidden_features": 8, "discriminator_steps": 1}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scenes in root/data, and root/published.pth: a network that scores `NAMES`."""
    use_tiny(monkeypatch)
    torch.manual_seed(0)
    scores = nn.Conv2d(6, len(NAMES), 1)
    nn.init.normal_(scores.weight)
    state = TinyScenes().state_dict() | {f"encoder.output_conv.{k}": v for k, v in scores.state_dict().items()}
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "published.pth")
    write_day_and_dusk(tmp_path / "data", images=5, size=(24, 32))
    return tmp_path


def config(root: Path, method: str, name: str, steps: int, **fields: Any) -> TrainConfig:
    run = RunOptions(
        protocol="camvid_day-camvid_dusk", data_root=root / "data", out=root / name,
        max_steps=steps, batch_size=2, image_size=(24, 32), device="cpu",
    )  # fmt: skip
    own: MethodConfig = METHODS[method].config_class(backbone="erfnet-encoder", **fields)
    return TrainConfig(method, run, own)


def imported(root: Path, quiet: Console, **fields: Any) -> RunFolder:
    own = {"weights": str(root / "published.pth"), "weight_classes": NAMES, **fields}
    return train(config(root, "imported", "imported", 1, **own), console=quiet)


def figures(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith(("target-test/", "source-"))}


def test_the_command_makes_a_finished_run_of_a_file_and_a_matching_goes_on_from_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "imported", "--backbone", "erfnet-encoder", "--weights", str(root / "published.pth")]
    words += ["--protocol", "camvid_day-camvid_dusk", "--data-root", str(root / "data"), "--image-size", "24", "32"]
    words += ["--batch-size", "2", "--device", "cpu", "--out", str(root / "imported")]
    assert "give --max-steps 1" in fails(capsys, *words, "--weight-classes", *NAMES)
    one = [*words, "--max-steps", "1", "--weight-classes"]
    assert "void stand there more than once" in fails(capsys, *one, *NAMES, "void")
    assert not (root / "imported" / "config.yaml").exists()
    assert cli.main([*one, *NAMES]) == 0
    assert "the scores of 11 classes came with the weights; left out: those of void" in capsys.readouterr().err
    folder = RunFolder(root / "imported")
    # What the run says of itself stays in its folder, for the report.
    assert "the scores of 11 classes came" in json.loads(folder.environment.read_text())[0]["notice"]
    before, after = folder.rows()
    assert figures(before) == figures(after) and "target-test/camvid_dusk/mean-iou" in before
    # The file may go: the run has what it held.
    state = torch.load(root / "published.pth", weights_only=True)
    os.unlink(root / "published.pth")
    made = load_run(folder.path, device="cpu").method
    places = [NAMES.index(name) for name in CAMVID_11]
    assert torch.equal(made.heads[0].score.weight, state["module.encoder.output_conv.weight"][places])
    assert cli.main(["match", str(folder.path), "--out", str(root / "matched"), "--device", "cpu"]) == 0
    start, matched = RunFolder(root / "matched").rows()
    assert figures(start) == figures(before) and figures(matched) != figures(before)


@pytest.mark.parametrize(
    ("method", "steps", "fields"),
    [
        ("gam", 2, SMALL),
        ("adda", 2, {"hidden_features": 8}),
        ("calibrator", 2, {"width": 2, "blocks": 1, "patch_size": 8}),
        ("gaussian", 1, {}),
        ("target-only", 2, {}),
    ],
)
def test_what_starts_from_a_run_starts_from_the_published_network(
    method: str, steps: int, fields: dict[str, Any], root: Path, quiet: Console
) -> None:
    source = imported(root, quiet)
    # Its `weights` tell how images are normalised.
    start = {"source_checkpoint": str(source.last), "weights": str(root / "published.pth")}
    os.unlink(root / "published.pth")
    folder = train(config(root, method, method, steps, **fields, **start), console=quiet)
    own, first, last = figures(source.rows()[-1]), folder.rows()[0], folder.rows()[-1]
    # A fine-tuning knows no source, and a calibrator changes the scores from the first.
    same = [name for name in own if name.startswith("target-test/")]
    assert same and (method == "calibrator" or {name: first[name] for name in same} == {n: own[n] for n in same})
    assert last["step"] == steps
    state = torch.load(folder.last, weights_only=True)["method"]
    published = torch.load(source.last, weights_only=True)["method"]
    moved = {
        "gam": "features.target.layers.0.weight",
        "adda": "features.target.layers.0.weight",
        "gaussian": "features.layers.4.weight",
        "target-only": "features.layers.0.weight",
    }
    if method in moved:
        key = moved[method]
        assert not torch.equal(state[key], published[key.replace(".target.", ".")])
    if method in ("gam", "adda"):
        assert torch.equal(state["features.source.layers.0.weight"], published["features.layers.0.weight"])


def test_images_in_the_files_own_normalisation_stay_so_in_what_starts_from_it(root: Path, quiet: Console) -> None:
    source = imported(root, quiet, image_norm="unit")
    assert load_run(source.path, device="cpu").scoring.network_input.normalisation == "unit"
    start = {"source_checkpoint": str(source.last), **SMALL}
    with pytest.raises(ValueError, match="normalised otherwise than there; give image_norm 'unit'"):
        train(config(root, "gam", "other", 2, **start), console=quiet)
    folder = train(config(root, "gam", "gam", 2, **start, image_norm="unit"), console=quiet)
    name = "target-test/camvid_dusk/pixel-accuracy"
    assert folder.rows()[0][name] == source.rows()[0][name]
    assert cli.main(["match", str(source.path), "--out", str(root / "matched"), "--device", "cpu"]) == 0
    assert load_run(root / "matched", device="cpu").scoring.network_input.normalisation == "unit"


@pytest.mark.usefixtures("tiny")
def test_a_classifier_of_whole_images_is_a_start_too(domains: Path, tmp_path: Path, quiet: Console) -> None:
    torch.manual_seed(0)
    network = build("lenet-small", num_classes=3, norm="none")
    head = network.make_head()
    state = network.features.state_dict() | {f"fc.{name}": value for name, value in head.state_dict().items()}
    torch.save(state, tmp_path / "lenet.pth")
    run: dict[str, Any] = {"source": (f"one={domains / 'one'}",), "target": f"three={domains / 'three'}"}
    run |= {"batch_size": 8, "device": "cpu"}
    classes = sorted(folder.name for folder in (domains / "one").iterdir())
    own = ImportedConfig(norm="none", weights=str(tmp_path / "lenet.pth"), weight_classes=tuple(classes[::-1]))
    source = train(
        TrainConfig("imported", RunOptions(**run, out=tmp_path / "imported", max_steps=1), own), console=quiet
    )
    made = load_run(source.path, device="cpu").method
    assert torch.equal(made.heads[0].weight, head.weight.flip(0))
    start = ADDAConfig(norm="none", source_checkpoint=str(source.last))
    folder = train(TrainConfig("adda", RunOptions(**run, out=tmp_path / "adda", max_steps=2), start), console=quiet)
    assert folder.rows()[0]["target-test/three/accuracy"] == source.rows()[0]["target-test/three/accuracy"]

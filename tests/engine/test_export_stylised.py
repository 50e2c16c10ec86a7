"""From a CycleGAN's run to a folder of translated images to a run that trains on them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fails
from PIL import Image

from dynconv import cli
from dynconv.data import DataError, normalise
from dynconv.engine import export_stylised as module
from dynconv.engine.loaded_run import load_run
from dynconv.engine.run_folder import RunFolder
from dynconv.methods import CycleGAN

Capture = pytest.CaptureFixture[str]
TINY = ["--width", "2", "--blocks", "1", "--discriminator-width", "2", "--pool-size", "4", "--backbone", "lenet-small"]
SHORT = ["--max-steps", "2", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cyclegan"
    data = ["--protocol", "embedded:plain-optical", "--source-limit", "40", "--target-limit", "20"]
    assert cli.main(["train", "cyclegan", *data, *TINY, *SHORT, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def stylised(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "stylised"
    assert cli.main(["export", str(run), "--part", "stylised", "--out", str(out)]) == 0
    return out


def test_every_training_image_is_there_as_the_generator_gives_it(run: Path, stylised: Path) -> None:
    loaded = load_run(run, device="cpu")
    assert isinstance(loaded.method, CycleGAN)
    split = loaded.protocol().sources[0].train
    # Those held out for validation too: it is the whole training split.
    assert len(split) == 40 > len(loaded.domains()[0].sources[0].train)
    names = [f"{label}_{place}_fake_B.png" for place, label in enumerate(split.labels.tolist())]
    assert sorted(file.name for file in stylised.iterdir()) == sorted([*names, "stylised.json"])
    with torch.no_grad():
        wanted = loaded.method.translate(normalise(split.images_at(torch.arange(40))))
    found = np.stack([np.asarray(Image.open(stylised / name)) for name in names])
    assert found.shape == (40, 32, 32, 3) and found.dtype == np.uint8
    difference = np.abs(found / 255 - wanted.permute(0, 2, 3, 1).numpy())
    assert difference.max() <= 0.5 / 255 + 1e-6 and found.std() > 1


def test_stylised_json_says_what_they_are(run: Path, stylised: Path) -> None:
    facts = json.loads((stylised / "stylised.json").read_text())
    per_class = {str(digit): 4 for digit in range(10)}
    assert facts["sources"] == [{"name": "plain", "first_id": 0, "images": 40, "per_class": per_class}]
    assert (facts["target"], facts["image_size"], facts["method"]) == ("optical", 32, "cyclegan")
    assert facts["generator"] == {"width": 2, "blocks": 1}
    assert (facts["run"], facts["step"]) == (str(run), 2)


def test_a_calibrator_trains_on_them_towards_the_known_target(stylised: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    data = ["--source", f"plain_stylised={stylised}", "--target", "embedded:optical", "--target-limit", "20"]
    tiny = ["--width", "2", "--blocks", "1", "--backbone", "lenet-small"]
    assert cli.main(["train", "calibrator", *data, *tiny, *SHORT, "--out", str(out)]) == 0
    last = RunFolder(out).rows()[-1]
    assert last["step"] == 2
    assert {"source-val/plain_stylised/accuracy", "target-test/optical/accuracy"} <= last.keys()


def test_several_sources_are_counted_through(domains: Path, tmp_path: Path) -> None:
    data = ["--source", f"one={domains / 'one'}", f"two={domains / 'two'}", "--target", f"three={domains / 'three'}"]
    run, out = str(tmp_path / "run"), tmp_path / "stylised"
    assert cli.main(["train", "cyclegan", *data, "--source-limit", "6", *TINY, *SHORT, "--out", run]) == 0
    assert cli.main(["export", run, "--part", "stylised", "--out", str(out)]) == 0
    facts = json.loads((out / "stylised.json").read_text())
    assert [(source["name"], source["first_id"]) for source in facts["sources"]] == [("one", 0), ("two", 6)]
    numbers = sorted(int(file.stem.split("_")[1]) for file in out.glob("*.png"))
    assert numbers == list(range(12))
    assert {file.name.split("_")[0] for file in out.glob("*.png")} == {"class0", "class1", "class2"}


def test_an_interrupted_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 16)
    out = tmp_path / "stylised"
    seen: list[tuple[int, int]] = []

    def stop(what: str, done: int, total: int) -> None:
        assert what == "stylised: translating" and len(list(tmp_path.glob("stylised*/*.png"))) == done
        seen.append((done, total))
        if done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module.export_stylised(load_run(run, device="cpu"), out, on_progress=stop)
    assert seen == [(16, 40), (32, 40)]
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_file_can_have_is_refused_before_the_first_image(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_run(run, device="cpu")
    protocol = loaded.protocol()
    (source,) = protocol.sources
    # The last class: its turn would come with the last images.
    bad = dataclasses.replace(source, classes=(*source.classes[:-1], "ni\nne"))
    monkeypatch.setattr(type(loaded), "protocol", lambda self: dataclasses.replace(protocol, sources=(bad,)))
    monkeypatch.setattr(module, "_translated", lambda *_: pytest.fail("an image was translated"))
    with pytest.raises(DataError, match="cannot be a part of a translated image's name"):
        module.export_stylised(loaded, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused_in_words(run: Path, stylised: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ("export", str(run), "--out", str(tmp_path / "x"))
    assert "--part stylised writes images" in fails(capsys, *words, "--part", "stylised", "--format", "onnx")
    assert "--data-root" in fails(capsys, *words, "--format", "torch", "--data-root", str(tmp_path))
    assert "is not empty" in fails(capsys, "export", str(run), "--part", "stylised", "--out", str(stylised))
    with pytest.raises(ValueError, match="expected a run of cyclegan, and .* is one of source-only"):
        loaded = load_run(run, device="cpu")
        object.__setattr__(loaded, "method", torch.nn.Identity())
        object.__setattr__(loaded.config, "method", "source-only")
        module.export_stylised(loaded, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []

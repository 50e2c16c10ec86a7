"""`dynconv export` of networks that label every pixel: what the files compute, and what tells how to use them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from scenes import write_day_and_dusk
from tiny_scenes import use_tiny

from dynconv import cli
from dynconv.data import normalise
from dynconv.data.scenes.label_maps import CAMVID_11, palette_of
from dynconv.engine.config import TrainConfig
from dynconv.engine.export import ModelPart, adapted_model, describe, export_run, input_size
from dynconv.engine.export_calibrator import trained_on
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.programs import Format
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import train
from dynconv.methods import METHODS
from dynconv.models import NetworkInput
from dynconv.models.cost import count_cost

SIZE = (24, 32)
OWN: dict[str, dict[str, Any]] = {
    "mcd": {"prediction": "max"},
    # Moves images by up to a tenth, so that its part in the scores is no rounding.
    "calibrator": {"width": 2, "blocks": 1, "epsilon": 0.1, "pretrain": 0.5, "feature_input": "logits"},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        yield


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A method's run of two steps, of the second of which the calibrator adapts."""
    root, out = write_day_and_dusk(tmp_path_factory.mktemp("scenes"), size=SIZE), tmp_path_factory.mktemp("runs")

    @functools.cache
    def make(name: str) -> Path:
        run = RunOptions(
            protocol="camvid_day-camvid_dusk", data_root=root, out=out / name, max_steps=2, batch_size=2, device="cpu",
            image_size=SIZE,
        )  # fmt: skip
        options = METHODS[name].config_class(backbone="erfnet-encoder", **OWN[name])
        return train(TrainConfig(name, run, options), console=Console(quiet=True)).path

    return make


CASES: tuple[tuple[str, ModelPart, Format], ...] = (
    ("calibrator", "model", "torch"),
    ("calibrator", "model", "onnx"),
    ("mcd", "model", "torch"),
    ("calibrator", "classifier", "torch"),
)


@pytest.mark.parametrize(
    ("method", "part", "form"),
    # An export takes seconds.
    [case if case == CASES[0] else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_a_program_gives_the_networks_scores_of_every_pixel(
    method: str, part: ModelPart, form: Format, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install dynconv[export]")
        pytest.importorskip("onnxscript", reason="pip install dynconv[export]")
    loaded = load_run(run_of(method), device="cpu")
    exported = export_run(loaded, tmp_path / "out", form, part)
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert facts["classes"] == list(CAMVID_11)
    assert facts["palette"] == [list(colour) for colour in palette_of(CAMVID_11)]
    assert facts["ignored_label"] == 255
    assert facts["input"]["shape"] == ["batch", 3, *SIZE]
    assert facts["output"]["shape"] == ["batch", 11, *SIZE]
    assert "one score per class and pixel" in facts["output"]["meaning"]
    assert facts["preprocessing"]["resize"] == facts["preprocessing"]["centre_crop"] == list(SIZE)
    assert "squeeze to 24 x 32 (height x width) whatever" in facts["preprocessing"]["words"]
    pixels = torch.randint(0, 256, (5, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    given, images = normalise(pixels, normalisation="half"), pixels / 255
    with torch.no_grad():
        own = loaded.method.predict(given) if part == "model" else loaded.method.scores(loaded.method.features(given))
    if form == "torch":
        found = torch.export.load(exported.file).module()(images)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == ["batch", 3, *SIZE]
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    torch.testing.assert_close(found, own, rtol=0, atol=1e-4)
    assert float(own.std()) > 1e-2


def test_with_and_without_its_calibrator_a_network_gives_other_scores(run_of: Callable[[str], Path]) -> None:
    method = load_run(run_of("calibrator"), device="cpu").method
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        difference = (method.predict(images) - method.scores(method.features(images))).abs().max()
    assert float(difference) > 1e-3


def test_a_calibrator_is_measured_beside_its_classifier_on_scenes(
    run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ["--part", "calibrator", "--out", str(tmp_path / "out"), "--image-size", "48", "64"]
    assert cli.main(["export", str(run_of("calibrator")), *words]) == 0
    facts = json.loads((tmp_path / "out" / "calibrator.json").read_text())
    assert "squeeze to 48 x 64 (height x width) whatever" in facts["use"]
    assert "trained on images of 24 x 32." in facts["use"]
    assert [row["batch"] for row in facts["overhead"]["milliseconds_per_batch"]] == [1]
    with adapted_model(load_run(run_of("calibrator"), device="cpu"), SIZE, "classifier") as classifier:
        of_half_the_sides = count_cost(classifier, torch.zeros(1, 3, *SIZE)).static_macs
    assert facts["overhead"]["macs_per_image"]["classifier"] == 4 * of_half_the_sides


def test_the_size_is_that_of_the_run_or_has_to_be_given(run_of: Callable[[str], Path]) -> None:
    def of(size: tuple[int, int] | None) -> LoadedRun:
        return dataclasses.replace(loaded, image_size=size)

    loaded = load_run(run_of("calibrator"), device="cpu")
    assert input_size(loaded) == SIZE
    assert input_size(loaded, (16, 40)) == (16, 40)
    with pytest.raises(ValueError, match="--image-size: the checkpoint of .* does not tell the size of its images"):
        input_size(of(None))
    with pytest.raises(ValueError, match="--image-size 30 32: erfnet-encoder takes multiples of 8; give such a size"):
        input_size(of((30, 32)))
    whole = dataclasses.replace(loaded.scoring, network_input=NetworkInput(64, "half"))
    with pytest.raises(
        ValueError, match="--image-size 16 40: erfnet-encoder takes images of 64 x 64 alone; leave it out"
    ):
        input_size(dataclasses.replace(loaded, scoring=whole), (16, 40))


def test_what_a_run_was_judged_by_and_trained_on_is_told(run_of: Callable[[str], Path]) -> None:
    def of(**fields: Any) -> LoadedRun:
        config = dataclasses.replace(loaded.config, run=dataclasses.replace(loaded.config.run, **fields))
        return dataclasses.replace(loaded, config=config)

    def words(run: LoadedRun) -> str:
        text: str = describe(run, "torch", model, SIZE)["preprocessing"]["words"]
        return text

    loaded = load_run(run_of("calibrator"), device="cpu")
    with adapted_model(loaded, SIZE, "model") as model:
        assert "judged" not in words(loaded)
        assert "judged by overlapping windows of 16 x 24 (height x width)" in words(of(eval_window=(16, 24)))
        assert "judged at the size of the label files" in words(of(full_resolution=True))
    assert trained_on(loaded) == " It was trained on images of 24 x 32."
    assert trained_on(of(crop_size=(16, 24))) == " It was trained on random parts of 16 x 24."
    assert trained_on(dataclasses.replace(loaded, image_size=None)) == ""

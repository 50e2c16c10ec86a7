"""A run's network as a file that needs no dynconv: a torch.export program, or ONNX."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dynconv.data import Normalisation, normalise
from dynconv.data.normalise import black_and_span
from dynconv.data.protocols import MARGINS
from dynconv.engine.evaluation import evaluating
from dynconv.engine.inspect import LoadedRun, calibrator_method
from dynconv.engine.programs import SUFFIXES, Agreement, Format, agreement, new_folder, provenance, write_program
from dynconv.methods import Method

ModelPart = Literal["model", "classifier"]
# One image alone, what the program was traced with, and others.
BATCHES = (1, 2, 5, 17)


class Exported(NamedTuple):
    """What was written, and how well it agrees with the network."""

    file: Path
    """The program, with model.json beside it."""
    agreement: Agreement


class AdaptedModel(nn.Module):
    """Images (B, 3, S, S), float32 in [0, 1], to class scores (B, C): normalisation and `Method.predict`.

    Args:
        method: Of which run.
        normalisation: What its images are normalised by.
        part: "classifier" for the classifier of a calibrator's run without its calibrator.
    """

    low: Tensor
    span: Tensor

    def __init__(self, method: Method, normalisation: Normalisation, part: ModelPart = "model") -> None:
        super().__init__()
        self.method = method
        self.part = part
        low, span = black_and_span(normalisation)
        self.register_buffer("low", low)
        self.register_buffer("span", span)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images * self.span + self.low)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (B, C) of images that the pipeline has normalised."""
        if self.part == "classifier":
            return self.method.scores(self.method.features(images))
        return self.method.predict(images)


def export_run(loaded: LoadedRun, out: Path, form: Format, part: ModelPart = "model") -> Exported:
    """Write `out`/model.pt2 or `out`/model.onnx, checked against the network, and `out`/model.json, which describes it.

    The program takes `images` (B, 3, S, S), float32 in [0, 1], any B from 1, and gives `scores` (B, C). Normalisation
    is in it, batch normalisation uses its running statistics, and parts that only training needs are left out.

    Args:
        loaded: The run. The program is of float32 and for the CPU, whatever the run's own.
        out: A folder that is new or empty; it appears when everything in it is whole.
        form: "torch" or "onnx" (needs the packages of dynconv[export]).
        part: "model" for what predicts, with the calibrator where there is one; "classifier" for a calibrator's frozen
            classifier alone, which is the one that is deployed.

    Raises:
        ValueError: `out` holds something or cannot be written, or "classifier" of a run without a calibrator.
        ExportMismatch: The file that was written gives other scores than the network; nothing is kept.
    """
    if part == "classifier":
        calibrator_method(loaded)
    size, file = loaded.scoring.network_input.image_size, f"model{SUFFIXES[form]}"
    images = torch.zeros(2, 3, size, size)
    with new_folder(out) as folder, adapted_model(loaded, part) as model:
        axes = {0: ("batch", torch.export.Dim("batch"))}
        run = write_program(model, images, axes, folder / file, form, "scores")
        agrees = agreement(run, _cases(model, loaded), file, "scores")
        facts = describe(loaded, form, model)
        facts |= {"largest_difference": agrees.difference, "tolerance": agrees.tolerance}
        (folder / "model.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(out / file, agrees)


@contextlib.contextmanager
def adapted_model(loaded: LoadedRun, part: ModelPart) -> Iterator[AdaptedModel]:
    """A copy of a run's network as it is deployed, on the CPU, without gradients within the context."""
    # Plain order in memory: torch.export.save warns of weights in channels_last.
    method = copy.deepcopy(loaded.method).cpu().to(memory_format=torch.contiguous_format)
    size, normalisation = loaded.scoring.network_input
    with evaluating(method), method.evaluating_domain("target"), torch.no_grad():
        model = AdaptedModel(method, normalisation, part).eval()
        _drop_unused(model, torch.zeros(2, 3, size, size))
        yield model


def _drop_unused(model: AdaptedModel, images: Tensor) -> None:
    """Delete the parts of the method that `model` does not call, for discriminators may be larger than the network, and
    the method's own buffers, which are the state of its training."""
    method, called = model.method, set[nn.Module]()
    handles = [
        module.register_forward_hook(lambda module, _inputs, _output: called.add(module)) for module in method.modules()
    ]
    model(images)
    for handle in handles:
        handle.remove()
    for name, child in list(method.named_children()):
        if called.isdisjoint(child.modules()):
            delattr(method, name)
    for name, _ in list(method.named_buffers(recurse=False)):
        delattr(method, name)


def _cases(model: AdaptedModel, loaded: LoadedRun) -> Iterator[tuple[Tensor, Tensor]]:
    """Images in [0, 1], and the network's scores of the bytes that they are."""
    size, normalisation = loaded.scoring.network_input
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
        yield pixels / 255, model.scores(normalise(pixels, normalisation=normalisation))


def describe(loaded: LoadedRun, form: Format, model: AdaptedModel) -> dict[str, Any]:
    """What is in model.json: how to feed the model, what its scores mean, and where it comes from."""
    size = loaded.scoring.network_input.image_size
    crops = " The run itself was judged by ten crops, the model takes one." if loaded.config.run.ten_crop else ""
    return {
        "file": f"model{SUFFIXES[form]}",
        "part": model.part,
        "classes": list(loaded.classes),
        "input": {"name": "images", "dtype": "float32", "shape": ["batch", 3, size, size], "range": [0, 1]},
        "output": {
            "name": "scores",
            "dtype": "float32",
            "shape": ["batch", len(loaded.classes)],
            "meaning": "one score per class, in the order of classes; their softmax gives probabilities",
        },
        "preprocessing": {
            "words": (f"{decoding(size)} The model itself subtracts the mean and divides by the deviation.{crops}"),
            "resize": [MARGINS.get(size, size)] * 2,
            "interpolation": "bilinear, antialiased",
            "centre_crop": [size, size],
            "divide_by": 255,
            "mean_in_model": (-model.low / model.span).flatten().tolist(),
            "deviation_in_model": (1 / model.span).flatten().tolist(),
        },
        **provenance(loaded, form),
    }


def decoding(size: int) -> str:
    """How a file becomes an image of `size` x `size` in [0, 1], as the pipeline does it, in words."""
    stored = MARGINS.get(size, size)
    crop = f", take the middle {size} x {size}" if stored != size else ""
    return (
        "Decode to upright RGB of 8 bits per channel (grey repeated, alpha dropped), squeeze to "
        f"{stored} x {stored} whatever the aspect ratio (bilinear, antialiased){crop}, and divide by 255."
    )

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
from dynconv.data.scenes.label_maps import IGNORE, palette_of
from dynconv.engine.loaded_run import LoadedRun, calibrator_method, seen_size
from dynconv.engine.programs import SUFFIXES, Agreement, Format, agreement, new_folder, provenance, write_program
from dynconv.engine.scoring import evaluating
from dynconv.methods import Method

ModelPart = Literal["model", "classifier"]
# One image alone, what the program was traced with, and others.
BATCHES = (1, 2, 5, 17)
# Of scenes of 512 x 1024 one has 40 MB of scores for 19 classes.
SCENE_BATCHES = (1, 2, 3)
Size = tuple[int, int]


class Exported(NamedTuple):
    """What was written, and how well it agrees with the network."""

    file: Path
    """The program, with model.json beside it."""
    agreement: Agreement


class AdaptedModel(nn.Module):
    """Images (B, 3, S, S), float32 in [0, 1], to class scores (B, C), in segmentation (B, 3, H, W) to (B, C, H, W):
    normalisation and `Method.predict`.

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


def export_run(
    loaded: LoadedRun, out: Path, form: Format, part: ModelPart = "model", size: Size | None = None
) -> Exported:
    """Write `out`/model.pt2 or `out`/model.onnx, checked against the network, and `out`/model.json, which describes it.

    The program takes `images` (B, 3, S, S), float32 in [0, 1], any B from 1, and gives `scores` (B, C); in segmentation
    (B, 3, H, W) and (B, C, H, W). Normalisation is in it, batch normalisation uses its running statistics, and parts
    that only training needs are left out.

    Args:
        loaded: The run. The program is of float32 and for the CPU, whatever the run's own.
        out: A folder that is new or empty; it appears when everything in it is whole.
        form: "torch" or "onnx" (needs the packages of dynconv[export]).
        part: "model" for what predicts, with the calibrator where there is one; "classifier" for a calibrator's frozen
            classifier alone, which is the one that is deployed.
        size: H and W, as `input_size` takes it.

    Raises:
        ValueError: `out` holds something or cannot be written, "classifier" of a run without a calibrator, or a size
            that is missing or does not fit.
        ExportMismatch: The file that was written gives other scores than the network; nothing is kept.
    """
    if part == "classifier":
        calibrator_method(loaded)
    height, width = size = input_size(loaded, size)
    file = f"model{SUFFIXES[form]}"
    images = torch.zeros(2, 3, height, width)
    with new_folder(out) as folder, adapted_model(loaded, size, part) as model:
        axes = {0: ("batch", torch.export.Dim("batch"))}
        run = write_program(model, images, axes, folder / file, form, "scores")
        agrees = agreement(run, _cases(model, loaded, size), file, "scores")
        facts = describe(loaded, form, model, size)
        facts |= {"largest_difference": agrees.difference, "tolerance": agrees.tolerance}
        (folder / "model.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(out / file, agrees)


def input_size(loaded: LoadedRun, asked: Size | None = None) -> Size:
    """Height and width of the images that a run's network is exported for.

    Args:
        loaded: The run.
        asked: Of a network for segmentation; None for the size that the run was given.

    Raises:
        ValueError: A size that does not fit the network, or none where neither tells one.
    """
    network, backbone = loaded.scoring.network_input, loaded.config.options.backbone
    if network.labels == "image":
        if asked is not None:
            raise ValueError(
                f"--image-size {asked[0]} {asked[1]}: {backbone} takes images of {network.image_size} x "
                f"{network.image_size} alone; leave it out"
            )
        return network.image_size, network.image_size
    found = seen_size(loaded, asked)
    if any(side < 1 or side % network.multiple for side in found):
        raise ValueError(
            f"--image-size {found[0]} {found[1]}: {backbone} takes multiples of {network.multiple}; give such a size, "
            "and pad the images to it"
        )
    return found


@contextlib.contextmanager
def adapted_model(loaded: LoadedRun, size: Size, part: ModelPart) -> Iterator[AdaptedModel]:
    """A copy of a run's network as it is deployed for images of height and width `size`, on the CPU, without gradients
    within the context."""
    # Plain order in memory: torch.export.save warns of weights in channels_last.
    method = copy.deepcopy(loaded.method).cpu().to(memory_format=torch.contiguous_format)
    with evaluating(method), method.evaluating_domain("target"), torch.no_grad():
        model = AdaptedModel(method, loaded.scoring.network_input.normalisation, part).eval()
        _drop_unused(model, torch.zeros(2, 3, *size))
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


def _cases(model: AdaptedModel, loaded: LoadedRun, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Images in [0, 1], and the network's scores of the bytes that they are."""
    network = loaded.scoring.network_input
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES if network.labels == "image" else SCENE_BATCHES:
        pixels = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
        yield pixels / 255, model.scores(normalise(pixels, normalisation=network.normalisation))


def describe(loaded: LoadedRun, form: Format, model: AdaptedModel, size: Size) -> dict[str, Any]:
    """What is in model.json: how to feed the model, what its scores mean, and where it comes from."""
    of_pixels = loaded.scoring.network_input.labels == "pixel"
    return {
        "file": f"model{SUFFIXES[form]}",
        "part": model.part,
        "classes": list(loaded.classes),
        **(_of_label_maps(loaded) if of_pixels else {}),
        "input": {"name": "images", "dtype": "float32", "shape": ["batch", 3, *size], "range": [0, 1]},
        "output": {
            "name": "scores",
            "dtype": "float32",
            "shape": ["batch", len(loaded.classes), *(size if of_pixels else ())],
            "meaning": (
                f"one score per class{' and pixel' if of_pixels else ''}, in the order of classes; their softmax gives "
                "probabilities"
            ),
        },
        "preprocessing": {
            "words": (
                f"{decoding(loaded, size)} The model itself subtracts the mean and divides by the deviation."
                f"{_judged(loaded)}"
            ),
            "resize": list(_stored(loaded, size)),
            "interpolation": "bilinear, antialiased",
            "centre_crop": list(size),
            "divide_by": 255,
            "mean_in_model": (-model.low / model.span).flatten().tolist(),
            "deviation_in_model": (1 / model.span).flatten().tolist(),
        },
        **provenance(loaded, form),
    }


def _judged(loaded: LoadedRun) -> str:
    """What the run's figures were measured by and the model does not do, in words with a space before them."""
    run, words = loaded.config.run, ""
    if run.ten_crop:
        words += " The run itself was judged by ten crops, the model takes one."
    if run.eval_window is not None:
        words += (
            f" The run itself was judged by overlapping windows of {_words(run.eval_window)}, whose scores were "
            "averaged; the model takes whole images."
        )
    if run.full_resolution:
        words += (
            " The run itself was judged at the size of the label files, to which its scores were brought (bilinear); "
            "the model's have the size of its images."
        )
    return words


def _of_label_maps(loaded: LoadedRun) -> dict[str, Any]:
    """Of a network for segmentation: how to draw the label maps, and what is in those that it learnt from."""
    return {"palette": [list(colour) for colour in palette_of(loaded.classes)], "ignored_label": IGNORE}


def _stored(loaded: LoadedRun, size: Size) -> Size:
    """Height and width that images are resized to before the middle of `size` is cut out."""
    side = loaded.scoring.network_input.image_size
    return (MARGINS[side], MARGINS[side]) if side in MARGINS else size


def decoding(loaded: LoadedRun, size: Size) -> str:
    """How a file becomes an image of height and width `size` in [0, 1], as the pipeline does it, in words."""
    stored = _stored(loaded, size)
    crop = f", take the middle {_words(size)}" if stored != size else ""
    return (
        "Decode to upright RGB of 8 bits per channel (grey repeated, alpha dropped), squeeze to "
        f"{_words(stored)} whatever the aspect ratio (bilinear, antialiased){crop}, and divide by 255."
    )


def _words(size: Size) -> str:
    """Height and width, as sizes are told elsewhere too."""
    return f"{size[0]} x {size[1]}" if size[0] == size[1] else f"{size[0]} x {size[1]} (height x width)"

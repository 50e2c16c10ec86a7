"""A run's calibrator as files of its own, to put in front of a classifier that is deployed already."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dynconv.engine.export import Size, adapted_model, decoding, input_size
from dynconv.engine.loaded_run import LoadedRun, calibrating
from dynconv.engine.overhead import BATCHES, Overhead, measure_overhead
from dynconv.engine.programs import SUFFIXES, Agreement, Axes, Format, agreement, new_folder, provenance, write_program
from dynconv.models.calibrator import Calibrator
from dynconv.models.calibrator_file import WEIGHTS_FILE, load_calibrator, save_calibrator

# Batch, height and width of what a program is held against, beside images of the run's own size.
SHAPES = ((1, 16, 16), (5, 32, 48), (2, 64, 20))


class ExportedCalibrator(NamedTuple):
    """What was written, how well it agrees with the network, and what it costs."""

    files: tuple[Path, ...]
    """The weights and, where one was asked for, the program; calibrator.json lies beside them."""
    agreement: Agreement
    """Of the images, for the file that agrees least."""
    overhead: Overhead
    """Beside the run's classifier."""


def export_calibrator(
    loaded: LoadedRun, out: Path, form: Format | None = None, size: Size | None = None
) -> ExportedCalibrator:
    """Write `out`/calibrator.safetensors and `out`/calibrator.json, which `dynconv.models.load_calibrator` reads; with
    `form` also `out`/calibrator.pt2 or `out`/calibrator.onnx. Each is held against the network.

    The program takes `images` (B, 3, H, W), float32 in [0, 1], H and W multiples of 4 and at least 16, and gives
    `calibrated` of the same shape and range. The run's classifier is measured beside it.

    Args:
        loaded: A run of the calibrator.
        out: A folder that is new or empty; it appears when everything in it is whole.
        form: "torch", "onnx" (needs the packages of dynconv[export]), or None for the weights alone.
        size: H and W of the images that both networks are measured with, as `input_size` takes it.

    Raises:
        ValueError: The run is of another method or its adaptation has not begun, `out` holds something or cannot be
            written, or a size that is missing or does not fit.
        ExportMismatch: What was written gives other images than the network; nothing is kept.
    """
    # Of float32 and in plain order, as the model's program.
    calibrator = (
        copy.deepcopy(calibrating(loaded).calibrator).cpu().float().to(memory_format=torch.contiguous_format).eval()
    )
    size = input_size(loaded, size)
    program = None if form is None else f"calibrator{SUFFIXES[form]}"
    shape = ["batch", 3, "height", "width"]
    described = {"dtype": "float32", "shape": shape, "range": [0, 1]}
    with new_folder(out) as folder, torch.no_grad():
        checks = []
        if form is not None and program is not None:
            run = write_program(calibrator, torch.zeros(2, 3, *size), _axes(), folder / program, form, "calibrated")
            checks.append(agreement(run, _cases(calibrator, size), program, "images"))
        with adapted_model(loaded, size, "classifier") as classifier:
            # The activations of 64 scenes are in no one's memory.
            batches = BATCHES if loaded.scoring.network_input.labels == "image" else (1,)
            overhead = measure_overhead(calibrator, classifier, size, batches)
        facts = {
            "program": program,
            "input": {"name": "images", **described, "sides": "multiples of 4, at least 16"},
            "output": {"name": "calibrated", **described},
            "use": (
                f"{decoding(loaded, size)} Give the images to the calibrator, and what comes out to the classifier in "
                f"their place; the classifier's own mean and deviation come after the calibrator.{trained_on(loaded)}"
            ),
            **provenance(loaded, form),
            "overhead": overhead.to_dict(),
        }
        save_calibrator(calibrator, folder, facts)
        checks.append(agreement(load_calibrator(folder), _cases(calibrator, size), WEIGHTS_FILE, "images"))
    files = (WEIGHTS_FILE,) if program is None else (WEIGHTS_FILE, program)
    return ExportedCalibrator(tuple(out / name for name in files), max(checks), overhead)


def trained_on(loaded: LoadedRun) -> str:
    """The size of what the calibrator was trained on, in words with a space before them; nothing where it is not
    known."""
    network, crop = loaded.scoring.network_input, loaded.config.run.crop_size
    if network.labels == "image":
        size: Size | None = (network.image_size, network.image_size)
    else:
        size = crop or loaded.image_size
    if size is None:
        return ""
    return f" It was trained on {'images' if crop is None else 'random parts'} of {size[0]} x {size[1]}."


def _axes() -> Axes:
    # Of the two downsamplings, and so that the reflection pads fit: 4 times 4 is the smallest side.
    quarters = {name: torch.export.Dim(f"quarter_{name}", min=4) for name in ("height", "width")}
    return {
        0: ("batch", torch.export.Dim("batch")),
        2: ("height", 4 * quarters["height"]),
        3: ("width", 4 * quarters["width"]),
    }


def _cases(calibrator: Calibrator, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((3, *size), *SHAPES):
        images = torch.rand(batch, 3, height, width, generator=generator)
        yield images, calibrator(images)

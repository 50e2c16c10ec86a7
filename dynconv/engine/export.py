"""A run's network as a file that needs no dynconv: a torch.export program, or ONNX."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import dynconv
from dynconv.data import Normalisation, normalise
from dynconv.data.protocols import MARGINS
from dynconv.engine.durable import put_in_place, temporary_of
from dynconv.engine.evaluation import evaluating
from dynconv.engine.inspect import LoadedRun
from dynconv.methods import Method

Format = Literal["torch", "onnx"]
FILES: dict[Format, str] = {"torch": "model.pt2", "onnx": "model.onnx"}
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

# One image alone, what the program was traced with, and others.
BATCHES = (1, 2, 5, 17)
# Of the largest score, or of 1 where that is less. The same float32 sums in another order came to 1e-6 of it (trained
# LeNets) and 5e-7 (ResNets from scratch, up to 50 layers); without the normalisation a trained LeNet is off by 0.9.
TOLERANCE = 1e-4


class ExportMismatch(RuntimeError):  # noqa: N818 - reads as what happened
    """The exported file computes something else than the network."""


class Exported(NamedTuple):
    """What was written, and how well it agrees with the network."""

    file: Path
    """The program, with model.json beside it."""
    difference: float
    """Largest absolute difference of a score over `BATCHES`."""
    tolerance: float
    """What it was held against: `TOLERANCE` of the largest score."""


class AdaptedModel(nn.Module):
    """Images (B, 3, S, S), float32 in [0, 1], to class scores (B, C): normalisation and `Method.predict`."""

    low: Tensor
    span: Tensor

    def __init__(self, method: Method, normalisation: Normalisation) -> None:
        super().__init__()
        self.method = method
        # Measured on the pipeline's own normalisation, which is affine, so that the two cannot drift apart.
        black, white = (
            normalise(torch.full((1, 3, 1, 1), value, dtype=torch.uint8), normalisation=normalisation)
            for value in (0, 255)
        )
        self.register_buffer("low", black)
        self.register_buffer("span", white - black)

    def forward(self, images: Tensor) -> Tensor:
        return self.method.predict(images * self.span + self.low)


def export_run(loaded: LoadedRun, out: Path, form: Format) -> Exported:
    """Write `out`/model.pt2 or `out`/model.onnx, checked against the network, and `out`/model.json, which describes it.

    The program takes `images` (B, 3, S, S), float32 in [0, 1], any B from 1, and gives `scores` (B, C). Normalisation
    is in it, batch normalisation uses its running statistics, and parts that only training needs are left out.

    Args:
        loaded: The run. The program is of float32 and for the CPU, whatever the run's own.
        out: A folder that is new or empty; it appears when everything in it is whole.
        form: "torch" or "onnx" (needs the packages of dynconv[export]).

    Raises:
        ValueError: `out` holds something or cannot be written.
        ExportMismatch: The file that was written gives other scores than the network; nothing is kept.
    """
    # Plain order in memory: torch.export.save warns of weights in channels_last.
    method = copy.deepcopy(loaded.method).cpu().to(memory_format=torch.contiguous_format)
    size = loaded.scoring.network_input.image_size
    normalisation = loaded.scoring.network_input.normalisation
    with _new_folder(out) as folder, evaluating(method), method.evaluating_domain("target"), torch.no_grad():
        _drop_unused(method, torch.zeros(2, 3, size, size))
        model = AdaptedModel(method, normalisation).eval()
        file = folder / FILES[form]
        program = torch.export.export(
            model, (torch.zeros(2, 3, size, size),), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
        )
        run = _write_torch(program, file) if form == "torch" else _write_onnx(program, file)
        difference, tolerance = _compare(run, method, size, normalisation, FILES[form])
        facts = describe(loaded, form, model) | {"largest_difference": difference, "tolerance": tolerance}
        (folder / "model.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(out / FILES[form], difference, tolerance)


def _drop_unused(method: Method, images: Tensor) -> None:
    """Delete the parts of `method` that `predict` does not call, for discriminators may be larger than the network, and
    the method's own buffers, which are the state of its training."""
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_hook(lambda module, _inputs, _output: called.add(module)) for module in method.modules()
    ]
    method.predict(images)
    for handle in handles:
        handle.remove()
    for name, child in list(method.named_children()):
        if called.isdisjoint(child.modules()):
            delattr(method, name)
    for name, _ in list(method.named_buffers(recurse=False)):
        delattr(method, name)


def _write_torch(program: torch.export.ExportedProgram, file: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(program, file)
    return torch.export.load(file).module()


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> Callable[[Tensor], Tensor]:
    import onnx
    import onnxruntime

    with _errors_alone("onnxscript"):
        torch.onnx.export(
            program,
            (),
            file,
            input_names=["images"],
            output_names=["scores"],
            # Of a program that is exported already this alone names the axis; otherwise it is called s34 or so.
            dynamic_shapes={"images": {0: "batch"}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    onnx.checker.check_model(str(file), full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])


@contextlib.contextmanager
def _errors_alone(name: str) -> Iterator[None]:
    """The logger `name` without its warnings: onnxscript's optimiser has one for every operation it leaves alone."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _compare(
    run: Callable[[Tensor], Tensor], method: Method, size: int, normalisation: Normalisation, name: str
) -> tuple[float, float]:
    """Largest difference between the program's scores of [0, 1] and the network's of bytes, and what is allowed."""
    generator = torch.Generator().manual_seed(0)
    difference = largest = 0.0
    for batch in BATCHES:
        pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
        expected = method.predict(normalise(pixels, normalisation=normalisation))
        scores = run(pixels / 255)
        if scores.shape != expected.shape:
            raise ExportMismatch(f"{name}: scores {tuple(scores.shape)} where the network has {tuple(expected.shape)}")
        difference = max(difference, float((scores - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    tolerance = TOLERANCE * max(largest, 1.0)
    # Written so that a NaN is refused too.
    if not difference <= tolerance:
        raise ExportMismatch(
            f"{name} differs from the network by {difference:.2g} (at most {tolerance:.2g} is rounding): nothing was "
            "written"
        )
    return difference, tolerance


def describe(loaded: LoadedRun, form: Format, model: AdaptedModel) -> dict[str, Any]:
    """What is in model.json: how to feed the model, what its scores mean, and where it comes from."""
    size = loaded.scoring.network_input.image_size
    stored = MARGINS.get(size, size)
    crop = f", take the middle {size} x {size}" if stored != size else ""
    crops = " The run itself was judged by ten crops, the model takes one." if loaded.config.run.ten_crop else ""
    packages = ONNX_PACKAGES if form == "onnx" else ()
    return {
        "file": FILES[form],
        "classes": list(loaded.classes),
        "input": {"name": "images", "dtype": "float32", "shape": ["batch", 3, size, size], "range": [0, 1]},
        "output": {
            "name": "scores",
            "dtype": "float32",
            "shape": ["batch", len(loaded.classes)],
            "meaning": "one score per class, in the order of classes; their softmax gives probabilities",
        },
        "preprocessing": {
            "words": (
                "Decode to upright RGB of 8 bits per channel (grey repeated, alpha dropped), squeeze to "
                f"{stored} x {stored} whatever the aspect ratio (bilinear, antialiased){crop}, and divide by 255. The "
                f"model itself subtracts the mean and divides by the deviation.{crops}"
            ),
            "resize": [stored, stored],
            "interpolation": "bilinear, antialiased",
            "centre_crop": [size, size],
            "divide_by": 255,
            "mean_in_model": (-model.low / model.span).flatten().tolist(),
            "deviation_in_model": (1 / model.span).flatten().tolist(),
        },
        "run": str(loaded.folder.path),
        "method": loaded.config.method,
        "backbone": loaded.config.options.backbone,
        "checkpoint": loaded.checkpoint,
        "step": loaded.step,
        "config_hash": loaded.config.hash,
        "versions": {"dynconv": dynconv.__version__, "torch": torch.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
    }


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` when the context ends well; of it nothing stays otherwise."""
    out = out.absolute()
    temporary = temporary_of(out)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"--out {out} is not empty: give a new folder")
        # What a killed export may have left.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            out.rmdir()
        put_in_place(temporary, out)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

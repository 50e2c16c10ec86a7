"""A module as a program that needs no dynconv, a torch.export archive or ONNX, held against the module itself."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import dynconv
from dynconv.engine.durable import put_in_place, temporary_of
from dynconv.engine.loaded_run import LoadedRun

Format = Literal["torch", "onnx"]
SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

# Of the largest output, or of 1 where that is less. The same float32 sums in another order came to 1e-6 of it (trained
# LeNets, calibrators of nine blocks) and 5e-7 (ResNets from scratch, up to 50 layers); without the normalisation a
# trained LeNet is off by 0.9.
TOLERANCE = 1e-4

# Sizes that vary, by axis: the name, and the size as torch.export writes it.
Axes = Mapping[int, tuple[str, Any]]
Program = Callable[[Tensor], Tensor]


class ExportMismatch(RuntimeError):  # noqa: N818 - reads as what happened
    """The exported file computes something else than the network."""


class Agreement(NamedTuple):
    """How well what was written agrees with the network."""

    of: str
    """What was compared: its scores, or its images."""
    difference: float
    """The largest absolute one over all that was compared."""
    tolerance: float
    """What it was held against: `TOLERANCE` of the largest output, or of 1."""


def write_program(module: nn.Module, example: Tensor, axes: Axes, file: Path, form: Format, output: str) -> Program:
    """Write `module`, whose one argument is `images`, to `file`, and give what was written, read again.

    Args:
        module: In evaluation mode, on the CPU.
        example: Images to trace it with.
        axes: Which of their sizes vary.
        file: The file.
        form: "torch" or "onnx".
        output: What the output is called in ONNX.
    """
    shapes = {"images": {axis: size for axis, (_, size) in axes.items()}}
    program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    if form == "torch":
        torch.export.save(program, file)
        return torch.export.load(file).module()
    import onnx
    import onnxruntime

    with _errors_alone("onnxscript"):
        torch.onnx.export(
            program,
            (),
            file,
            input_names=["images"],
            output_names=[output],
            # Of a program that is exported already this alone names the axes; otherwise they are called s34 or so.
            dynamic_shapes={"images": {axis: name for axis, (name, _) in axes.items()}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    onnx.checker.check_model(str(file), full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([output], {"images": images.numpy()})[0])


def agreement(run: Program, cases: Iterable[tuple[Tensor, Tensor]], name: str, of: str) -> Agreement:
    """Hold `run` against the network.

    Args:
        run: What was written, read again.
        cases: Pairs of what it is given and what the network makes of that.
        name: The file's.
        of: What the outputs are.

    Raises:
        ExportMismatch: Another shape, more than `TOLERANCE`, or a value that is no number.
    """
    difference = largest = 0.0
    for given, expected in cases:
        found = run(given)
        if found.shape != expected.shape:
            raise ExportMismatch(f"{name}: {of} {tuple(found.shape)} where the network has {tuple(expected.shape)}")
        # A NaN stands first, for of max(0.0, nan) the first is kept.
        difference = max(float((found - expected).abs().max()), difference)
        largest = max(largest, float(expected.abs().max()))
    tolerance = TOLERANCE * max(largest, 1.0)
    # Written so that a NaN is refused too.
    if not difference <= tolerance:
        raise ExportMismatch(
            f"{name} differs from the network by {difference:.2g} (at most {tolerance:.2g} is rounding): nothing was "
            "written"
        )
    return Agreement(of, difference, tolerance)


def provenance(loaded: LoadedRun, form: Format | None) -> dict[str, Any]:
    """Where an export comes from, for its JSON: the run, the checkpoint and the versions."""
    packages = ONNX_PACKAGES if form == "onnx" else ()
    return {
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
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` when the context ends well; of it nothing stays otherwise.

    Raises:
        ValueError: `out` holds something or cannot be written.
    """
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

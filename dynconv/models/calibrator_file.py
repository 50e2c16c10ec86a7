"""A calibrator as two files that need no training code: safetensors, and JSON that tells how to build and feed it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynconv.models.calibrator import Calibrator
from dynconv.models.weights import words

WEIGHTS_FILE = "calibrator.safetensors"
DESCRIPTION_FILE = "calibrator.json"
# The names of what `load_calibrator` reads in the description; all others there are for the reader.
OPTIONS = "calibrator"
DIGEST = "sha256"
KINDS = {int: "a whole number", float: "a number", str: "a text"}


def save_calibrator(calibrator: Calibrator, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write `folder`/calibrator.safetensors and, last, `folder`/calibrator.json.

    Args:
        calibrator: Its weights are written as they are, in its own precision.
        folder: Made where it is missing; files of these names in it are replaced.
        facts: What else the description is to tell, as JSON holds it.

    Raises:
        ValueError: `facts` take a name of the description's own.
        OSError: The files cannot be written.
    """
    from safetensors.torch import save

    folder, facts = Path(folder), dict(facts or {})
    if taken := [name for name in (OPTIONS, "weights", DIGEST) if name in facts]:
        raise ValueError(f"facts: {words(taken)} are names of the description's own; give others")
    data = save({name: value.detach().cpu().contiguous() for name, value in calibrator.state_dict().items()})
    description = {
        OPTIONS: calibrator.options(),
        "weights": WEIGHTS_FILE,
        DIGEST: hashlib.sha256(data).hexdigest(),
        **facts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(data)
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def load_calibrator(folder: str | Path) -> Calibrator:
    """The calibrator that `save_calibrator` or `dynconv export RUN --part calibrator` wrote, in evaluation mode, on the
    CPU. It takes images (B, 3, H, W) in [0, 1] and gives images of the same shape and range: what comes out goes into
    the deployed classifier in the place of what came in.

    Args:
        folder: Holds calibrator.safetensors and calibrator.json.

    Raises:
        ValueError: A file is missing, of something else or damaged, or the description has an option that a calibrator
            does not have.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION_FILE)
    # Without memory: the weights of the file take the place of the start that it would draw.
    with torch.device("meta"):
        calibrator = _build(description[OPTIONS], folder / DESCRIPTION_FILE)
    state = _read_weights(folder / WEIGHTS_FILE, description[DIGEST])
    own = {name: tuple(value.shape) for name, value in calibrator.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    if own != given:
        differ = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
        raise ValueError(
            f"{folder / WEIGHTS_FILE} does not fit the calibrator that {DESCRIPTION_FILE} describes: missing, "
            f"unexpected or of another shape are {words(differ)}; export it again"
        )
    calibrator.load_state_dict(state, assign=True)
    return calibrator.eval()


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no {file}; expected a folder that `dynconv export RUN --part calibrator --out DIR` wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({type(error).__name__}: {error}); export it again") from error
    if not isinstance(description, dict) or not (
        isinstance(description.get(OPTIONS), dict) and isinstance(description.get(DIGEST), str)
    ):
        raise ValueError(
            f"{file} is of something else than a calibrator: expected an object with {OPTIONS!r}, its options, and "
            f"{DIGEST!r}, the digest of {WEIGHTS_FILE}"
        )
    return description


def _build(options: Mapping[str, Any], file: Path) -> Calibrator:
    known = list(inspect.signature(Calibrator).parameters)
    for fault, names in (
        ("unknown", [name for name in options if name not in known]),
        ("missing", [name for name in known if name not in options]),
    ):
        if names:
            raise ValueError(
                f"{file}: {fault} options of a calibrator: {words(names)}; this version of dynconv knows "
                f"{', '.join(known)}, and needs each"
            )
    for name, parameter in inspect.signature(Calibrator).parameters.items():
        # Each option has a default, and the type of it. JSON has whole numbers for floats too, and bool is an int.
        given, wanted = options[name], type(parameter.default)
        fits = isinstance(given, (int, float) if wanted is float else wanted) and not isinstance(given, bool)
        if not fits:
            raise ValueError(f"{file}: {name}: expected {KINDS[wanted]}, got {given!r}; export it again")
    try:
        return Calibrator(**options)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read_weights(file: Path, digest: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({type(error).__name__}: {error}); export it again") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(
            f"{file} is damaged or belongs to another {DESCRIPTION_FILE}: its SHA-256 differs; export again"
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file: {error}") from error

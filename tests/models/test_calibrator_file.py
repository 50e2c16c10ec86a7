"""A calibrator's two files: what was saved is what is loaded, and whatever is wrong with them is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from dynconv.models import Calibrator, load_calibrator, save_calibrator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_calibrator(Calibrator(width=3, blocks=2, epsilon=0.3, form="nonnegative", dropout=0.05), tmp_path / "new")
    return tmp_path / "new"


def test_what_was_saved_is_loaded_ready_to_be_deployed(tmp_path: Path) -> None:
    calibrator = Calibrator(width=3, blocks=2, epsilon=0.3, form="nonnegative", dropout=0.05).eval()
    save_calibrator(calibrator, tmp_path, {"run": "runs/x"})
    loaded = load_calibrator(str(tmp_path))
    images = torch.rand(2, 3, 16, 20)
    assert torch.equal(loaded(images), calibrator(images)) and not torch.equal(loaded(images), images)
    assert loaded.options() == calibrator.options() and loaded.epsilon == 0.3
    # With dropout in it, training mode would give other images at every call.
    assert not any(module.training for module in loaded.modules())
    assert json.loads((tmp_path / "calibrator.json").read_text())["run"] == "runs/x"


def test_facts_take_no_name_of_the_descriptions_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="facts: sha256 are names of the description's own"):
        save_calibrator(Calibrator(width=1, blocks=1), tmp_path / "new", {"sha256": "0"})
    assert not (tmp_path / "new").exists()


def edited(**changes: Any) -> Callable[[Path], None]:
    """Changes to the options in calibrator.json; None takes one out."""

    def edit(folder: Path) -> None:
        file = folder / "calibrator.json"
        description = json.loads(file.read_text())
        options = description["calibrator"] | changes
        description["calibrator"] = {name: value for name, value in options.items() if value is not None}
        file.write_text(json.dumps(description))

    return edit


def flipped(folder: Path) -> None:
    """One bit of the last weight."""
    file = folder / "calibrator.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def replaced(data: bytes) -> Callable[[Path], None]:
    """Other weights, and their digest."""

    def replace(folder: Path) -> None:
        (folder / "calibrator.safetensors").write_bytes(data)
        file = folder / "calibrator.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}))

    return replace


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (
        lambda f: (f / "calibrator.json").unlink(),
        "there is no .*dynconv export RUN --part calibrator",
    ),
    "no JSON": (lambda f: (f / "calibrator.json").write_text("{"), "calibrator.json cannot be read .JSONDecodeError"),
    "bytes": (lambda f: (f / "calibrator.json").write_bytes(b"\xff\xfe"), "cannot be read .UnicodeDecodeError"),
    "a list": (lambda f: (f / "calibrator.json").write_text("[]"), "is of something else than a calibrator"),
    "a model": (lambda f: (f / "calibrator.json").write_text('{"file": "model.pt2"}'), "of something else than"),
    "no weights": (lambda f: (f / "calibrator.safetensors").unlink(), "safetensors cannot be read .FileNotFoundError"),
    "unknown option": (edited(depth=3), "unknown options of a calibrator: depth; .* knows width, blocks"),
    "missing option": (edited(epsilon=None), "missing options of a calibrator: epsilon"),
    "bad value": (edited(epsilon=2), "calibrator.json: epsilon: expected"),
    "bad type": (edited(width="three"), "calibrator.json: width: expected a whole number, got 'three'"),
    "a fraction": (edited(blocks=2.5), "calibrator.json: blocks: expected a whole number, got 2.5"),
    "a truth": (edited(dropout=True), "calibrator.json: dropout: expected a number, got True"),
    "a list for text": (edited(form=["tanh"]), "calibrator.json: form: expected a text, got .'tanh'."),
    "another width": (edited(width=4), "does not fit .*layers"),
    "another depth": (edited(blocks=1), "does not fit .*layers"),
    "one bit": (flipped, "is damaged or belongs to another calibrator.json"),
    "truncated": (lambda f: (f / "calibrator.safetensors").write_bytes(b"\x00" * 20), "is damaged"),
    "no safetensors": (replaced(b"PK" * 20), "is no safetensors file"),
    "foreign tensors": (replaced(save({"weight": torch.zeros(2)})), "does not fit .*weight"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_the_files_is_said(fault: str, folder: Path) -> None:
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_calibrator(folder)


def test_other_weights_beside_a_description_are_noticed(folder: Path, tmp_path: Path) -> None:
    save_calibrator(Calibrator(width=3, blocks=2), tmp_path / "other")
    (tmp_path / "other" / "calibrator.safetensors").replace(folder / "calibrator.safetensors")
    with pytest.raises(ValueError, match="belongs to another calibrator.json"):
        load_calibrator(folder)

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dynconv.engine.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state


def draws() -> list[float]:
    # The normal draws leave half of a pair in Python's and NumPy's generators.
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]


def test_all_generators_go_on_where_the_file_left_them(tmp_path: Path) -> None:
    draws()
    save_checkpoint(tmp_path / "a.pt", {"random": random_state()})
    expected = draws()
    assert draws() != expected
    set_random_state(load_checkpoint(tmp_path / "a.pt")["random"])
    assert draws() == expected


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"step": 1})

    def broken(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    path = tmp_path / "a.pt"
    torch.save({"step": Evil()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_missing_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save(torch.zeros(1), tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match="Tensor"):
        load_checkpoint(tmp_path / "tensor.pt")

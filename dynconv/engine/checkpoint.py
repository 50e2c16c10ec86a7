"""Checkpoint files and the state of the random number generators."""

from __future__ import annotations

import os
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

# What evaluating takes of a checkpoint, and what going on with the training takes.
WEIGHTS = ("config_hash", "classes", "step", "method")
STATE = (*WEIGHTS, "seconds", "best_source_val", "optimisers", "precision", "batches", "meter", "random")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that `path` is at every moment either the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", *, required: Collection[str] = ()
) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers, strings and containers of these; no code of the file is run.

    Raises:
        ValueError: The file is missing, is no checkpoint or lacks one of the `required` keys.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}); delete the run folder to start "
            "over"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint of a run: it holds a {type(state).__name__}")
    if missing := [key for key in required if key not in state]:
        raise ValueError(
            f"{path} is no checkpoint of a run: it lacks {', '.join(missing)}; delete the run folder to start over"
        )
    return state


def random_state() -> dict[str, Any]:
    """States of the global generators of Python, NumPy, torch and every CUDA device."""
    _, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(key).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    key, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", key.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])

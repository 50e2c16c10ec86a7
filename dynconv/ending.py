"""How a command ends: its message on standard error, and its exit code."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynconv.engine.config import TrainConfig

# What the commands need of each extra of dynconv.
PACKAGES = {
    "train": ("lightning", "matplotlib", "sklearn", "torchmetrics", "tyro", "rich", "tensorboard", "torchvision"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "bench": ("tyro", "rich", "torchvision"),
}


def fail(message: str, code: int = 2) -> int:
    """Print `message` to standard error; returns `code`."""
    # What is wrong for one of several processes is often wrong for all, and may be wrong for one alone.
    who = "" if is_main_process() else f" (process {os.environ.get('RANK', os.environ.get('LOCAL_RANK'))})"
    print(f"dynconv: error{who}: {message}", file=sys.stderr)
    return code


def is_main_process() -> bool:
    """Whether this is the only process of a run, or the first of several (as torchrun and Fabric number them)."""
    return int(os.environ.get("RANK", "0")) == 0 and int(os.environ.get("LOCAL_RANK", "0")) == 0


def packages_missing(extra: str) -> str | None:
    """What to do about missing packages of dynconv[extra], or None where all are there."""
    missing = [name for name in PACKAGES[extra] if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"this command needs packages that are not installed ({', '.join(missing)}): pip install 'dynconv[{extra}]'"


def train_run(config: TrainConfig) -> tuple[int, bool]:
    """Train a run to its end: the exit code, and whether anything was left to do."""
    from dynconv.data import DataError
    from dynconv.engine.launch import INTERRUPTED
    from dynconv.engine.train import (
        Diverged,
        Interrupted,
        NotWritten,
        OtherProcessFailed,
        Refused,
        make_fabric,
        open_folder,
        train_in,
    )

    try:
        folder = open_folder(config)
        fabric = make_fabric(config.run) if folder.read_done() is None else None
    except (ValueError, TypeError) as error:
        return fail(str(error)), False
    try:
        if fabric is None:
            print(f"dynconv: {folder.path} was finished before; nothing to do", file=sys.stderr)
        else:
            train_in(folder, config, fabric)
    except Interrupted as stopped:
        if is_main_process():
            print(f"dynconv: {stopped}", file=sys.stderr)
        return INTERRUPTED, True
    except (Refused, DataError, NotWritten) as error:
        # DataError: an image that is read only when its turn comes. NotWritten: a disk that became full.
        return fail(str(error)), True
    except Diverged as error:
        return fail(str(error), code=1), True
    except OtherProcessFailed as error:
        return fail(str(error), code=error.exit_code), True
    return 0, fabric is not None

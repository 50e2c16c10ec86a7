"""Run folders with figures of our choice, for tests of what the report makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynconv.engine.config import TrainConfig
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.methods import METHODS

START = {
    "versions": {"dynconv": "1", "torch": "2.10", "triton": None},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "hardware": {"cpu": "a CPU", "threads": 2, "cores": 4, "cuda_devices": [], "platform": "Linux"},
    "command": ["dynconv", "train", "a method", "--out", "here"],
}


def config_of(method: str, *, protocol: str = "mnist-usps", options: dict[str, Any] | None = None, **run: Any) -> Any:
    """A configuration; keywords are fields of `RunOptions`."""
    own = METHODS[method].config_class(**(options or {}))
    return TrainConfig(method, RunOptions(protocol=protocol, **{"max_steps": 100, **run}), own)


def row_of(config: TrainConfig, step: int, source: float, target: float, **more: float) -> dict[str, Any]:
    """An evaluation: accuracies of the domains a and b as shares of 1."""
    head = {"step": step, "epoch": 1.0, "seconds": 60.0 * step, "config_hash": config.hash}
    scores = {"source-val/a/accuracy": source, "source-test/a/accuracy": source, "target-test/b/accuracy": target}
    return {**head, **scores, "target-train/b/information-maximisation": -abs(step - 50.0), **more}


def write_run(path: Path, config: TrainConfig, rows: Sequence[dict[str, Any]], *, finish: bool = True) -> RunFolder:
    """A run folder with `rows`; there is no checkpoint in it."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.config.write_text(config.to_yaml(), encoding="utf-8")
    folder.environment.write_text(json.dumps([START]), encoding="utf-8")
    for row in rows:
        folder.append(row)
    if finish:
        folder.finish(config.hash)
    return folder

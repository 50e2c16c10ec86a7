"""Finished run folders for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynconv.engine.run_folder import RunFolder


def finished(path: Path, target: float, source: float = 0.9, step: int = 10, config_hash: str = "abc") -> RunFolder:
    """A finished run's `done` and env.json; source-val chose an earlier row, half as good."""
    folder = RunFolder(path)
    path.mkdir(parents=True)

    def row(at: int, factor: float) -> dict[str, Any]:
        head = {"step": at, "epoch": 1.0, "seconds": 5.0, "config_hash": config_hash}
        scores = {"source-test/a/accuracy": source * factor, "target-test/b/accuracy": target * factor}
        return {**head, **scores}

    selected = {"last": row(step, 1.0), "source-val": row(5, 0.5)}
    folder.done.write_text(json.dumps({"config_hash": config_hash, "selected": selected}))
    start = {"versions": {"torch": "2.10"}, "git": None, "hardware": {"cpu": "x", "threads": 1}}
    folder.environment.write_text(json.dumps([start]))
    return folder

"""Rows of benchmark tables, read and made up, and the words that make a benchmark quick."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from dynconv.bench.rows import COLUMNS

QUICK = ["--device", "cpu", "--budget", "1e-4", "--min-rounds", "2"]
ROW = dict.fromkeys(COLUMNS, "") | {
    "op": "dynamic_conv2d",
    "device": "cpu",
    "shape": "r64",
    "batch": "16",
    "layout": "nchw",
    "graph": "False",
    "status": "ok",
    "device_name": "here",
    "p50_ms": "10",
    "peak_extra_mb": "8",
}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measured(main: Callable[[list[str]], int], folder: Path, *words: str, code: int = 0) -> list[dict[str, str]]:
    """The rows that a benchmark's ``main`` writes when it ends with ``code``."""
    out = folder / "rows.csv"
    assert main([*words, "--out", str(out), "--overwrite"]) == code
    return read(out)


def table(path: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    """Write ``rows`` as a CSV; its path as a word."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)

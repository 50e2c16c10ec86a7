"""The rows of a benchmark: their columns, and reading a CSV back."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What a row is: two rows that agree in all of these measure the same thing.
IDENTITY = (
    "op",
    "device",
    "shape",
    "batch",
    "in_channels",
    "out_channels",
    "size",
    "kernel",
    "stride",
    "groups",
    "num_bases",
    "dtype",
    "mode",
    "basis",
    "residual",
    "layout",
    "graph",
    "provider",
)
RESULTS = (
    "status",
    "note",
    "p20_ms",
    "p50_ms",
    "p80_ms",
    "min_ms",
    "rounds",
    "ratio_to_static",
    "ratio_p20",
    "ratio_p80",
    "ratio_of_minima",
    "ratio_to_static_nchw",
    "ratio_to_grouped",
    "images_per_s",
    "error",
    "compile_s",
    "peak_extra_mb",
    "peak_mb",
    "gflop",
    "mbytes",
    "floor_ms",
    "percent_of_floor",
)
MACHINE = (
    "device_name",
    "cpu_capability",
    "threads",
    "gbytes_per_s",
    "gflop_per_s",
    "dynconv",
    "torch",
    "triton",
    "timm",
    "cuda",
    "commit",
    "dirty",
    "date",
)
COLUMNS = (*IDENTITY, *RESULTS, *MACHINE)
Row = dict[str, Any]
# A row as the CSV has it.
Written = dict[str, str]


def read_rows(path: Path) -> list[Written]:
    """The rows of a CSV that a benchmark of this package wrote.

    Raises:
        ValueError: The file cannot be read, is none of ours, or has no row; the message names it.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(
            f"{path} is no table of `dynconv bench`: it lacks the columns {', '.join(missing[:5])}"
            f"{' and more' if len(missing) > 5 else ''}; measure again with --out"
        )
    if not rows:
        raise ValueError(f"{path} has no rows; measure again with --out")
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} is damaged: a row has more or fewer cells than there are columns")
    return rows


def identity(row: Written) -> tuple[str, ...]:
    """What the row measures."""
    return tuple(row[name] for name in IDENTITY)


def label(row: Written, leave_out: Iterable[str] = ()) -> str:
    """The row's identity in a few words."""
    names = ("op", "shape", "batch", "dtype", "mode", "basis", "residual", "layout", "provider")
    words = [f"batch {row[name]}" if name == "batch" else row[name] for name in names if name not in leave_out]
    return " ".join(word for word in words if word) + (" +graph" if row["graph"] == "True" else "")


def where(row: Row) -> str:
    """The device, the threads and the torch that the row was measured with, in words."""
    threads = "1 thread" if str(row["threads"]) == "1" else f"{row['threads']} threads"
    return f"{row['device_name']}, {threads}, torch {row['torch']}"


def number(row: Written, column: str, path: Path) -> float:
    """A cell as a number; ValueError that names the file where it is none."""
    try:
        return float(row[column])
    except ValueError as error:
        raise ValueError(f"{path}: {column} of {label(row)} is {row[column]!r}, not a number") from error

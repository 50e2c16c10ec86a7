"""A recipe's finished runs in small form: one line each, which a CSV keeps and from which the tables are made."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from dynconv.engine.run_folder import RunFolder, write_atomically
from dynconv.engine.selection import mean_of
from dynconv.metrics.names import SEGMENTATION_METRICS
from dynconv.recipes import Recipe
from dynconv.report.reproduction.statistics import Record
from dynconv.report.table import RULES, selected_rows

# Below a folder of results: the CSVs, TABLE.csv.
RUNS = "runs"
SPLITS = ("target-test", "source-test")
# Those that say which run a line is of.
KEYS = ("task", "row", "seed")
_WORDS = {"task", "row", "config_hash", "torch", "cpu", "gpu", "commit", "dirty"}
_WHOLE = {"seed", "steps", "threads"}


def record(task: str, label: str, seed: int, folder: RunFolder, metric: str = "accuracy") -> Record:
    """A finished run's line: per cent under each rule of selection, and what made them."""
    selected = selected_rows(folder)
    start = json.loads(folder.environment.read_text(encoding="utf-8"))[0]
    git = start["git"] or {"commit": "", "dirty": ""}
    scores = {}
    for rule in RULES:
        for split in SPLITS:
            # Of the sources the mean over the classes is not measured.
            name = metric if split == "target-test" else None
            scores[f"{split} {rule}"] = _per_cent(selected.get(rule, {}), split, name)
    last = selected["last"]
    for other in SEGMENTATION_METRICS[1:] if metric == SEGMENTATION_METRICS[0] else ():
        scores |= {f"{split} last {other}": _per_cent(last, split, other) for split in SPLITS}
    return {
        "task": task,
        "row": label,
        "seed": seed,
        **scores,
        "steps": last["step"],
        "seconds": last["seconds"],
        "config_hash": last["config_hash"],
        "torch": start["versions"]["torch"],
        "cpu": start["hardware"]["cpu"],
        "gpu": _gpu(folder, start["hardware"]),
        "threads": start["hardware"]["threads"],
        "commit": git["commit"],
        "dirty": str(git["dirty"]),
    }


def to_csv(records: Sequence[Record]) -> str:
    """The lines as CSV; its columns are those of all of them."""
    file = io.StringIO(newline="")
    columns = dict.fromkeys(name for each in records for name in each)
    writer = csv.DictWriter(file, fieldnames=list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def read_records(path: Path, recipe: Recipe) -> list[Record]:
    """What `to_csv` wrote of a recipe.

    Raises:
        ValueError: The file is no such CSV, has a line twice, or one of a task or row that the recipe has not.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    wanted = (*KEYS, "target-test last", "steps", "seconds", "config_hash", "commit")
    if lines and (lacking := [name for name in wanted if name not in lines[0]]):
        raise ValueError(f"{path}: expected the columns that `dynconv reproduce` writes, found no {', '.join(lacking)}")
    labels = {row.label for row in recipe.rows}
    records: dict[tuple[Any, ...], Record] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        try:
            found = {name: _value(name, text) for name, text in line.items()}
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}; make the file anew by `dynconv reproduce {recipe.name}`") from error
        if found["task"] not in recipe.tasks or found["row"] not in labels:
            raise ValueError(
                f"{where}: {recipe.name} has no {found['task']!r} with the row {found['row']!r}; expected a task of "
                f"{', '.join(recipe.tasks)} and a row of {', '.join(sorted(labels))}"
            )
        if key_of(found) in records:
            raise ValueError(f"{where}: {found['task']}, {found['row']}, seed {found['seed']} is there twice")
        records[key_of(found)] = found
    return list(records.values())


def keep(records: Sequence[Record], path: Path, recipe: Recipe) -> None:
    """Write the lines into the CSV `path`, in the recipe's order; lines of other runs that are there stay.

    Raises:
        ValueError: As `read_records`.
    """
    held = {key_of(each): each for each in (read_records(path, recipe) if path.exists() else [])}
    held |= {key_of(each): each for each in records}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_csv(in_order(held.values(), recipe)))


def in_order(records: Iterable[Record], recipe: Recipe) -> list[Record]:
    """Seeds outermost, then tasks, then rows, as the recipe trains them."""
    tasks, labels = list(recipe.tasks), [row.label for row in recipe.rows]
    return sorted(records, key=lambda r: (r["seed"], tasks.index(r["task"]), labels.index(r["row"])))


def key_of(record: Record) -> tuple[Any, ...]:
    """Task, row and seed."""
    return tuple(record[name] for name in KEYS)


def _value(name: str, text: str | None) -> Any:
    if text is None:
        raise ValueError(f"the column {name} is missing")
    if name in _WORDS or text == "":
        return text
    return int(text) if name in _WHOLE else float(text)


def _per_cent(row: dict[str, Any], split: str, metric: str | None) -> float | str:
    value = mean_of(row, split, metric)
    return "" if value is None else round(100 * value, 2)


def _gpu(folder: RunFolder, hardware: dict[str, Any]) -> str:
    """The GPUs that a run could compute on; nothing where it was told to stay on the CPU, or there were none."""
    if folder.config.exists():
        config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.get("device") == "cpu":
            return ""
    return ", ".join(dict.fromkeys(hardware.get("cuda_devices", [])))

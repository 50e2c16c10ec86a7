"""The options of `dynconv reproduce`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dynconv.parsing import parse_options
from dynconv.recipes import RECIPES


@dataclass(frozen=True)
class ReproduceOptions:
    """Train every task x row x seed of a table that is not finished, and print the table of the finished ones."""

    table: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TABLE]", help_behavior_hint="(or --all)")
    ] = None
    """The table's name; `dynconv reproduce` lists them."""
    all: tyro.conf.FlagCreatePairsOff[bool] = False
    """Every table whose data lie below the data root and whose weights are in torch.hub's cache; without a GPU those
    that are made for a CPU. What cannot be run is listed with what it lacks. OUT/RESULTS.md has all tables."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """Runs of each row and task, with the seeds 0 to N - 1."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: $DYNCONV_DATA)")] = (
        None
    )
    """Folder of the real data sets."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/TABLE; with --all runs)")
    ] = None
    """Folder of the runs, OUT/TASK/ROW/seedN, and of the table, OUT/table.md and OUT/table.csv; with --all
    OUT/TABLE/TASK/ROW/seedN."""
    keep: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder that keeps the runs in small form, a line each in DIR/runs/TABLE.csv, beside those that are there: what
    `python -m dynconv.report.reproduction.results_page DIR` makes RESULTS.md of. With --all OUT/kept by default."""
    hours: Annotated[float | None, tyro.conf.arg(metavar="H", help_behavior_hint="")] = None
    """Begin no run after this many hours; the same call goes on later."""
    tasks: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="TASK [TASK ...]", help_behavior_hint="(default: all)")
    ] = ()
    """Only these protocols."""
    rows: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW [ROW ...]", help_behavior_hint="(default: all)")] = ()
    """Only these rows, by their labels."""
    parallel: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 1, or one per GPU)")] = (
        None
    )
    """Runs at a time; one per GPU where --gpus are given."""
    gpus: Annotated[tuple[str, ...], tyro.conf.arg(metavar="GPU [GPU ...]", help_behavior_hint="")] = ()
    """GPUs to share out, as CUDA_VISIBLE_DEVICES names them (0 1 2): each run sees one. Default: all that are visible
    where several runs at a time are trained on GPUs."""
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Threads of each run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    report_only: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train nothing."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train nothing and write nothing: list the runs, and which of them would be trained."""

    def __post_init__(self) -> None:
        if (self.table is None) != self.all:
            given = "neither" if self.table is None else f"{self.table} --all"
            raise ValueError(f"expected a TABLE or --all, got {given}; `dynconv reproduce` lists the tables")
        if self.table is not None and self.table not in RECIPES:
            close = difflib.get_close_matches(self.table, RECIPES, n=3)
            meant = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise ValueError(f"TABLE: no table is called {self.table!r}{meant}; `dynconv reproduce` lists them")
        for name in ("seeds", "parallel", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.hours is not None and not self.hours > 0:
            raise ValueError(f"--hours must be above 0, got {self.hours}")
        recipe = None if self.table is None else RECIPES[self.table]
        for name in ("tasks", "rows"):
            if recipe is None and getattr(self, name):
                raise ValueError(f"--{name} and --all contradict each other: they are of one TABLE; give that")
            known = [] if recipe is None else list(recipe.tasks) if name == "tasks" else [r.label for r in recipe.rows]
            if unknown := [value for value in getattr(self, name) if value not in known]:
                raise ValueError(f"--{name}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
        if self.gpus and self.device == "cpu":
            raise ValueError(
                f"--gpus {' '.join(self.gpus)} and --device cpu contradict each other: give one of the two"
            )
        if self.report_only and self.dry_run:
            raise ValueError("--report-only and --dry-run contradict each other: give one of the two")

    @property
    def folder(self) -> Path:
        """Where the runs lie."""
        if self.out is not None:
            return self.out
        return Path("runs") if self.table is None else Path("runs") / self.table

    @property
    def at_a_time(self) -> int:
        """Runs at a time."""
        return self.parallel or len(self.gpus) or 1


def parse_reproduce(args: Sequence[str]) -> ReproduceOptions:
    """The options that the words after `dynconv reproduce` describe. SystemExit as in `parse_options`."""
    return parse_options(ReproduceOptions, "reproduce", args)

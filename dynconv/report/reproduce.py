"""Train what is not finished of a recipe's runs, and make its table of the finished ones."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dynconv.engine.config import TrainConfig
from dynconv.engine.launch import run_commands, train_command
from dynconv.engine.run_folder import RunFolder, write_atomically
from dynconv.engine.selection import mean_of
from dynconv.recipes import RECIPES, Recipe
from dynconv.report.table import RULES, markdown, selected_rows

Record = dict[str, Any]


@dataclass(frozen=True)
class ReproduceOptions:
    """Train every task x row x seed of a table that is not finished, and print the table of the finished ones."""

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """The table's name; `dynconv reproduce` lists them."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """Runs of each row and task, with the seeds 0 to N - 1."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: $DYNCONV_DATA)")] = (
        None
    )
    """Folder of the real data sets."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/TABLE)")] = None
    """Folder of the runs, OUT/TASK/ROW/seedN, and of the table, OUT/table.md and OUT/table.csv."""
    tasks: tuple[str, ...] = ()
    """Only these protocols. Default: all."""
    rows: tuple[str, ...] = ()
    """Only these rows, by their labels. Default: all."""
    parallel: int = 1
    """Runs at a time."""
    threads: int = 1
    """Threads of each run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    report_only: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train nothing."""

    def __post_init__(self) -> None:
        if self.table not in RECIPES:
            raise ValueError(f"TABLE: expected one of {', '.join(RECIPES)}; got {self.table!r}")
        for name in ("seeds", "parallel", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        recipe = RECIPES[self.table]
        for name, known in (("tasks", list(recipe.tasks)), ("rows", [row.label for row in recipe.rows])):
            if unknown := [value for value in getattr(self, name) if value not in known]:
                raise ValueError(f"--{name}: unknown {', '.join(unknown)}; known: {', '.join(known)}")


@dataclass(frozen=True)
class _Run:
    task: str
    label: str
    seed: int
    config: TrainConfig
    folder: RunFolder

    @property
    def name(self) -> str:
        return f"{self.task} {self.label} {self.seed}"


def reproduce(options: ReproduceOptions, *, line: Callable[[str], None]) -> str:
    """Train and report, as `options` say; what the runs say goes to `line`.

    Returns:
        The table as Markdown, which is also written to OUT/table.md, and its figures to OUT/table.csv.

    Raises:
        ValueError: A folder holds a run of another configuration, or no run is finished.
        RuntimeError: A run failed; `line` was given the reason.
        KeyboardInterrupt: The runs were interrupted; the same call goes on with them.
    """
    recipe = RECIPES[options.table]
    out = options.out if options.out is not None else Path("runs") / recipe.name
    runs = _runs(recipe, options, out)
    if stale := [f"{run.folder.path} ({found})" for run in runs if (found := _other_hash(run))]:
        raise ValueError(
            f"finished with another configuration than the table's: {', '.join(stale)}; give another --out, or move "
            "these away to train them anew"
        )
    if not options.report_only:
        _train(runs, options, line)
    finished = [run for run in runs if run.folder.read_done() is not None]
    if not finished:
        raise ValueError(f"no finished run under {out}")
    records = [record(run.task, run.label, run.seed, run.folder, recipe.metric) for run in finished]
    text = report(recipe, records)
    write_atomically(out / "table.md", text + "\n")
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return text


def _runs(recipe: Recipe, options: ReproduceOptions, out: Path) -> list[_Run]:
    """Every run that the options choose; the seeds come outermost, so that an unfinished table has whole rows."""
    chosen = [
        (seed, task, row)
        for seed in range(options.seeds or recipe.seeds)
        for task in options.tasks or recipe.tasks
        for row in recipe.rows
        if not options.rows or row.label in options.rows
    ]
    runs = []
    for seed, task, row in chosen:
        path = out / _file_name(task) / _file_name(row.label) / f"seed{seed}"
        config = recipe.config(task, row, seed, out=path.absolute(), data_root=options.data_root, device=options.device)
        runs.append(_Run(task, row.label, seed, config, RunFolder(path)))
    return runs


def _file_name(text: str) -> str:
    words = "".join(letter if letter.isalnum() or letter in "+-._@=" else " " for letter in text).split()
    return "_".join(words)


def _other_hash(run: _Run) -> str:
    """What is wrong with a finished run's configuration, or nothing."""
    done = run.folder.read_done()
    if done is None or done["config_hash"] == run.config.hash:
        return ""
    return f"{done['config_hash']}, the recipe is {run.config.hash}"


def _train(runs: Sequence[_Run], options: ReproduceOptions, line: Callable[[str], None]) -> None:
    commands = {}
    for run in runs:
        if run.folder.read_done() is None:
            # Beside the run folder, which a run insists on making itself.
            file = run.folder.path.with_suffix(".yaml")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, run.config.to_yaml())
            words = ["--config", str(file), "--out", str(run.folder.path)]
            commands[run.name] = train_command(run.config.method, *words)
    codes = run_commands(commands, parallel=options.parallel, threads=options.threads, line=line)
    if failed := [f"{name} (exit code {code})" for name, code in codes.items() if code]:
        raise RuntimeError(f"not finished: {', '.join(failed)}; the reasons stand above")


def record(task: str, label: str, seed: int, folder: RunFolder, metric: str = "accuracy") -> Record:
    """A finished run's line of the CSV: per cent under each rule of selection, and what made them."""
    selected = selected_rows(folder)
    start = json.loads(folder.environment.read_text(encoding="utf-8"))[0]
    git = start["git"] or {"commit": "", "dirty": ""}
    scores = {}
    for rule in RULES:
        for split in ("target-test", "source-test"):
            name = metric if split == "target-test" else "accuracy"
            value = mean_of(selected[rule], split, name) if rule in selected else None
            scores[f"{split} {rule}"] = "" if value is None else round(100 * value, 2)
    last = selected["last"]
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
        "threads": start["hardware"]["threads"],
        "commit": git["commit"],
        "dirty": git["dirty"],
    }


def report(recipe: Recipe, records: Sequence[Record]) -> str:
    """The table as Markdown: target test figures at the last step, the paper's in brackets; for an ablation also the
    paired differences of its rows."""
    tasks = {task: head for task, head in recipe.tasks.items() if any(r["task"] == task for r in records)}
    rows = [row for row in recipe.rows if any(r["row"] == row.label for r in records)]
    lines = []
    for row in rows:
        values = {task: _values(records, task, row.label) for task in tasks}
        cells = [_with_published(spread(values[task]), row.published.get(task)) for task in tasks]
        lines.append([row.label, *cells, *_averages(records, row.label, values)])
    parts = [
        f"{recipe.name}: {recipe.source}. Target test {recipe.metric.replace('-', ' ')} in per cent at the last step, "
        f"mean ± standard deviation over seeds"
        + (", the paper's figure in brackets." if any(row.published for row in rows) else "."),
        markdown(["row", *tasks.values(), "average", "source, average"], lines),
    ]
    if recipe.ablation and len(rows) > 1:
        parts += [
            "Each row less the one above it, by the same task and seed: mean ± standard error over seeds.",
            markdown(
                ["row", *tasks.values(), "all"],
                [[row.label, *_differences(records, above.label, row.label, tasks)] for above, row in _pairs(rows)],
            ),
        ]
    return "\n\n".join(parts)


def _pairs(rows: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(rows[:-1], rows[1:], strict=True))


def _values(records: Sequence[Record], task: str, label: str, column: str = "target-test last") -> dict[int, float]:
    """A row's figures on a task, by seed."""
    return {r["seed"]: r[column] for r in records if (r["task"], r["row"]) == (task, label) and r[column] != ""}


def _averages(records: Sequence[Record], label: str, target: dict[str, dict[int, float]]) -> list[str]:
    source = [_values(records, task, label, "source-test last") for task in target]
    return [
        f"{statistics.fmean(statistics.fmean(each.values()) for each in columns):.1f}" if all(columns) else "-"
        for columns in (list(target.values()), source)
    ]


def _differences(records: Sequence[Record], above: str, below: str, tasks: dict[str, str]) -> list[str]:
    by_task = []
    for task in tasks:
        first, second = _values(records, task, above), _values(records, task, below)
        by_task.append({seed: second[seed] - first[seed] for seed in sorted(first.keys() & second.keys())})
    # Tasks differ more than seeds do, so a seed's mean over the tasks is one observation.
    common = set.intersection(*(set(values) for values in by_task))
    of_seeds = [statistics.fmean(values[seed] for values in by_task) for seed in sorted(common)]
    return [difference(values) for values in (*(list(each.values()) for each in by_task), of_seeds)]


def difference(values: Sequence[float]) -> str:
    """Mean ± standard error of paired differences."""
    if not values:
        return "-"
    text = f"{statistics.fmean(values):+.1f}"
    if len(values) == 1:
        return f"{text} (n = 1)"
    return f"{text} ± {statistics.stdev(values) / math.sqrt(len(values)):.1f}"


def spread(values: dict[int, float]) -> str:
    """Mean ± sample standard deviation over seeds."""
    if not values:
        return "-"
    text = f"{statistics.fmean(values.values()):.1f}"
    return f"{text} ± {statistics.stdev(values.values()):.1f}" if len(values) > 1 else f"{text} (n = 1)"


def _with_published(text: str, published: float | None) -> str:
    return text if published is None else f"{text} ({published:.1f})"

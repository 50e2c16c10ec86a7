"""Accuracy on real digits: three tasks, three methods, three seeds, as Markdown and CSV.

    python bench/digits_table.py --data-root DIR                 train what is not finished, two runs at a time
    python bench/digits_table.py --data-root DIR --report-only   only the table, of what is finished

Interrupted runs go on from their checkpoints when the script is started again. MCD is DRT's static twin: the same
losses and settings on the network without dynamic convolutions.
"""

from __future__ import annotations

import csv
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TASKS = {
    "mnist-usps": "MNIST → USPS",
    "usps-mnist": "USPS → MNIST",
    "mnist+usps-mnist_m": "MNIST, USPS → MNIST-M",
}
# The settings were chosen on target accuracy in single runs with seed 100 (README, Results, tells which were tried);
# the table's seeds were not looked at. One setting serves all tasks and methods.
SETTINGS = {
    "max-steps": "1000",
    "eval-every": "250",
    "batch-size": "64",
    "backbone": "lenet-small",
    "optimiser": "adam",
    "lr": "5e-4",
    "lr-schedule": "constant",
}
ADVERSARIAL = {"form": "reversal", "statistics": "separate", "discrepancy-weight": "4"}
METHODS: dict[str, dict[str, str]] = {"source-only": {}, "mcd": ADVERSARIAL, "drt": ADVERSARIAL}
LABELS = {"source-only": "source-only", "mcd": "MCD, static", "drt": "DRT"}
SEEDS = (0, 1, 2)
METRICS = ("target-test", "source-test")
RULES = ("last", "source-val")


@dataclass(frozen=True)
class Options:
    """Train every task x method x seed that is not finished, and print the table of the finished ones."""

    data_root: Path | None = None
    """Folder of the real data sets. Default: the environment variable DYNCONV_DATA."""
    out: Path = Path("runs/digits")
    """Folder of the runs, OUT/TASK/METHOD/seedN."""
    csv: Path = Path("bench/results/digits.csv")
    """One row per finished run."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Only these tasks."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Only these methods."""
    seeds: tuple[int, ...] = SEEDS
    """Only these seeds."""
    parallel: int = 2
    """Runs at a time, one thread each."""
    report_only: bool = False
    """Train nothing."""

    def __post_init__(self) -> None:
        for name, known in (("tasks", TASKS), ("methods", METHODS)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise ValueError(f"--{name}: unknown {', '.join(unknown)}; known: {', '.join(known)}")


def main() -> int:
    import tyro

    from dynconv.engine.launch import run_commands, train_command
    from dynconv.engine.run_folder import RunFolder

    options = tyro.cli(Options, description=__doc__)
    folders = {
        (task, method, seed): RunFolder(options.out / task / method / f"seed{seed}")
        for seed in options.seeds
        for task in options.tasks
        for method in options.methods
    }
    try:
        stale = [
            f"{folder.path} ({done['config_hash']}, the recipe is {wanted})"
            for key, folder in folders.items()
            if (done := folder.read_done()) is not None
            and done["config_hash"] != (wanted := recipe_hash(*key, folder.path, options))
        ]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if stale:
        print(
            f"finished with another configuration than the table's: {', '.join(stale)}; give another --out, or move "
            "these away to train them anew",
            file=sys.stderr,
        )
        return 2
    if not options.report_only:
        commands = {
            f"{task} {method} {seed}": train_command(method, *arguments(task, method, seed, folder.path, options))
            for (task, method, seed), folder in folders.items()
            if folder.read_done() is None
        }
        try:
            codes = run_commands(commands, parallel=options.parallel, line=lambda text: print(text, file=sys.stderr))
        except KeyboardInterrupt:
            return 130
        if failed := [f"{name} (exit code {code})" for name, code in codes.items() if code]:
            print(f"not finished: {', '.join(failed)}; the reasons stand above", file=sys.stderr)
            return 1
    finished = {key: folder for key, folder in folders.items() if folder.read_done() is not None}
    if not finished:
        print(f"no finished run under {options.out}", file=sys.stderr)
        return 2
    rows = [record(*key, folder) for key, folder in finished.items()]
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with options.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(summary(rows))
    return 0


def arguments(task: str, method: str, seed: int, out: Path, options: Options) -> list[str]:
    """The flags of one run."""
    flags = {"protocol": task, "seed": str(seed), "out": str(out), "log-every": "200", **SETTINGS, **METHODS[method]}
    if options.data_root is not None:
        flags["data-root"] = str(options.data_root)
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def recipe_hash(task: str, method: str, seed: int, out: Path, options: Options) -> str:
    """The configuration hash that a run of the table must have."""
    from dynconv.engine.options import parse_train

    return parse_train(method, arguments(task, method, seed, out, options)).hash


def record(task: str, method: str, seed: int, folder: Any) -> dict[str, Any]:
    """A finished run's row of the CSV: accuracies in per cent, and what made them."""
    import json

    from dynconv.engine.selection import mean_of
    from dynconv.report.table import selected_rows

    selected = selected_rows(folder)
    start = json.loads(folder.environment.read_text(encoding="utf-8"))[0]
    git = start["git"] or {"commit": "", "dirty": ""}
    scores = {
        f"{split} {rule}": round(100 * value, 2)
        for rule in RULES
        for split in METRICS
        if (value := mean_of(selected[rule], split)) is not None
    }
    last = selected["last"]
    return {
        "task": task,
        "method": method,
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


def summary(rows: list[dict[str, Any]]) -> str:
    """Markdown: target test accuracy at the last step, mean +- standard deviation over the seeds; and source's mean."""
    from dynconv.report.table import markdown

    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    lines = []
    for method in (name for name in METHODS if any(row["method"] == name for row in rows)):
        cells, target_means, source_means = [], [], []
        for task in tasks:
            of_task = [row for row in rows if row["task"] == task and row["method"] == method]
            target = [row["target-test last"] for row in of_task]
            cells.append(spread(target))
            if of_task:
                target_means.append(statistics.fmean(target))
                source_means.append(statistics.fmean(row["source-test last"] for row in of_task))
        complete = len(target_means) == len(tasks)
        average = [f"{statistics.fmean(means):.1f}" if complete else "-" for means in (target_means, source_means)]
        lines.append([LABELS[method], *cells, *average])
    return markdown(["method", *(TASKS[task] for task in tasks), "average", "source, average"], lines)


def spread(values: list[float]) -> str:
    """Mean +- sample standard deviation, with the number of seeds where it is not that of the table."""
    if not values:
        return "-"
    text = f"{statistics.fmean(values):.1f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.1f}"
    return text if len(values) == len(SEEDS) else f"{text} (n = {len(values)})"


if __name__ == "__main__":
    sys.exit(main())

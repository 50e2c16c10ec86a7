"""RESULTS.md: the tables of every recipe with runs, made from their lines in CSVs; typed are the notes alone.

python -m dynconv.report.reproduction.results_page bench/results > RESULTS.md
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynconv.recipes import RECIPES, Recipe, Row
from dynconv.recipes.estimate import ESTIMATED
from dynconv.report.reproduction.records import RUNS, in_order, read_records
from dynconv.report.reproduction.statistics import Record
from dynconv.report.reproduction.table import report
from dynconv.report.table import counted

# Beside RUNS: words below a table, TABLE.md.
NOTES = "notes"

_HEAD = """# Results

All above a section's *Notes* is made by the code that `dynconv reproduce` prints with, from the lines of finished runs
(`{runs}/*.csv`: each run's `results.jsonl` in small form). The notes, and the tables in them, are written by hand; figures there that
no table above has are of single runs that were not kept, run without a prediction where none stands beside them. A figure is the mean
± standard deviation over seeds at the last step; in brackets stand the paper's figure and ours less it, in points. The last table of
each recipe has what the four rules of selection choose: the last step, the best on held-out source images (`source-val`), the best
by a validator that needs no labels, and the best on the target's labels (`oracle`, shown and never used). Where runs have another
hash than the recipe's configuration of today it is said; the hash of a row that starts from another row's run holds that run's path,
and is not compared.

```
dynconv reproduce --all --data-root DATA       # every table that the data allows; --dry-run lists them with their cost
dynconv reproduce TABLE --data-root DATA       # one of them
```
"""  # noqa: E501 (Markdown, in the width of the other pages)


def results_page(folder: Path) -> str:
    """The page of the runs below `folder`, as Markdown.

    Args:
        folder: Its `runs/TABLE.csv` are lines of `dynconv reproduce`, its `notes/TABLE.md` the words below a table.

    Raises:
        ValueError: There is no CSV, or one that is not of a recipe.
    """
    held = _held(folder)
    by_table = {
        name: in_order(read_records(held[name], RECIPES[name]), RECIPES[name]) for name in RECIPES if name in held
    }
    parts = [_HEAD.format(runs=f"{folder}/{RUNS}"), _contents(by_table)]
    for name, records in by_table.items():
        parts += _section(RECIPES[name], records, folder / NOTES / f"{name}.md")
    parts += _not_run([recipe for name, recipe in RECIPES.items() if name not in by_table])
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _held(folder: Path) -> dict[str, Path]:
    held = {path.stem: path for path in sorted((folder / RUNS).glob("*.csv"))}
    if not held:
        raise ValueError(f"{folder / RUNS}: expected TABLE.csv of `dynconv reproduce TABLE`, found none")
    notes = {path.stem for path in (folder / NOTES).glob("*.md")}
    if unknown := [name for name in sorted(held.keys() | notes) if name not in RECIPES]:
        raise ValueError(f"{folder}: {', '.join(unknown)}: no such recipe; `dynconv reproduce` lists them")
    if alone := sorted(notes - held.keys()):
        raise ValueError(f"{folder / NOTES}: there are notes of {', '.join(alone)}, and no runs")
    return held


def _contents(by_table: Mapping[str, Sequence[Record]]) -> str:
    lines = [
        [
            f"[{name}](#{name})",
            RECIPES[name].title,
            f"{len(records)} of {_planned(RECIPES[name])}",
            f"{_hours(records):.1f}",
        ]
        for name, records in by_table.items()
    ]
    every = [each for records in by_table.values() for each in records]
    head = ["table", "what it is", "runs", "hours of runs"]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---", "---", "---:", "---:"], *lines))
    return f"{counted(len(every), 'run')}, {_duration(every)} in all:\n\n{rows}"


def _section(recipe: Recipe, records: Sequence[Record], notes: Path) -> list[str]:
    parts = [
        f"## {recipe.name}",
        f"```\ndynconv reproduce {recipe.name} --data-root DATA\n```",
        _made_by(recipe, records),
        report(recipe, records),
    ]
    if notes.exists():
        parts.append(f"**Notes.** {notes.read_text(encoding='utf-8').strip()}")
    return parts


def _made_by(recipe: Recipe, records: Sequence[Record]) -> str:
    """Time, hardware, versions and commits of the runs, what is not among them, and what they are not."""
    machines = {f"{_machine(each)}, {each['threads']} thread{'s' * (each['threads'] != 1)} a run" for each in records}
    commits = ", ".join(f"`{commit[:7]}`" for commit in dict.fromkeys(r["commit"] for r in records) if commit)
    lines = [
        f"{len(records)} of {_planned(recipe)} runs, {_duration(records)} in all on {' and '.join(sorted(machines))}; "
        f"torch {', '.join(sorted({each['torch'] for each in records}))}; commit {commits or 'unknown'}."
    ]
    if changed := sorted({r["commit"][:7] for r in records if r["dirty"] != "False"}):
        lines.append(f"Of a tree with changes that are in no commit: {', '.join(changed)}.")
    if lacking := _lacking(recipe, records):
        lines.append(f"Not run: {lacking}.")
    if older := _of_another_configuration(recipe, records):
        lines.append(f"Trained by a configuration that has another hash than the recipe's of today: {older}.")
    return " ".join(lines)


def _planned(recipe: Recipe) -> int:
    return len(recipe.tasks) * len(recipe.rows) * recipe.seeds


def _lacking(recipe: Recipe, records: Sequence[Record]) -> str:
    """What of the recipe has no run, by row."""
    have = {(r["task"], r["row"], r["seed"]) for r in records}
    told = []
    for row in recipe.rows:
        by_task = {
            head: [seed for seed in range(recipe.seeds) if (task, row.label, seed) not in have]
            for task, head in recipe.tasks.items()
        }
        if missing := {head: tuple(seeds) for head, seeds in by_task.items() if seeds}:
            told.append(f"{row.label} ({_of_which(missing, recipe)})")
    return "; ".join(told)


def _of_which(missing: Mapping[str, Sequence[int]], recipe: Recipe) -> str:
    """The tasks and seeds of `missing` in words."""

    def seeds(of: Sequence[int]) -> str:
        return "" if len(of) == recipe.seeds else f"seed{'s' * (len(of) != 1)} {', '.join(map(str, of))}"

    kinds = set(map(tuple, missing.values()))
    if len(missing) == len(recipe.tasks) and len(kinds) == 1:
        return seeds(kinds.pop()) or "all"
    return ", ".join(f"{head} {seeds(of)}".strip() for head, of in missing.items())


def _of_another_configuration(recipe: Recipe, records: Sequence[Record]) -> str:
    """The rows whose runs have another hash. That of a row that follows another one holds a path, and tells nothing."""
    rows: dict[str, None] = {}
    for each in records:
        row = recipe.row(each["row"])
        if row.follows is None and _hash(recipe, row, each) != each["config_hash"]:
            rows[row.label] = None
    return ", ".join(rows)


def _hash(recipe: Recipe, row: Row, record: Record) -> str:
    out = Path("run")
    return recipe.config(record["task"], row, record["seed"], out=out, data_root=None, device="cpu").hash


def _machine(record: Record) -> str:
    return record.get("gpu") or record["cpu"]


def _hours(records: Sequence[Record]) -> float:
    return sum(float(each["seconds"]) for each in records) / 3600


def _duration(records: Sequence[Record]) -> str:
    hours = _hours(records)
    return f"{hours:.1f} hours" if hours >= 2 else counted(round(60 * hours), "minute")


def _not_run(recipes: Sequence[Recipe]) -> list[str]:
    """The recipes without a run, each with what it needs and its command: those of a CPU's size, and the others."""
    small = [recipe for recipe in recipes if recipe.scale == "small"]
    paper = [recipe for recipe in recipes if recipe.scale == "paper"]
    parts = ["## Not run\n\nThe costs are estimates."] if recipes else []
    if small:
        parts += ["### Made for a CPU\n\nFor want of time, where the data were there.", _commands(small)]
    if paper:
        parts += ["### At the papers' scale\n\nFor want of a GPU, of data or of weights.", _commands(paper)]
    return parts


def _commands(recipes: Sequence[Recipe]) -> str:
    lines = [
        [
            f"`dynconv reproduce {recipe.name} --data-root DATA`",
            recipe.source,
            recipe.needs,
            recipe.cost.removeprefix(ESTIMATED),
        ]
        for recipe in recipes
    ]
    rows = [["command", "what it is", "needs", "cost"], ["---"] * 4, *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)


def main(args: Sequence[str]) -> int:
    """Print the page of a folder; 2 for wrong use."""
    if len(args) != 1 or args[0].startswith("-"):
        print(
            "usage: python -m dynconv.report.reproduction.results_page FOLDER > RESULTS.md\n"
            f"FOLDER holds {RUNS}/TABLE.csv, as `dynconv reproduce --keep FOLDER` writes them, and {NOTES}/TABLE.md",
            file=sys.stderr,
        )
        return 2
    try:
        print(results_page(Path(args[0])), end="")
    except ValueError as error:
        print(f"dynconv.report.reproduction.results_page: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The table of a recipe's finished runs: ours beside the paper's, as Markdown and as lines for a CSV."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from dynconv.engine.run_folder import RunFolder
from dynconv.engine.selection import mean_of
from dynconv.recipes import PublishedRow, PublishedTable, Recipe
from dynconv.report.table import RULES, markdown, selected_rows

Record = dict[str, Any]

CITED = "(cited)"


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
    """The tables as Markdown.

    Target test figures at the last step with the paper's and the difference, beside the paper's rows that were not run;
    for an ablation the paired differences of its rows; the average under each rule of selection; and the paper's whole
    table where its columns are other tasks than the recipe's.
    """
    tasks = {task: head for task, head in recipe.tasks.items() if any(r["task"] == task for r in records)}
    rows = [row for row in recipe.rows if any(r["row"] == row.label for r in records)]
    cited = [row for row in recipe.cited() if any(recipe.figure(row, task) is not None for task in tasks)]
    lines = []
    for row in rows:
        own = {task: _values(records, task, row.label) for task in tasks}
        paper = {task: row.published.get(task) for task in tasks}
        cells = [_beside(spread(own[task]), _mean(own[task]), paper[task]) for task in tasks]
        average = _average(own)
        whole = _beside("-" if average is None else f"{average:.1f}", average, _average_of_figures(paper))
        lines.append([row.label, *cells, whole, _rounded(_of_column(records, row.label, tasks, "source-test last"))])
    for each in cited:
        figures = {task: recipe.figure(each, task) for task in tasks}
        cells = [_rounded(value) for value in (*figures.values(), _average_of_figures(figures))]
        lines.append([f"{each.label} {CITED}", *cells, "-"])
    head = (
        f"{recipe.name}: {recipe.source}. Target test {recipe.metric.replace('-', ' ')} in per cent at the last step, "
        "mean ± standard deviation over seeds"
    )
    if any(row.published for row in rows):
        head += ", in brackets the paper's figure and ours less it in points"
    if cited:
        head += f"; rows marked {CITED} are the paper's and were not run"
    parts = [f"{head}.", markdown(["row", *tasks.values(), "average", "source, average"], lines)]
    if recipe.ablation and len(rows) > 1:
        parts += [
            "Each row less the one above it, by the same task and seed: mean ± standard error over seeds.",
            markdown(
                ["row", *tasks.values(), "all"],
                [[low.label, *_differences(records, above.label, low.label, tasks)] for above, low in pairwise(rows)],
            ),
        ]
    parts += [
        "Average over the tasks at the step that each rule of selection chooses; oracle looks at the target's labels "
        "and chooses no model.",
        markdown(
            ["row", *(f"{rule} (sees labels)" if rule == "oracle" else rule for rule in RULES)],
            [
                [row.label, *(_rounded(_of_column(records, row.label, tasks, f"target-test {rule}")) for rule in RULES)]
                for row in rows
            ],
        ),
    ]
    if recipe.table is not None:
        parts += _papers_own(recipe.table, whole=not any(row.published for row in recipe.rows) and not cited)
    return "\n\n".join(parts)


def _papers_own(table: PublishedTable, *, whole: bool) -> list[str]:
    notes = f" {table.notes}" if table.notes else ""
    if not whole:
        return [f"The paper: {table.paper}; {table.caption}.{notes}"]
    average = ["average"] if any(row.average is not None for row in table.rows) else []
    return [
        f"The paper's own table, of other tasks than these: {table.paper}; {table.caption}; {table.metric}.{notes}",
        markdown([CITED, *table.columns, *average], [_printed(row, bool(average)) for row in table.rows]),
    ]


def _printed(row: PublishedRow, average: bool) -> list[str]:
    """A published row as its paper prints it."""
    figures = [*row.values, row.average] if average else [*row.values]
    spreads = row.spread or (None,) * len(row.values)
    deviations = [*spreads, row.average_spread] if average else [*spreads]
    cells = [
        "-" if figure is None else f"{figure:g}" if deviation is None else f"{figure:g} ± {deviation:g}"
        for figure, deviation in zip(figures, deviations, strict=True)
    ]
    return [row.label, *cells]


def _values(records: Sequence[Record], task: str, label: str, column: str = "target-test last") -> dict[int, float]:
    """A row's figures on a task, by seed."""
    return {r["seed"]: r[column] for r in records if (r["task"], r["row"]) == (task, label) and r[column] != ""}


def _mean(values: Mapping[int, float]) -> float | None:
    return statistics.fmean(values.values()) if values else None


def _average(columns: Mapping[str, Mapping[int, float]]) -> float | None:
    """The mean over the tasks of each one's mean over seeds; None where a task has none."""
    return _average_of_figures({task: _mean(values) for task, values in columns.items()})


def _average_of_figures(figures: Mapping[str, float | None]) -> float | None:
    known = [figure for figure in figures.values() if figure is not None]
    return statistics.fmean(known) if known and len(known) == len(figures) else None


def _of_column(records: Sequence[Record], label: str, tasks: Mapping[str, str], column: str) -> float | None:
    return _average({task: _values(records, task, label, column) for task in tasks})


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _beside(text: str, own: float | None, published: float | None) -> str:
    """Our figure with the paper's and the difference in brackets."""
    if published is None:
        return text
    return f"{text} ({published:.1f})" if own is None else f"{text} ({published:.1f}, {own - published:+.1f})"


def _differences(records: Sequence[Record], above: str, below: str, tasks: Mapping[str, str]) -> list[str]:
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


def spread(values: Mapping[int, float]) -> str:
    """Mean ± sample standard deviation over seeds."""
    if not values:
        return "-"
    text = f"{statistics.fmean(values.values()):.1f}"
    return f"{text} ± {statistics.stdev(values.values()):.1f}" if len(values) > 1 else f"{text} (n = 1)"

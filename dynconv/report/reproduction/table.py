"""The tables of a recipe's finished runs as Markdown: ours beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from dynconv.metrics.names import in_words
from dynconv.recipes import TABLES, PublishedRow, PublishedTable, Recipe, Row
from dynconv.report.reproduction.metrics import CITED, OWN, OWN_IN_WORDS, of_metrics
from dynconv.report.reproduction.statistics import (
    Record,
    average,
    average_of_figures,
    beside,
    differences,
    mean,
    rounded,
    spread,
    values,
)
from dynconv.report.table import RULES, markdown


def report(recipe: Recipe, records: Sequence[Record]) -> str:
    """The tables as Markdown.

    Test figures at the last step with the paper's and the difference, beside the paper's rows that were not run; where
    the recipe groups its tasks, the mean and the best of each group; of segmentation every measure, before and after;
    the paired differences of rows that are compared with another; the average under each rule of selection, with steps
    and time; and the paper's whole table where its columns are others.
    """
    tasks = {task: head for task, head in recipe.tasks.items() if any(r["task"] == task for r in records)}
    rows = [row for row in recipe.rows if any(r["row"] == row.label for r in records)]
    parts = _of_groups(recipe, records, rows, tasks) if recipe.groups else _of_tasks(recipe, records, rows, tasks)
    parts += of_metrics(recipe, records, rows, tasks)
    parts += _differences(recipe, records, rows, tasks)
    parts += [
        "Average over the tasks at the step that each rule of selection chooses; oracle looks at the target's labels "
        "and chooses no model. Steps and minutes are those of one run on average.",
        markdown(
            ["row", *(f"{rule} (sees labels)" if rule == "oracle" else rule for rule in RULES), "steps", "minutes"],
            [
                [
                    row.label,
                    *(_of_column(records, row.label, tasks, f"{recipe.split} {rule}") for rule in RULES),
                    *_of_a_run(records, row.label),
                ]
                for row in rows
            ],
        ),
    ]
    heads = recipe.groups or recipe.tasks.values()
    for name in (recipe.published, recipe.published_best):
        if name is not None:
            # A mean over classes is held against figures whose columns are not tasks.
            beside_ours = any(row.published for row in recipe.rows) or any(h in TABLES[name].columns for h in heads)
            parts += _papers_own(TABLES[name], whole=not beside_ours)
    return "\n\n".join(parts)


def _of_tasks(recipe: Recipe, records: Sequence[Record], rows: Sequence[Row], tasks: Mapping[str, str]) -> list[str]:
    """A line for each row, with a column for each task."""
    column = f"{recipe.split} last"
    cited = [row for row in recipe.cited() if any(recipe.figure(row, task) is not None for task in tasks)]
    # Where the table is of the sources, this is its average.
    sources = recipe.split == "target-test"
    lines = []
    apart = False
    for row in rows:
        own = {task: values(records, task, row.label, column) for task in tasks}
        paper = {task: row.published.get(task) for task in tasks}
        cells = [beside(spread(own[task]), mean(own[task]), paper[task]) for task in tasks]
        whole = average(own)
        cells.append(beside(rounded(whole), whole, average_of_figures(paper)))
        if sources:
            cell = _of_column(records, row.label, tasks, "source-test last")
            marked = row.options.has_source_network and cell != rounded(None)
            apart |= marked
            cells.append(f"{cell} {OWN}" if marked else cell)
        lines.append([row.label, *cells])
    for each in cited:
        figures = {task: recipe.figure(each, task) for task in tasks}
        cells = [rounded(value) for value in (*figures.values(), average_of_figures(figures))]
        lines.append([f"{each.label} {CITED}", *cells, *["-"] * sources])
    head = f"{_head(recipe)}, mean ± standard deviation over seeds"
    if any(row.published for row in rows):
        head += ", in brackets the paper's figure and ours less it in points"
    if cited:
        head += f"; rows marked {CITED} are the paper's and were not run"
    if apart:
        head += f"; {OWN_IN_WORDS}"
    return [f"{head}.", markdown(["row", *tasks.values(), "average", *["source, average"] * sources], lines)]


def _of_groups(recipe: Recipe, records: Sequence[Record], rows: Sequence[Row], tasks: Mapping[str, str]) -> list[str]:
    """A line for each task, with a column for each row; below them the mean and the best of each group of tasks."""
    column = f"{recipe.split} last"
    labels = [row.label for row in rows]
    lines = [[tasks[task], *(spread(values(records, task, label, column)) for label in labels)] for task in tasks]
    parts = [
        f"{_head(recipe)}, mean ± standard deviation over seeds.",
        markdown(["task", *labels], lines),
    ]
    named = {
        "Mean over the tasks of each target": (recipe.published, average),
        "Best task of each target by its mean over seeds, for which one looks at the target's labels": (
            recipe.published_best,
            _best,
        ),
    }
    for words, (name, summary) in named.items():
        columns = TABLES[name].columns if name is not None else ()
        lines = []
        for row in rows:
            own = {
                head: summary({task: values(records, task, row.label, column) for task in members})
                for head, members in recipe.groups.items()
            }
            paper = {head: _figure(name, row.cites, head) for head in recipe.groups}
            cells = [beside(rounded(own[head]), own[head], paper[head]) for head in recipe.groups]
            whole = average_of_figures(own)
            lines.append([row.label, *cells, beside(rounded(whole), whole, average_of_figures(paper))])
        brackets = ", in brackets the paper's figure and ours less it in points"
        held = any(head in columns for head in recipe.groups)
        parts += [f"{words}{brackets * held}.", markdown(["row", *recipe.groups, "average"], lines)]
    return parts


def _best(columns: Mapping[str, Mapping[int, float]]) -> float | None:
    """The greatest over the tasks of each one's mean over seeds; None where a task has none, for it could be that."""
    known = [figure for figures in columns.values() if (figure := mean(figures)) is not None]
    return max(known) if len(known) == len(columns) else None


def _figure(name: str | None, label: str | None, head: str) -> float | None:
    """What a published table's row has in the column `head`."""
    if name is None or label is None or head not in TABLES[name].columns:
        return None
    return TABLES[name].row(label).values[TABLES[name].columns.index(head)]


def _head(recipe: Recipe) -> str:
    whose = recipe.split.replace("-", " ").capitalize()
    return f"{recipe.name}: {recipe.source}. {whose} {in_words(recipe.metric)} in per cent at the last step"


def _differences(recipe: Recipe, records: Sequence[Record], rows: Sequence[Row], tasks: Mapping[str, str]) -> list[str]:
    """The rows less those that they are compared with, where there are runs of both."""
    present = {row.label for row in rows}
    pairs = [(row.label, other) for row in rows if (other := recipe.compared_with(row)) in present]
    if not pairs:
        return []
    others = {other for _, other in pairs}
    if recipe.ablation:
        what, named = "Each row less the one above it", False
    elif len(others) == 1:
        what, named = f"Each row less the row {others.pop()}", False
    else:
        what, named = "Rows less those that they are compared with", True
    heads = {head: [task] for task, head in tasks.items()}
    if recipe.groups:
        # All of them: as a mean, a difference of a group that lacks a task is none.
        heads = {head: list(members) for head, members in recipe.groups.items()}
    lines = [
        [
            f"{label} less {other}" if named else label,
            *differences(records, label, other, list(heads.values()), f"{recipe.split} last"),
        ]
        for label, other in pairs
    ]
    return [
        f"{what}, by the same task and seed: mean ± standard error over seeds.",
        markdown(["row", *heads, "all"], lines),
    ]


def _papers_own(table: PublishedTable, *, whole: bool) -> list[str]:
    notes = f" {table.notes}" if table.notes else ""
    if not whole:
        return [f"The paper: {table.paper}; {table.caption}.{notes}"]
    average = ["average"] if any(row.average is not None for row in table.rows) else []
    return [
        "The paper's own table, whose columns are others than ours: "
        f"{table.paper}; {table.caption}; {table.metric}.{notes}",
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


def _of_a_run(records: Sequence[Record], label: str) -> tuple[str, str]:
    """Steps and minutes of a row's runs on average."""
    of_row = [record for record in records if record["row"] == label]
    return f"{fmean(r['steps'] for r in of_row):,.0f}", f"{fmean(r['seconds'] for r in of_row) / 60:.1f}"


def _of_column(records: Sequence[Record], label: str, tasks: Mapping[str, str], column: str) -> str:
    return rounded(average({task: values(records, task, label, column) for task in tasks}))

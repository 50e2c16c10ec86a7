"""Results over seeds, beside the figures of the papers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dynconv.recipes import TABLES, PublishedRow, PublishedTable, Recipe
from dynconv.report.cited import CitedFigure, figure_of, printed_average, said_of, whole_table
from dynconv.report.collect import FoundRun
from dynconv.report.groups import Group, Grouping
from dynconv.report.page.document import Line, Table
from dynconv.report.papers import Match, other_metric
from dynconv.report.spread import Spread, average, column_of, per_cent, signed, text_of

Matches = Mapping[str, Sequence[Match]]


@dataclass(frozen=True)
class _Paper:
    """A paper's table that runs are held against."""

    table: PublishedTable
    recipes: tuple[Recipe, ...]
    """Those that the runs belong to: they say which task is which column."""
    run: frozenset[str]
    """Labels of the rows whose figures stand beside a run's."""

    def figure(self, row: PublishedRow, task: str) -> CitedFigure | None:
        """A row's figure for a task; None where the table has none."""
        return next((found for each in self.recipes if (found := figure_of(each, row, task)) is not None), None)

    def average(self, row: PublishedRow, figures: Mapping[str, CitedFigure], *, whole: bool) -> CitedFigure | None:
        """The average that the paper prints, where `figures` (by task) are of all its columns; else their mean where
        they are the `whole` of what they are held against, and None where they are not."""
        for recipe in self.recipes:
            if (printed := printed_average(recipe, row, [*figures])) is not None:
                return printed
        return CitedFigure(round(fmean(each.value for each in figures.values()), 1)) if whole else None

    def shows(self, tasks: Sequence[str]) -> bool:
        """Whether it has a figure of one of `tasks`."""
        return any(self.figure(row, task) is not None for row in self.table.rows for task in tasks)


def results_tables(grouping: Grouping, found: Matches, rule: str) -> tuple[Table, ...]:
    """Target test figures, mean ± standard deviation over seeds, beside the papers' figures; and behind it, whole,
    those papers' tables that the runs are held against and whose columns are other tasks.

    Args:
        grouping: The finished runs.
        found: Run name to the rows of recipes that it is one of.
        rule: Which of a run's models.
    """

    def score(run: FoundRun) -> float | None:
        return per_cent(run.chosen(rule), "target-test", other_metric(found[run.name]))

    counted = [run for group in grouping.groups for run in group.all()]
    papers = _papers(counted, found)
    lines: list[Line] = []
    measured: set[str] = set()
    for group in grouping.groups:
        columns = [column_of(group, task, score) for task in grouping.tasks]
        measured |= {task for task, column in zip(grouping.tasks, columns, strict=True) if column is not None}
        mean = average([column for column in columns if column is not None])
        lines.append(Line((group.label, _count(columns), *map(text_of, columns), text_of(mean)), first=True))
        lines += _paper_lines(group, grouping.tasks, columns, found, papers)
    for paper in papers.values():
        lines += _cited_lines(paper, grouping.tasks)
    notes = [
        f"Target test {grouping.metrics} in % of {model_of(rule)} of each run: mean ± standard deviation over seeds, "
        "whose number is n. The average is over the tasks, of the seeds that have all of them."
    ]
    if any(len(group.runs) < len(grouping.tasks) for group in grouping.groups):
        notes.append("Where a method lacks a task, its average is over the others and compares with no other line.")
    if unlabelled := [task for task in grouping.tasks if task not in measured]:
        notes.append(f"There is no figure of {', '.join(unlabelled)}: the target's images have no labels.")
    if any(other_metric(found[run.name]) is not None for run in counted):
        notes.append("Runs of a table that shows the mean over the classes are shown by that mean.")
    if any(line.kind == "cited" for line in lines):
        notes.append("Lines marked “cited” are copied from the paper: no run of this report is held against them.")
    if any(line.kind != "own" for line in lines):
        notes.append(
            "A paper's average is the one that it prints where the line has all columns of its table, else the mean of "
            "the figures shown. What stands behind a paper's ± is the paper's own."
        )
    notes += [said_of(paper.table) for paper in papers.values() if paper.shows(grouping.tasks)]
    recipes = {match.recipe.name: match.recipe for run in counted for match in found[run.name]}
    notes += [f"{recipe.name}: {recipe.source}; expected: {recipe.expected}." for recipe in recipes.values()]
    ours = Table(f"Target {grouping.metrics}", ("method", "n", *grouping.tasks, "average"), tuple(lines), tuple(notes))
    why = "The paper's own table, copied whole: its columns are other tasks than those of this report's runs."
    others = [whole_table(paper.table, why) for paper in papers.values() if not paper.shows(grouping.tasks)]
    return ours, *others


def model_of(rule: str) -> str:
    """A rule's choice in words."""
    return "the last model" if rule == "last" else f"the model that {rule} chose"


def _count(columns: Sequence[Spread | None]) -> str:
    """Seeds of a line's figures: their number, or the fewest and the most."""
    counts = sorted({len(column.values) for column in columns if column is not None})
    return "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""


def _paper_lines(
    group: Group, tasks: Sequence[str], columns: Sequence[Spread | None], found: Matches, papers: Mapping[str, _Paper]
) -> Iterator[Line]:
    """For each row of a paper that the group's runs are of: the paper's figures, and ours less them."""
    rows: dict[tuple[str, str], dict[str, CitedFigure]] = {}
    for task in tasks:
        for run in group.runs.get(task, {}).values():
            for match in found[run.name]:
                if (figure := match.published(run.config.run.task)) is not None:
                    rows.setdefault((str(match.recipe.published), str(match.row.cites)), {})[task] = figure
    ours = {task: column.mean for task, column in zip(tasks, columns, strict=True) if column is not None}
    for (name, label), figures in rows.items():
        paper = papers[name]
        less = {task: ours[task] - figure.value for task, figure in figures.items() if task in ours}
        # An average of other tasks than ours would be held against it.
        whole = less.keys() == ours.keys()
        mean = paper.average(paper.table.row(label), figures, whole=whole)
        yield Line((f"paper: {name}, {label}", "", *_cited_cells(figures, tasks, mean)), "reference")
        cells = (signed(less[task]) if task in less else "" for task in tasks)
        difference = signed(fmean(ours.values()) - mean.value) if whole and mean is not None else ""
        yield Line(("ours less the paper's", "", *cells, difference), "reference")


def _papers(runs: Sequence[FoundRun], found: Matches) -> dict[str, _Paper]:
    """The papers' tables that runs belong to, by name."""
    recipes: dict[str, dict[str, Recipe]] = {}
    rows: dict[str, set[str]] = {}
    for run in runs:
        for match in found[run.name]:
            if (name := match.recipe.published) is not None:
                recipes.setdefault(name, {})[match.recipe.name] = match.recipe
                of_table = rows.setdefault(name, set())
                if match.row.cites is not None and match.published(run.config.run.task) is not None:
                    of_table.add(match.row.cites)
    return {
        name: _Paper(TABLES[name], tuple(by_name.values()), frozenset(rows[name])) for name, by_name in recipes.items()
    }


def _cited_lines(paper: _Paper, tasks: Sequence[str]) -> Iterator[Line]:
    """The rows of a paper's table that no run is of, as far as they have a figure of the report's tasks."""
    first = True
    for row in paper.table.rows:
        figures = {task: figure for task in tasks if (figure := paper.figure(row, task)) is not None}
        if row.label not in paper.run and figures:
            mean = paper.average(row, figures, whole=len(figures) == len(tasks))
            cells = _cited_cells(figures, tasks, mean)
            yield Line((f"cited: {paper.table.name}, {row.label}", "", *cells), "cited", first)
            first = False


def _cited_cells(figures: Mapping[str, CitedFigure], tasks: Sequence[str], mean: CitedFigure | None) -> Iterator[str]:
    for figure in (*map(figures.get, tasks), mean):
        yield "" if figure is None else figure.text()

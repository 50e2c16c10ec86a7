"""Figures of papers' tables as a report cites them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynconv.recipes import TABLES, PublishedRow, PublishedTable, Recipe
from dynconv.report.page.document import Line, Table

ALL = "all"


@dataclass(frozen=True)
class CitedFigure:
    """A published figure, in per cent where its table says nothing else."""

    value: float
    spread: float | None = None
    """What the paper prints behind its ±."""

    def text(self) -> str:
        """The figure with its spread; to one decimal, or to two where the second is not 0."""
        value = f"{self.value:.1f}" if self.value == round(self.value, 1) else f"{self.value:.2f}"
        return value if self.spread is None else f"{value} ± {self.spread:g}"


def figure_of(recipe: Recipe, row: PublishedRow, task: str) -> CitedFigure | None:
    """A published row's figure for a recipe's task; None where the table has none.

    A mean over the classes is computed here: it is rounded to one decimal, and nothing is printed as its spread.
    """
    table = recipe.table
    value = recipe.figure(row, task) if table is not None and task in recipe.tasks else None
    if table is None or value is None:
        return None
    if recipe.metric == "class-mean-accuracy":
        return CitedFigure(round(value, 1))
    place = recipe.column(task)
    return CitedFigure(value, None if row.spread is None or place is None else row.spread[place])


def printed_average(recipe: Recipe, row: PublishedRow, tasks: Sequence[str]) -> CitedFigure | None:
    """The average that a row of a recipe's table prints, where `tasks` are all of the table's columns and no other;
    None where they are not, or none is printed."""
    if recipe.table is None or row.average is None or any(task not in recipe.tasks for task in tasks):
        return None
    if {recipe.tasks[task] for task in tasks} != set(recipe.table.columns):
        return None
    return CitedFigure(row.average, row.average_spread)


def whole_table(table: PublishedTable, why: str) -> Table:
    """All of a paper's table, each line cited; `why` is the sentence that says what it does here."""
    average = any(row.average is not None for row in table.rows)
    lines = []
    for row in table.rows:
        figures = [*zip(row.values, row.spread or (None,) * len(row.values), strict=True)]
        figures += [(row.average, row.average_spread)] * average
        cells = ("" if value is None else CitedFigure(value, spread).text() for value, spread in figures)
        lines.append(Line((row.label, *cells), "cited"))
    header = ("cited row", *table.columns, *["average"] * average)
    notes = (why, f"{said_of(table)} The figures are: {table.metric}.")
    return Table(f"Cited: {table.name}", header, tuple(lines), notes)


def said_of(table: PublishedTable) -> str:
    """Where a table stands, what it shows, and what must be known of it."""
    return " ".join(f"{table.name}: {table.paper}. {table.caption}. {table.notes}".split())


def asked_tables(names: Sequence[str]) -> tuple[Table, ...]:
    """The tables that `--published` names, each once; all of them for "all"."""
    chosen = TABLES if ALL in names else dict.fromkeys(names)
    return tuple(whole_table(TABLES[name], "Copied from the paper, as --published asks for.") for name in chosen)


def check_names(names: Sequence[str]) -> None:
    """ValueError where `--published` names a table that is not known."""
    if unknown := [name for name in names if name != ALL and name not in TABLES]:
        raise ValueError(
            f"--published: expected {ALL} or tables of {', '.join(TABLES)}; got {', '.join(unknown)}. "
            "Give the RUNs first: every word behind --published is a table's name"
        )

"""What a table of a paper is, as data."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class PublishedRow:
    """One line of a paper's table, as printed."""

    label: str
    """The method as the paper calls it."""
    values: tuple[float | None, ...]
    """One figure per column; None where the paper has none."""
    spread: tuple[float | None, ...] | None = None
    """What stands behind the ± of each figure; None where nothing is printed."""
    average: float | None = None
    """The printed average; None where the table has none."""
    average_spread: float | None = None
    """What stands behind the ± of the average."""

    @property
    def mean(self) -> float | None:
        """The mean of the figures; None where one is missing."""
        known = [value for value in self.values if value is not None]
        return fmean(known) if len(known) == len(self.values) else None


@dataclass(frozen=True)
class PublishedTable:
    """A table of results as its paper prints it, baselines included.

    Raises:
        ValueError: A row with more or fewer figures than there are columns, or two rows of one label.
    """

    name: str
    """PAPER-NUMBER, or PAPER-SUBJECT for figures that stand in the text."""
    paper: str
    """Authors, title in short, and where it appeared."""
    caption: str
    """Table number and what it shows."""
    columns: tuple[str, ...]
    """Heads of the columns; a recipe's task belongs to the column that is called like its head."""
    rows: tuple[PublishedRow, ...]
    """In the paper's order."""
    metric: str
    """What the figures are; per cent where it says nothing else."""
    notes: str = ""
    """Printed errors with their correction, and what the paper says beside the table."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.values) != len(self.columns) or len(row.spread or row.values) != len(self.columns):
                raise ValueError(
                    f"{self.name}: expected {len(self.columns)} figures in the row {row.label!r}, got "
                    f"{len(row.values)}, and {len(row.spread or row.values)} of their spread"
                )
        if len({row.label for row in self.rows}) != len(self.rows):
            raise ValueError(f"{self.name}: expected rows of different labels, got {[row.label for row in self.rows]}")

    def row(self, label: str) -> PublishedRow:
        """The row called `label`. ValueError where there is none (the known ones are named)."""
        found = {row.label: row for row in self.rows}
        if label not in found:
            raise ValueError(f"{self.name}: expected a row of {', '.join(found)}; got {label!r}")
        return found[label]


def parse_rows(text: str) -> tuple[PublishedRow, ...]:
    """Rows from lines "LABEL | FIGURES" or "LABEL | FIGURES | AVERAGE"; a figure is NUMBER, NUMBER±SPREAD, or - where
    the paper has none."""
    rows = []
    for line in text.strip().splitlines():
        label, figures, *last = (part.strip() for part in line.split("|"))
        values, spreads = zip(*map(_figure, figures.split()), strict=True)
        average, spread = _figure(last[0]) if last else (None, None)
        printed = None if all(each is None for each in spreads) else spreads
        rows.append(PublishedRow(label, values, printed, average, spread))
    return tuple(rows)


def _figure(text: str) -> tuple[float | None, float | None]:
    if text == "-":
        return None, None
    value, _, spread = text.partition("±")
    return float(value), float(spread) if spread else None

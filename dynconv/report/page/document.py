"""What a report says, as data: three writers turn it into Markdown, LaTeX and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

LineKind = Literal["own", "reference", "cited", "average"]


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    cells: tuple[str, ...]
    """As many as the table's header has."""
    kind: LineKind = "own"
    """"own" figures; "reference": the paper's beside them; "cited" from a paper for what no run did; "average"."""
    first: bool = False
    """Whether it begins a group, which a rule sets apart from what stands above."""


@dataclass(frozen=True)
class Table:
    """A table. ValueError where a line is shorter or longer than the header."""

    title: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """What must be known to read it, one sentence or two each."""
    words: int = 1
    """Columns of words, from the left; the others hold figures and stand to the right."""

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.cells) != len(self.header):
                raise ValueError(
                    f"{self.title}: expected {len(self.header)} cells in each line, got {len(line.cells)}: {line.cells}"
                )


@dataclass(frozen=True)
class Figure:
    """An image file in the report's folder."""

    title: str
    alt: str
    """What it shows, for who cannot see it."""
    path: Path
    caption: str = ""


@dataclass(frozen=True)
class Missing:
    """What is not shown, and why."""

    title: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """Names and what belongs to them."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


Block: TypeAlias = Table | Figure | Missing | Facts | Text


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()
    folded: bool = False
    """Whether HTML shows it only when it is asked for."""


@dataclass(frozen=True)
class Report:
    """The whole."""

    title: str
    introduction: tuple[str, ...]
    sections: tuple[Section, ...]

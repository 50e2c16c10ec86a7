"""A report as Markdown; its figures are files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from dynconv.report.page.document import Block, Facts, Figure, Missing, Report, Section, Table, Text

# What would be read as markup, in a cell or in running text.
SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_[]<>|#"} | {"\n": " "})
# Words between two backticks are code here as well. Where a | is among them they would end a cell.
CODE = re.compile(r"(`[^`|\n]+`)")


def markdown(report: Report, folder: Path) -> str:
    """The text of report.md, to be written into `folder`."""
    lines = [f"# {_escape(report.title)}"]
    lines += [_escape(text) for text in report.introduction]
    for section in report.sections:
        lines += _section(section, 2, folder)
    return "\n\n".join(lines) + "\n"


def _section(section: Section, level: int, folder: Path) -> Iterator[str]:
    yield f"{'#' * level} {_escape(section.title)}"
    for block in section.blocks:
        yield from _block(block, folder)
    for each in section.sections:
        yield from _section(each, level + 1, folder)


def _block(block: Block, folder: Path) -> Iterator[str]:
    if isinstance(block, Table):
        yield f"**{_escape(block.title)}**"
        yield _table(block)
        yield from map(_escape, block.notes)
    elif isinstance(block, Figure):
        place = quote(block.path.relative_to(folder).as_posix())
        yield f"**{_escape(block.title)}**"
        yield f"![{_escape(block.alt)}]({place})"
        if block.caption:
            yield _escape(block.caption)
    elif isinstance(block, Missing):
        yield f"*{_escape(block.title)} is left out:* {_escape(block.reason)}"
    elif isinstance(block, Facts):
        yield "\n".join(f"- {_escape(name)}: {_escape(value)}" for name, value in block.pairs)
    elif isinstance(block, Text):
        yield _escape(block.text)


def _table(table: Table) -> str:
    marks = ["---" if column < table.words else "---:" for column in range(len(table.header))]
    lines = [[_escape(cell) for cell in table.header], marks]
    for line in table.lines:
        cells = [_escape(cell) for cell in line.cells]
        # Figures that are not the runs' own are told apart by their slant.
        lines.append(cells if line.kind == "own" else [f"*{cell}*" if cell else "" for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    parts = CODE.split(text)
    return "".join(part if place % 2 else part.translate(SPECIAL) for place, part in enumerate(parts))

"""A report as LaTeX: tables in the manner of booktabs in a document that compiles by itself, with any engine."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynconv.report.page.document import Block, Facts, Figure, Line, Missing, Report, Section, Table, Text

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage{iftex}
\ifPDFTeX
  \usepackage[T1]{fontenc}
  \usepackage[utf8]{inputenc}
\fi
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{array}
\usepackage{booktabs}
\usepackage{graphicx}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
\setcounter{secnumdepth}{0}
% A table wider than the page is scaled to it, a narrower one keeps its size.
\newcommand{\fitted}[1]{\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{#1}}
"""
SECTIONS = ("section", "subsection", "subsubsection", "paragraph")
# Printed lines of a table that fit on a page with its heading; a scaled one cannot go on over the page by itself.
MOST_LINES = 36
FIGURE = r"width=\linewidth,height=.8\textheight,keepaspectratio"
# A column with a longer cell than this wraps, into lines of some 40 letters.
WIDEST, WRAPPED = 44, 40
# Longer words, paths and options, may be broken behind these letters, and where there is none of them for as long.
LONGEST_WORD, BREAKS = 24, "/_=,"
# The letters of pdfTeX's font encoding beyond Latin 1.
T1 = "ĂăĄąĆćČčĎďĐđĘęĚěĞğĹĺĽľŁłŃńŇňŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž"
SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "-{}",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "−": "$-$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "ε": r"$\varepsilon$",
    "τ": r"$\tau$",
    "π": r"$\pi$",
    "σ": r"$\sigma$",
    "°": r"$^{\circ}$",
    "²": "$^{2}$",
    "–": "--",
    "—": "---",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "…": r"\ldots{}",
    "\n": " ",
    "\t": " ",
}


def latex(report: Report, folder: Path) -> str:
    """The text of report.tex, to be written into `folder`, which the names of its figures are relative to."""
    lines = [PREAMBLE, r"\begin{document}", rf"{{\Large {escape(report.title)}}}\par"]
    lines += [escape(text) + r"\par" for text in report.introduction]
    for section in report.sections:
        lines += _section(section, 0, folder)
    return "\n".join([*lines, r"\end{document}"]) + "\n"


def escape(text: str) -> str:
    """`text` with what LaTeX would read as a command, or cannot print, written out.

    The letters that pdfTeX's fonts have pass; of any other the number is given, for a document that stops at a class's
    name is of less use.
    """
    return " ".join(map(_word, text.split(" ")))


def _word(word: str) -> str:
    written = [SPECIAL.get(letter) or (letter if _prints(letter) else f"[U+{ord(letter):04X}]") for letter in word]
    since = 0
    for place, letter in enumerate(word[:-1] if len(word) > LONGEST_WORD else ""):
        since += 1
        if letter in BREAKS or since == LONGEST_WORD:
            written[place] += r"\allowbreak{}"
            since = 0
    return "".join(written)


def _prints(letter: str) -> bool:
    return " " <= letter <= "~" or "À" <= letter <= "ÿ" or letter in T1


def _section(section: Section, level: int, folder: Path) -> Iterator[str]:
    yield ""
    yield rf"\{SECTIONS[min(level, len(SECTIONS) - 1)]}{{{escape(section.title)}}}"
    for block in section.blocks:
        yield from _block(block, folder)
    for each in section.sections:
        yield from _section(each, level + 1, folder)


def _block(block: Block, folder: Path) -> Iterator[str]:
    if isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Figure):
        yield rf"\medskip\textbf{{{escape(block.title)}}}\par\nopagebreak"
        # A file's name as it is: the report names it of letters that mean nothing here. Braces: of a name with several
        # dots the end behind the first would be taken for its kind.
        path = block.path.relative_to(folder)
        yield rf"\includegraphics[{FIGURE}]{{{{{path.with_suffix('').as_posix()}}}{path.suffix}}}\par"
        if block.caption:
            yield rf"{{\footnotesize {escape(block.caption)}\par}}"
    elif isinstance(block, Missing):
        yield rf"\emph{{{escape(block.title)} is left out:}} {escape(block.reason)}\par"
    elif isinstance(block, Facts):
        yield r"\begin{description}\small\raggedright"
        yield from (rf"\item[{{{escape(name)}}}] {escape(value)}" for name, value in block.pairs)
        yield r"\end{description}"
    elif isinstance(block, Text):
        yield escape(block.text) + r"\par"


def _table(table: Table) -> Iterator[str]:
    columns = "".join(_column(table, place) for place in range(len(table.header)))
    header = rf"{' & '.join(map(escape, table.header))} \\"
    for piece, lines in enumerate(_pieces(table)):
        title = f"{table.title}, continued" if piece else table.title
        yield rf"\medskip\textbf{{{escape(title)}}}\par\nopagebreak"
        yield rf"\fitted{{\begin{{tabular}}{{@{{}}{columns}@{{}}}}"
        yield rf"\toprule {header} \midrule"
        for place, line in enumerate(lines):
            if line.first and place:
                yield r"\addlinespace"
            yield _line(line)
        yield r"\bottomrule\end{tabular}}\par"
    yield from (rf"{{\footnotesize {escape(note)}\par}}" for note in table.notes)


def _pieces(table: Table) -> Iterator[Sequence[Line]]:
    """The lines in pieces that fit on a page each."""
    wraps = [_wraps(table, place) for place in range(len(table.header))]
    begin, height = 0, 0.0
    for place, line in enumerate(table.lines):
        wrapped = zip(line.cells, wraps, strict=True)
        printed = max(len(textwrap.wrap(cell, WRAPPED)) if wrap else 1 for cell, wrap in wrapped)
        needed = printed + line.first / 2
        if height + needed > MOST_LINES and place > begin:
            yield table.lines[begin:place]
            begin, height = place, 0
        height += needed
    yield table.lines[begin:]


def _line(line: Line) -> str:
    cells = [escape(cell) for cell in line.cells]
    if line.kind != "own":
        cells = [rf"\textit{{{cell}}}" if cell else "" for cell in cells]
    # Braces: a cell that begins with a bracket would be an argument of the \\ before it.
    return rf"{{}}{' & '.join(cells)} \\"


def _column(table: Table, place: int) -> str:
    if place >= table.words:
        return "r"
    return r">{\raggedright\arraybackslash}p{70mm}" if _wraps(table, place) else "l"


def _wraps(table: Table, place: int) -> bool:
    return place < table.words and max((len(line.cells[place]) for line in table.lines), default=0) > WIDEST

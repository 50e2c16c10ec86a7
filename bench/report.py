"""The tables that a benchmark prints at its end."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dynconv.bench.rows import Row, where

_GROUP = ("shape", "batch", "dtype", "mode", "basis", "residual")
_COLUMNS = {
    "p20_ms": "p20, ms",
    "p50_ms": "p50, ms",
    "p80_ms": "p80, ms",
    "ratio_to_static": "x static",
    "ratio_to_grouped": "x grouped",
    "peak_extra_mb": "peak, MB",
    "percent_of_floor": "% floor",
    "images_per_s": "images/s",
}
_MEANING = {
    "p50_ms": "p20, p50, p80: percentiles of a call's time",
    "ratio_to_static": "x static: time over that of static in the same layout, below 1 is faster",
    "ratio_to_grouped": "x grouped: time over that of a kernel per sample and one grouped convolution",
    "peak_extra_mb": "peak: scratch memory beyond inputs and results",
    "percent_of_floor": "% floor: how much of the time this machine's rates of arithmetic or memory make inevitable; "
    "at 90 there is little left to gain, at 30 much",
}
# Left out where the terminal is narrower than the whole table.
_WIDE = ("p20_ms", "p80_ms", "images_per_s")
_NARROW_BELOW = 110


def print_results(rows: Sequence[Row], console: Console | None = None) -> None:
    """A table per problem on stdout, and below them where they were measured, what the columns are, and, once each,
    what was skipped or refused and why."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
    timed = [row for row in rows if row["status"] == "ok"]
    narrow = console.width < _NARROW_BELOW
    shown = [name for name in _COLUMNS if any(row[name] != "" for row in timed) and not (narrow and name in _WIDE)]
    for key, group in itertools.groupby(timed, lambda row: tuple(row[name] for name in _GROUP)):
        words = (f"batch {word}" if name == "batch" else str(word) for name, word in zip(_GROUP, key, strict=True))
        console.print(f"\n{' '.join(word for word in words if word)}", style="bold", markup=False, highlight=False)
        console.print(_table(list(group), shown))
    if timed:
        on = "the CPU" if timed[0]["device"] == "cpu" else "the GPU"
        meant = "; ".join(text for name, text in _MEANING.items() if name in shown)
        console.print(f"\nmeasured on {on}: {where(timed[0])}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"{meant}.\n", markup=False, highlight=False)
    for status in ("skipped", "refused"):
        found = Counter((row["provider"], row["note"]) for row in rows if row["status"] == status)
        for (provider, note), count in found.items():
            text = f"{status}: {provider}, {count} row{'s' * (count > 1)}: {note}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Row], shown: Sequence[str]) -> Table:
    """A line per provider and layout; columns of one width, so that the tables stand below each other."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("provider", min_width=19, no_wrap=True)
    table.add_column("layout", no_wrap=True)
    for name in shown:
        table.add_column(_COLUMNS[name], justify="right", min_width=9, no_wrap=True)
    for row in rows:
        name = f"{row['provider']} +graph" if row["graph"] is True else row["provider"]
        table.add_row(name, row["layout"], *(_cell(row[column]) for column in shown))
    return table


def _cell(value: object) -> str:
    if value == "":
        return ""
    return f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}"

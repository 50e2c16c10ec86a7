"""Pictures of a table of `dynconv bench`, drawn from the CSV alone.

    python -m dynconv.bench.plot TABLE.csv [--out DIR]

Per dtype, residual and layout: the ratios to the static convolution over the problems, of the convolution also ours and
the usual way alone, and the roofline; of the loader its images per second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dynconv.bench.plot_ratios import GROUPED, OURS, draw_rates, draw_ratios, draw_speed
from dynconv.bench.plot_roofline import draw_roofline
from dynconv.bench.rows import read_rows
from dynconv.bench.timing import STATIC

_FIGURE = ("op", "device", "dtype", "residual", "layout")


@dataclass(frozen=True)
class Options:
    """Draw a table."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE.csv")]
    """A table that `dynconv bench --out` wrote."""
    out: Path | None = None
    """Folder of the pictures. Default: beside the table."""


def draw(table: Path, out: Path) -> list[Path]:
    """Write the PNGs of each group of rows, as far as the rows have what they show.

    Raises:
        ValueError: The file is no table of ours, or has no timed row; `out` is a file.
    """
    rows = [row for row in read_rows(table) if row["status"] == "ok"]
    if not rows:
        raise ValueError(f"{table} has no timed row; its notes say why")
    if out.is_file():
        raise ValueError(f"--out {out} is a file; expected a folder for the pictures")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for group in dict.fromkeys(tuple(row[name] for name in _FIGURE) for row in rows):
        chosen = [row for row in rows if tuple(row[name] for name in _FIGURE) == group]
        stem = "_".join([table.stem, *(word for word in group[2:] if word)])
        compared = [row for row in chosen if row["ratio_to_static"]]
        if not compared:
            written.append(draw_rates(chosen, table, out / f"{stem}_images_per_s.png"))
            continue
        if any(row["provider"] != STATIC for row in compared):
            written.append(draw_ratios(compared, table, out / f"{stem}_ratio.png"))
        if group[0] == "dynamic_conv2d" and {OURS, GROUPED} <= {row["provider"] for row in compared}:
            written.append(draw_speed(compared, table, out / f"{stem}_speed.png"))
        if any(row["floor_ms"] for row in chosen):
            written.append(draw_roofline(chosen, table, out / f"{stem}_roofline.png"))
    return written


def main(args: Sequence[str] | None = None) -> int:
    """Draw the pictures and print their paths; 2 for wrong use."""
    options = tyro.cli(Options, prog="python -m dynconv.bench.plot", description=__doc__, args=args)
    try:
        written = draw(options.table, options.out or options.table.parent)
    except (ValueError, OSError) as error:
        print(f"dynconv.bench.plot: error: {error}", file=sys.stderr)
        return 2
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

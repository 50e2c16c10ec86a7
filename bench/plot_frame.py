"""What the pictures of `dynconv bench` share: their frame, and how a provider and a problem are named and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynconv.bench.rows import Written, where

# Ours in strong colours and filled; the others grey to brown, open.
_STYLE: dict[str, tuple[str, str]] = {
    "static": ("#000000", "_"),
    "dynconv": ("#d62728", "o"),
    "dynconv:native": ("#ff7f0e", "D"),
    "dynconv:triton": ("#e377c2", "D"),
    "dynconv:split": ("#1f77b4", "s"),
    "dynconv:aggregate": ("#2ca02c", "^"),
    "dynconv:loop": ("#17becf", "v"),
    "dynconv:linear": ("#9467bd", "P"),
    "dynconv:eager": ("#1f77b4", "s"),
    "grouped": ("#7f7f7f", "^"),
    "released": ("#8c564b", "P"),
    "vmap": ("#a0a0a0", "v"),
    "loop": ("#8c564b", "s"),
    "timm": ("#bcbd22", "X"),
    "plain": ("#7f7f7f", "s"),
    "pool": ("#000000", "+"),
}
# Inches and dots per inch: read at a width of 900 pixels, a page's, letters of 9 points are 12 pixels high.
_WIDTH, _AROUND, _DPI = 9.0, 1.1, 130
TEXT, SMALL = 9, 8
# Letters that a line of the legend holds, and what a mark takes of them.
_LEGEND_LETTERS, _MARK_LETTERS, _LEGEND_COLUMNS = 130, 9, 5


def frame(rows: Sequence[Written], panels: int, height: float, what: str) -> tuple[Any, list[Any]]:
    """A figure of one column of panels, each so many inches high, under a title that says what was measured and where.

    Args:
        rows: The rows to draw, all of one operator, dtype, residual, layout and machine.
        panels: Their number.
        height: Inches of a panel with its words.
        what: What the picture shows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height * panels + _AROUND), layout="constrained")
    first = rows[0]
    words = (first["op"], first["dtype"], first["residual"], first["layout"].upper())
    origin = f"{where(first)}, {first['commit'][:9]}" if first["commit"] != "unknown" else where(first)
    figure.suptitle(f"{', '.join(word for word in words if word)}: {what}\n{origin}", fontsize=TEXT + 1)
    return figure, list(figure.subplots(panels, 1, squeeze=False).ravel())


def finish(figure: Any, handles: dict[str, Any], path: Path) -> Path:
    """Write the figure, with a legend of the handles, if any, below the panels."""
    if handles:
        longest = max(map(len, handles)) + _MARK_LETTERS
        columns = max(1, min(_LEGEND_COLUMNS, len(handles), _LEGEND_LETTERS // longest))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=TEXT)
    figure.savefig(path, dpi=_DPI)
    return path


def panels_of(rows: Sequence[Written]) -> dict[str, list[Written]]:
    """The rows of each mode and basis, by the panel's title."""
    panels: dict[str, list[Written]] = {}
    for row in rows:
        panels.setdefault(f"{row['mode']}, {row['basis']} basis" if row["basis"] else row["mode"], []).append(row)
    return panels


def name_of(row: Written) -> str:
    """The provider as the legend has it."""
    return f"{row['provider']} +graph" if row["graph"] == "True" else row["provider"]


def order_of(row: Written) -> tuple[int, str]:
    """Where a provider stands in the legend and in a column."""
    known = list(_STYLE)
    return (known.index(row["provider"]) if row["provider"] in known else len(known)), name_of(row)


def style_of(row: Written) -> dict[str, Any]:
    """How a provider's mark looks."""
    colour, marker = _STYLE.get(row["provider"], ("#555555", "*"))
    filled = row["provider"].startswith("dynconv") and row["graph"] != "True"
    return {
        "color": colour,
        "marker": marker,
        "markersize": 8 if row["provider"] == "dynconv" else 6,
        "markerfacecolor": colour if filled else "none",
        "linestyle": "none",
        "zorder": 4 if row["provider"] == "dynconv" else 3,
    }


def problem_of(row: Written) -> list[str]:
    """The problem in lines: of a convolution its channels @ the image's side, then its kernel; of others the shape."""
    if row["op"] != "dynamic_conv2d":
        return row["shape"].split(", ")
    channels = dict.fromkeys((row["in_channels"], row["out_channels"]))
    kernel = f"{row['kernel']}x{row['kernel']}"
    if row["stride"] != "1":
        kernel += f" s{row['stride']}"
    if row["groups"] != "1":
        kernel += " depthwise" if row["groups"] == row["in_channels"] else f" g{row['groups']}"
    return [f"{'→'.join(channels)} @{row['size']}", kernel]

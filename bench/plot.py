"""Pictures of a table of `dynconv bench`, drawn from the CSV alone.

    python -m dynconv.bench.plot TABLE.csv [--out DIR]

Per dtype, residual and layout: the ratios to the static convolution over the shapes, and the roofline.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dynconv.bench.rows import Written, number, read_rows

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
    "timm": ("#bcbd22", "X"),
    "plain": ("#7f7f7f", "s"),
    "pool": ("#000000", "+"),
}
# Labels whose intensities differ by less than this factor would lie on each other.
_NEIGHBOURS = 1.6
_FIGURE = ("op", "device", "dtype", "residual", "layout")


@dataclass(frozen=True)
class Options:
    """Draw a table."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE.csv")]
    """A table that `dynconv bench --out` wrote."""
    out: Path | None = None
    """Folder of the pictures. Default: beside the table."""


def draw(table: Path, out: Path) -> list[Path]:
    """Write a PNG of ratios, and one of the roofline where the rows have one, per group of rows.

    Raises:
        ValueError: The file is no table of ours, or has no timed row.
    """
    rows = [row for row in read_rows(table) if row["status"] == "ok"]
    if not rows:
        raise ValueError(f"{table} has no timed row; its notes say why")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for group in dict.fromkeys(tuple(row[name] for name in _FIGURE) for row in rows):
        chosen = [row for row in rows if tuple(row[name] for name in _FIGURE) == group]
        stem = "_".join([table.stem, *(word for word in group[2:] if word)])
        written.append(_ratios(chosen, table, out / f"{stem}_ratio.png"))
        if any(row["floor_ms"] for row in chosen):
            written.append(_roofline(chosen, table, out / f"{stem}_roofline.png"))
    return written


def _figure(rows: Sequence[Written], panels: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    columns = min(2, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=(6.2 * columns + 1.8, 4.0 * lines + 0.7), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for spare in axes[panels:]:
        spare.set_visible(False)
    first = rows[0]
    words = (first["op"], first["dtype"], first["residual"], first["layout"].upper())
    origin = f"{first['device_name']}, {first['threads']} threads, torch {first['torch']}, {first['commit'][:9]}"
    figure.suptitle(f"{', '.join(word for word in words if word)}\n{origin}", fontsize=10)
    return figure, axes


def _name(row: Written) -> str:
    return f"{row['provider']} +graph" if row["graph"] == "True" else row["provider"]


def _order(row: Written) -> tuple[int, str]:
    """Where a provider stands in the legend and in a column."""
    known = list(_STYLE)
    return (known.index(row["provider"]) if row["provider"] in known else len(known)), _name(row)


def _style(row: Written) -> dict[str, Any]:
    colour, marker = _STYLE.get(row["provider"], ("#555555", "*"))
    filled = row["provider"].startswith("dynconv") and row["graph"] != "True"
    size = 8 if row["provider"] == "dynconv" else 6
    return {
        "color": colour,
        "marker": marker,
        "markersize": size,
        "markerfacecolor": colour if filled else "none",
        "linestyle": "none",
        "zorder": 4 if row["provider"] == "dynconv" else 3,
    }


def _panels(rows: Sequence[Written]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["mode"], row["basis"]) for row in rows))


def _ratios(rows: Sequence[Written], table: Path, path: Path) -> Path:
    """One panel per mode and basis; a column per shape and batch; providers side by side, ratio on a log scale."""
    panels = _panels(rows)
    figure, axes = _figure(rows, len(panels))
    ordered = sorted((row for row in rows if row["provider"] != "static"), key=_order)
    names = list(dict.fromkeys(_name(row) for row in ordered))
    handles: dict[str, Any] = {}
    for ax, (mode, basis) in zip(axes, panels, strict=False):
        inside = [row for row in rows if (row["mode"], row["basis"]) == (mode, basis) and row["ratio_to_static"]]
        places = list(dict.fromkeys((row["shape"], row["batch"]) for row in inside))
        for row in inside:
            if row["provider"] == "static":
                continue
            offset = (names.index(_name(row)) + 0.5) / len(names) - 0.5
            x = places.index((row["shape"], row["batch"])) + 0.84 * offset
            ratio, low, high = (number(row, name, table) for name in ("ratio_to_static", "ratio_p20", "ratio_p80"))
            spread = [[max(0, ratio - low)], [max(0, high - ratio)]]
            handle = ax.errorbar(x, ratio, yerr=spread, elinewidth=0.8, label=_name(row), **_style(row))
            handles.setdefault(_name(row), handle)
        ax.axhline(1, color="black", linewidth=1)
        for edge in range(1, len(places)):
            ax.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
        ax.set_yscale("log")
        _plain_ticks(ax)
        ax.set_xticks(range(len(places)), [f"{shape}\nbatch {batch}" for shape, batch in places], fontsize=8)
        ax.set_xlim(-0.5, len(places) - 0.5)
        ax.set_title(f"{mode}, {basis} basis" if basis else mode, fontsize=9)
        ax.set_ylabel("time / static (same layout)", fontsize=8)
        ax.grid(axis="y", which="both", color="#eeeeee")
        ax.set_axisbelow(True)
    figure.legend(
        [handles[n] for n in names if n in handles],
        [n for n in names if n in handles],
        loc="outside right upper",
        fontsize=8,
    )
    figure.savefig(path, dpi=130)
    return path


def _plain_ticks(ax: Any) -> None:
    """1, 2, 5, 10 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(labelsize=8)


def _roofline(rows: Sequence[Written], table: Path, path: Path) -> Path:
    """Achieved GFLOP/s over arithmetic intensity, below what bandwidth and matrix rate allow."""
    panels = _panels(rows)
    figure, axes = _figure(rows, len(panels))
    handles: dict[str, Any] = {}
    for ax, (mode, basis) in zip(axes, panels, strict=False):
        inside = [row for row in rows if (row["mode"], row["basis"]) == (mode, basis) and row["floor_ms"]]
        points = []
        for row in sorted(inside, key=_order):
            flop = number(row, "gflop", table)
            intensity, rate = 1e3 * flop / number(row, "mbytes", table), 1e3 * flop / number(row, "p50_ms", table)
            (handle,) = ax.plot(intensity, rate, label=_name(row), **_style(row))
            handles.setdefault(_name(row), handle)
            points.append((intensity, rate))
        # The coefficients' own arithmetic is float32's whatever x is; the roof is that of the convolution beside them.
        peak = max(number(row, "gflop_per_s", table) for row in inside)
        bandwidth = number(inside[0], "gbytes_per_s", table)
        ridge = peak / bandwidth
        low, high = min([p[0] for p in points] + [ridge]) / 2, max([p[0] for p in points] + [ridge]) * 2
        ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color="black", linewidth=1.2)
        ax.set_xscale("log")
        ax.set_yscale("log")
        for x, names in _labels(inside, table):
            y = min(x * bandwidth, peak)
            ax.plot([x, x], [min(p[1] for p in points), y], color="#dddddd", linewidth=0.8, zorder=1)
            place = {"xytext": (0, 4), "ha": "center"} if y == peak else {"xytext": (-3, 3), "ha": "right"}
            ax.annotate(names, (x, y), textcoords="offset points", fontsize=7, **place)
        slope = f"{bandwidth:.3g} GB/s and {peak:.4g} GFLOP/s, measured"
        ax.text(0.99, 0.02, slope, transform=ax.transAxes, ha="right", fontsize=7)
        ax.set_ylim(top=4 * peak)
        ax.set_xlabel("FLOP per compulsory byte", fontsize=8)
        ax.set_ylabel("GFLOP/s of the problem's least work", fontsize=8)
        ax.set_title(f"{mode}, {basis} basis" if basis else mode, fontsize=9)
        ax.tick_params(labelsize=8)
        ax.grid(which="major", color="#eeeeee")
        ax.set_axisbelow(True)
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=130)
    return path


def _labels(rows: Sequence[Written], table: Path) -> list[tuple[float, str]]:
    """The shapes at their intensities, those of the dynamic problem; neighbours share a label, one below the other."""
    places: dict[str, float] = {}
    for row in rows:
        if row["provider"] != "static":
            intensity = 1e3 * number(row, "gflop", table) / number(row, "mbytes", table)
            places.setdefault(f"{row['shape']} x{row['batch']}", intensity)
    found: list[tuple[float, str]] = []
    for name, x in sorted(places.items(), key=lambda item: item[1]):
        if found and x < _NEIGHBOURS * found[-1][0]:
            found[-1] = found[-1][0], f"{name}\n{found[-1][1]}"
        else:
            found.append((x, name))
    return found


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

"""Achieved rates below what a machine's bandwidth and arithmetic allow, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynconv.bench.plot_frame import SMALL, TEXT, finish, frame, name_of, order_of, panels_of, problem_of, style_of
from dynconv.bench.rows import Written, number
from dynconv.bench.timing import STATIC

# Inches of a panel with its words.
_HEIGHT = 4.0
# Of a panel's height: the end of the highest rate, and where the words begin above it.
_ROOF, _WORDS = 0.6, 0.64
# Words stand upright above the roof, at least this share of the panel's width apart.
_APART = 0.02


def draw_roofline(rows: Sequence[Written], table: Path, path: Path) -> Path:
    """A panel per mode and basis: GFLOP/s of the problem's least work over its arithmetic intensity.

    Raises:
        ValueError: A cell of the table is no number.
    """
    panels = panels_of([row for row in rows if row["floor_ms"]])
    figure, axes = frame(rows, len(panels), _HEIGHT, "what this machine allows")
    handles: dict[str, Any] = {}
    for ax, (title, inside) in zip(axes, panels.items(), strict=True):
        _draw_panel(ax, sorted(inside, key=order_of), table, handles)
        ax.set_title(title, fontsize=TEXT)
    axes[-1].set_xlabel("FLOP per compulsory byte", fontsize=TEXT)
    return finish(figure, handles, path)


def _draw_panel(ax: Any, rows: Sequence[Written], table: Path, handles: dict[str, Any]) -> None:
    points = []
    for row in rows:
        intensity = _intensity(row, table)
        rate = 1e3 * number(row, "gflop", table) / number(row, "p50_ms", table)
        (handle,) = ax.plot(intensity, rate, **style_of(row))
        handles.setdefault(name_of(row), handle)
        points.append((intensity, rate))
    # The coefficients' own arithmetic is float32's whatever x is; the roof is that of the convolution beside them.
    peak = max(number(row, "gflop_per_s", table) for row in rows)
    bandwidth = number(rows[0], "gbytes_per_s", table)
    ridge = peak / bandwidth
    low, high = min([p[0] for p in points] + [ridge]) / 2, max([p[0] for p in points] + [ridge]) * 2
    lowest, highest = min(p[1] for p in points), max([p[1] for p in points] + [peak])
    ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color="black", linewidth=1.2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    lowest /= 1.5
    ax.set_ylim(lowest, lowest * (highest / lowest) ** (1 / _ROOF))
    # Across in the data's units, up in shares of the panel.
    upright = ax.get_xaxis_transform()
    places = _intensities(rows, table)
    spots = spread([math.log10(x) for x in places.values()], _APART * math.log10(high / low))
    for (name, x), spot in zip(places.items(), spots, strict=True):
        ends = [0, _ROOF + 0.01, _WORDS - 0.01]
        ax.plot([x, x, 10**spot], ends, color="#cccccc", linewidth=0.8, zorder=1, transform=upright)
        ax.text(10**spot, _WORDS, name, rotation=90, ha="center", va="bottom", fontsize=SMALL, transform=upright)
    slope = f"{bandwidth:.3g} GB/s and {peak:.4g} GFLOP/s, measured"
    ax.text(0.99, 0.02, slope, transform=ax.transAxes, ha="right", fontsize=SMALL)
    ax.set_ylabel("GFLOP/s", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.grid(which="major", color="#eeeeee")
    ax.set_axisbelow(True)


def _intensity(row: Written, table: Path) -> float:
    """FLOP per byte of the problem's least work and compulsory traffic."""
    return 1e3 * number(row, "gflop", table) / number(row, "mbytes", table)


def _intensities(rows: Sequence[Written], table: Path) -> dict[str, float]:
    """Each dynamic problem's intensity by its name, from the lowest on."""
    found: dict[str, float] = {}
    for row in rows:
        if row["provider"] != STATIC:
            found.setdefault(f"{problem_of(row)[0]} x{row['batch']}", _intensity(row, table))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Ascending places moved as far as needed for neighbours to be `apart`, the middle of each crowd where it was."""
    crowds: list[list[float]] = []
    for place in places:
        crowds.append([place])
        while len(crowds) > 1 and _spots(crowds[-2], apart)[-1] + apart > _spots(crowds[-1], apart)[0]:
            last = crowds.pop()
            crowds[-1] += last
    return [spot for crowd in crowds for spot in _spots(crowd, apart)]


def _spots(crowd: Sequence[float], apart: float) -> list[float]:
    middle = sum(crowd) / len(crowd)
    return [middle + apart * (place - (len(crowd) - 1) / 2) for place in range(len(crowd))]

"""Times over that of the static convolution, or network, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynconv.bench.plot_frame import SMALL, TEXT, finish, frame, name_of, order_of, panels_of, problem_of, style_of
from dynconv.bench.rows import Written, number
from dynconv.bench.timing import STATIC

OURS, GROUPED = "dynconv", "grouped"
# Inches of a panel with its words: with a mark for each provider, and with few of them.
_TALL, _LOW = 3.1, 2.6
# Of the width between two problems, what the marks take.
_SPREAD = 0.84
# A scale that spans less than this factor has finer steps.
_NARROW = 4.0


def draw_ratios(rows: Sequence[Written], table: Path, path: Path) -> Path:
    """A panel per mode and basis, in it a column per problem and a mark per provider.

    Raises:
        ValueError: A cell of the table is no number.
    """
    panels = panels_of([row for row in rows if row["provider"] != STATIC])
    ordered = sorted((row for row in rows if row["provider"] != STATIC), key=order_of)
    names = list(dict.fromkeys(map(name_of, ordered)))
    figure, axes = frame(rows, len(panels), _TALL, "time over that of static")
    handles: dict[str, Any] = {}
    for ax, (title, inside) in zip(axes, panels.items(), strict=True):
        _draw_panel(ax, inside, names, name_of, style_of, table, handles)
        ax.set_title(title, fontsize=TEXT)
    return finish(figure, {name: handles[name] for name in (STATIC, *names)}, path)


def draw_speed(rows: Sequence[Written], table: Path, path: Path) -> Path:
    """What a newcomer asks first: ours and the usual way, a kernel per sample, beside the static one.

    A panel per mode, in it a column per problem and a mark per provider and basis: filled for 1x1, open for full.

    Raises:
        ValueError: A cell of the table is no number.
    """
    shown = [row for row in rows if row["provider"] in (OURS, GROUPED) and row["graph"] != "True"]
    words = {OURS: "dynconv", GROUPED: "grouped (a kernel per sample)"}

    def named(row: Written) -> str:
        return f"{words[row['provider']]}, {row['basis']} basis"

    def styled(row: Written) -> dict[str, Any]:
        style = style_of(row)
        return style | {"markersize": 8, "markerfacecolor": style["color"] if row["basis"] == "1x1" else "white"}

    ordered = sorted(shown, key=lambda row: (*order_of(row), row["basis"]))
    names = list(dict.fromkeys(map(named, ordered)))
    modes = list(dict.fromkeys(row["mode"] for row in shown))
    figure, axes = frame(rows, len(modes), _LOW, "time over that of the static convolution")
    handles: dict[str, Any] = {}
    for ax, mode in zip(axes, modes, strict=True):
        _draw_panel(ax, [row for row in shown if row["mode"] == mode], names, named, styled, table, handles)
        ax.set_title(mode, fontsize=TEXT)
    return finish(figure, {name: handles[name] for name in (STATIC, *names)}, path)


def _draw_panel(
    ax: Any,
    rows: Sequence[Written],
    names: Sequence[str],
    named: Callable[[Written], str],
    styled: Callable[[Written], dict[str, Any]],
    table: Path,
    handles: dict[str, Any],
) -> None:
    """The marks of some rows: a place per problem, there each of `names` at its own; a bar from the 20th to the 80th
    percentile. `handles` keeps what the legend shows."""
    places = {(row["shape"], row["batch"]): row for row in reversed(rows)}
    order = list(dict.fromkeys((row["shape"], row["batch"]) for row in rows))
    handles.setdefault(STATIC, ax.axhline(1, color="black", linewidth=1.2))
    ends = [1.0]
    for row in rows:
        offset = (names.index(named(row)) + 0.5) / len(names) - 0.5
        x = order.index((row["shape"], row["batch"])) + _SPREAD * offset
        ratio, low, high = (number(row, name, table) for name in ("ratio_to_static", "ratio_p20", "ratio_p80"))
        spread = [[max(0, ratio - low)], [max(0, high - ratio)]]
        handles.setdefault(named(row), ax.errorbar(x, ratio, yerr=spread, elinewidth=0.8, **styled(row)))
        ends += [low, ratio, high]
    for edge in range(1, len(order)):
        ax.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_ylim(min(ends) / 1.1, max(ends) * 1.1)
    _plain_ticks(ax, fine=max(ends) / min(ends) < _NARROW)
    labels = ["\n".join([*problem_of(places[place]), f"batch {place[1]}"]) for place in order]
    ax.set_xticks(range(len(order)), labels, fontsize=SMALL)
    ax.set_xlim(-0.5, len(order) - 0.5)
    ax.set_ylabel("time / static", fontsize=TEXT)
    ax.grid(axis="y", color="#eeeeee")
    ax.set_axisbelow(True)


def _plain_ticks(ax: Any, *, fine: bool) -> None:
    """1, 1.5, 2, 3 instead of powers of ten; on a short scale 0.8, 1, 1.2, 1.5, 2 and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if fine else (1, 1.5, 2, 3, 5, 7)
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=steps))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(labelsize=SMALL)


def draw_rates(rows: Sequence[Written], table: Path, path: Path) -> Path:
    """Images per second, where nothing is compared with a static network: a bar per row, a panel per mode.

    Raises:
        ValueError: A cell of the table is no number.
    """
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure, axes = frame(rows, len(modes), 0, "images per second")
    counts = [sum(row["mode"] == mode for row in rows) for mode in modes]
    figure.set_size_inches(figure.get_size_inches()[0], 0.9 + sum(0.75 + 0.28 * count for count in counts))
    axes[0].get_gridspec().set_height_ratios(counts)
    for ax, mode in zip(axes, modes, strict=True):
        inside = [row for row in rows if row["mode"] == mode]
        names = [", ".join([name_of(row), *problem_of(row), f"batch {row['batch']}"]) for row in inside]
        bars = ax.barh(range(len(inside)), [number(row, "images_per_s", table) for row in inside], color="#1f77b4")
        ax.bar_label(bars, fmt=_images, padding=3, fontsize=SMALL)
        ax.set_yticks(range(len(inside)), names, fontsize=SMALL)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.tick_params(labelsize=SMALL)
        ax.set_title(mode, fontsize=TEXT)
        ax.grid(axis="x", color="#eeeeee")
        ax.set_axisbelow(True)
    axes[-1].set_xlabel("images per second", fontsize=TEXT)
    return finish(figure, {}, path)


def _images(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"

"""What runs are judged by over a field of their method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynconv.plots.palette import MARKERS, colour
from dynconv.plots.samples import write_figure

DPI = 130
# Numbers this many times apart are drawn in logarithms, or, with a 0 among them, as so many words.
DECADE = 10.0
# Numbers of the axis that stand at it, at most; of more matplotlib chooses.
MOST_TICKS = 12
# Letters of the words at the axis, of each its longest line, that stand side by side.
SIDE_BY_SIDE = 80


@dataclass(frozen=True)
class Curve:
    """Runs of one kind on one task, that differ in the field and the seed alone."""

    label: str
    colour: int
    """Of its task, or of its kind of run where there is one task."""
    kind: int
    """Which kind of run: its marker and how its line is broken."""
    places: tuple[int, ...]
    """Which of the values of the axis the points are of; ascending."""
    means: tuple[float, ...]
    deviations: tuple[float | None, ...]
    """Over seeds; None of a single one."""


@dataclass(frozen=True)
class Level:
    """Runs of a method that has no such field, or that all have one value of it."""

    label: str
    colour: int
    kind: int
    mean: float


def save_sweep(
    curves: Sequence[Curve],
    levels: Sequence[Level],
    values: Sequence[float | str],
    path: Path,
    *,
    axis_label: str,
    words: str,
) -> None:
    """Draw a line for each curve with whiskers of a standard deviation, and a pale one across for each level.

    Numbers stand on a linear axis, on a logarithmic one where they span more than a decade without a 0, and side by
    side like words where they span more with one.

    Args:
        curves, levels: What is drawn, in per cent; at least one curve.
        values: Of the axis, in their order: all numbers, or all words.
        path: Image file to write; its suffix chooses the format.
        axis_label: What the values are.
        words: What the figures are.

    Raises:
        ValueError: No curve, or `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("curves: expected at least one, got none")
    numbers = [value for value in values if not isinstance(value, str)]
    wide = bool(numbers) and max(numbers) > DECADE * min((abs(number) for number in numbers if number), default=1)
    positive = bool(numbers) and min(numbers) > 0
    as_numbers = len(numbers) == len(values) and (positive or not wide)
    xs = numbers if as_numbers else list(range(len(values)))
    figure = Figure(figsize=(6.8, 4.6), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    handles: list[Any] = []
    for curve in curves:
        errors = [deviation or 0.0 for deviation in curve.deviations]
        bars = axis.errorbar(
            [xs[place] for place in curve.places], curve.means, errors if any(errors) else None, capsize=3,
            color=colour(curve.colour), linestyle=_style(curve.kind), marker=MARKERS[curve.kind % len(MARKERS)],
            markersize=5, linewidth=1.4, label=curve.label,
        )  # fmt: skip
        handles.append(bars)
    for level in levels:
        look: dict[str, Any] = {"color": colour(level.colour), "linestyle": _style(level.kind), "alpha": 0.55}
        handles.append(axis.axhline(level.mean, label=f"{level.label}: {level.mean:.1f}", linewidth=1.0, **look))
    if as_numbers and wide:
        axis.set_xscale("log")
    if not as_numbers or len(values) <= MOST_TICKS:
        names = [value.replace("+", "+\n") if isinstance(value, str) else f"{value:g}" for value in values]
        long = sum(max(map(len, name.splitlines())) for name in names) > SIDE_BY_SIDE
        axis.set_xticks(xs, names, rotation=25 if long else 0, ha="right" if long else "center")
        axis.minorticks_off()
    axis.set_xlabel(axis_label, fontsize=9)
    axis.set_ylabel(words, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    note = "whiskers: standard deviation over seeds"
    spread = any(deviation is not None for curve in curves for deviation in curve.deviations)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=1, fontsize=8, frameon=False,
        title=note if spread else None, title_fontsize=8,
    )  # fmt: skip
    write_figure(figure, path)


def _style(kind: int) -> str:
    return ("-", "--", "-.", ":")[kind % 4]

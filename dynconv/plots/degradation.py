"""What adaptation costs on each source domain (DRT, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynconv.plots.palette import colour
from dynconv.plots.samples import write_figure

DPI = 130
# Of the room between two sources; the rest keeps their groups apart.
WIDTH = 0.84
# Inches: a bar whose number is not to touch the next one's, and the least width of a panel.
BAR = 0.42
LEAST = 4.6
HEIGHT = 3.9
WHISKERS = """\
whiskers and ±: standard error over the seeds;
paired: of runs less the oracle of their seed,
not paired: of runs and of oracles, in quadrature"""


@dataclass(frozen=True)
class Bars:
    """One kind of run on the sources of a task; accuracy less the oracle's, in points."""

    label: str
    place: int
    """Which of all kinds of the figure it is: its colour."""
    means: tuple[float, ...]
    """One for each source, over the seeds."""
    errors: tuple[float | None, ...]
    """Standard errors over the seeds; None of a single seed."""
    average: float
    """Over the sources."""
    average_error: float | None


@dataclass(frozen=True)
class Panel:
    """One task."""

    task: str
    sources: tuple[str, ...]
    bars: tuple[Bars, ...]


def save_degradation(panels: Sequence[Panel], path: Path) -> None:
    """Draw a group of bars for each source domain, with a bar for each kind of run; tasks below each other.

    Below the line at zero: the adapted network is worse on the source than the network trained on that source alone.

    Args:
        panels: The tasks; at least one.
        path: Image file to write; its suffix chooses the format.

    Raises:
        ValueError: No panel, or `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("panels: expected at least one task, got none")
    width = max(LEAST, *(BAR * len(panel.bars) * len(panel.sources) / WIDTH + 1.0 for panel in panels))
    figure = Figure(figsize=(width, HEIGHT * len(panels)), dpi=DPI, layout="constrained")
    for panel, axis in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0], strict=True):
        _draw(axis, panel)
    if any(error is not None for panel in panels for kind in panel.bars for error in kind.errors):
        figure.supxlabel(WHISKERS, fontsize=8)
    write_figure(figure, path)


def _draw(axis: Any, panel: Panel) -> None:
    bar = WIDTH / len(panel.bars)
    for place, kind in enumerate(panel.bars):
        left = [source - WIDTH / 2 + bar * (place + 0.5) for source in range(len(panel.sources))]
        of_average = "" if kind.average_error is None else f" ± {kind.average_error:.1f}"
        label = f"{kind.label}: average {_signed(kind.average)}{of_average}"
        axis.bar(left, kind.means, 0.92 * bar, color=colour(kind.place), edgecolor="black", linewidth=0.5, label=label)
        for x, mean, error in zip(left, kind.means, kind.errors, strict=True):
            if error is not None:
                axis.errorbar(x, mean, error, color="black", linewidth=0.9, capsize=2.5)
            # Beyond the bar and its whisker, on the side to which the bar points.
            down = mean < 0
            end = mean + (-1 if down else 1) * (error or 0.0)
            axis.annotate(
                _signed(mean), (x, end), (0, -3 if down else 3), textcoords="offset points", ha="center",
                va="top" if down else "bottom", fontsize=8,
            )  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8)
    axis.margins(y=0.14)
    axis.set_xlim(-0.5, len(panel.sources) - 0.5)
    axis.set_xticks(range(len(panel.sources)), panel.sources, fontsize=9)
    axis.tick_params(axis="x", length=0)
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.set_ylabel("source accuracy less the oracle's, points", fontsize=9)
    axis.set_title(panel.task, fontsize=10)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=1, frameon=False)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")

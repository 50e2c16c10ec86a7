"""Accuracy over time for a device that moves between domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path

from dynconv.plots.palette import colour
from dynconv.plots.samples import write_figure

DPI = 130
# The band of domains is this share of the lines' height.
BAND = 0.08
# The ways' colours start here in the palette, so that none is a domain's.
FIRST_WAY = 5


def save_stream(domains: Sequence[str], accuracy: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw the accuracy of each way of classifying over the N batches of a stream: of each batch as a pale line, the
    mean of all batches so far as a strong one, and below them the domain as a coloured band.

    Args:
        domains: N names.
        accuracy: By way, N shares of 1.
        path: Image file to write; its suffix chooses the format.

    Raises:
        ValueError: No batch, or `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not domains:
        raise ValueError("domains: expected at least one batch, got none")
    figure = Figure(figsize=(9.0, 4.8), dpi=DPI, layout="constrained")
    lines, band = figure.subplots(2, 1, sharex=True, height_ratios=(1, BAND))
    places = range(1, len(domains) + 1)
    for index, (way, values) in enumerate(accuracy.items(), FIRST_WAY):
        own = colour(index)
        shares = [100 * value for value in values]
        lines.plot(places, shares, color=own, alpha=0.3, linewidth=0.7)
        running = [total / count for count, total in enumerate(accumulate(shares), 1)]
        lines.plot(places, running, color=own, linewidth=1.8, label=f"{way}: {running[-1]:.1f} % in the end")
    names = list(dict.fromkeys(domains))
    start = 0
    for name, members in groupby(domains):
        length = len(list(members))
        band.axvspan(start + 0.5, start + length + 0.5, color=colour(names.index(name)), linewidth=0)
        start += length
    lines.set_xlim(0.5, len(domains) + 0.5)
    lines.set_ylabel("accuracy, %", fontsize=9)
    lines.set_title("Accuracy of each batch, and the mean of all batches so far", fontsize=10)
    lines.grid(alpha=0.3)
    lines.legend(fontsize=8)
    band.set_yticks([])
    band.set_xlabel("batch", fontsize=9)
    for axis in (lines, band):
        axis.tick_params(labelsize=8)
    keys = [Patch(color=colour(place), label=name) for place, name in enumerate(names)]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 6), fontsize=8, frameon=False)
    write_figure(figure, path)

"""Images before and after calibration, and their log spectra (Calibrator, Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynconv.plots.palette import COLOURS
from dynconv.plots.samples import write_figure

Array = np.ndarray[Any, Any]

DPI = 130
# Inches: an image or a spectrum of the strips, a mean spectrum, the words beside a strip, and above a domain.
TILE, MEAN, WORDS, HEAD = 0.65, 1.75, 0.95, 1.0
BEFORE, AFTER = COLOURS[0], COLOURS[2]


@dataclass(frozen=True)
class DomainSpectra:
    """One domain before and after calibration; each pair is (before, after)."""

    title: str
    """The domain, and its numbers."""
    images: tuple[Array, Array]
    """float (M, H, W, 3) in [0, 1]: M images, the same in both."""
    image_spectra: tuple[Array, Array]
    """float (M, H, W): theirs, log(1 + |F|), shifted."""
    mean_spectra: tuple[Array, Array]
    """float (H, W): the means over all images of the domain."""
    curves: tuple[Array, Array]
    """float (R,): the means over rings too."""


def amplification(differences: Sequence[Array]) -> int:
    """The largest of 1, 2, 5, 10, 20, 50 ... that takes no difference beyond half of the range from black to white; 1
    where even that does, or where there is no difference."""
    largest = max(float(np.abs(one).max()) for one in differences)
    factors = [digit * 10**power for power in range(4) for digit in (1, 2, 5)]
    fitting = [factor for factor in factors if largest > 0 and factor * largest <= 0.5]
    return max(fitting, default=1)


def save_spectra(
    domains: Sequence[DomainSpectra], frequencies: Array, radius: float, path: Path, *, title: str
) -> None:
    """Draw a block for each domain: images before and after calibration, their difference around grey, and their
    spectra; to the right the mean spectra of all images and their means by frequency.

    Args:
        domains: Top to bottom; M is the same for all.
        frequencies: float (R,), cycles per pixel, of the curves.
        radius: What counts as high, drawn as a line.
        path: Image file to write; its suffix chooses the format.
        title: Above the figure.

    Raises:
        ValueError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    factor = amplification([domain.images[1] - domain.images[0] for domain in domains])
    left, right = WORDS + TILE * len(domains[0].images[0]), 3 * MEAN
    height = 5 * TILE + HEAD
    figure = Figure(figsize=(left + right, height * len(domains) + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for domain, block in zip(domains, figure.subfigures(len(domains), 1, squeeze=False).flat, strict=True):
        block.suptitle(domain.title, fontsize=9)
        strips, means = block.subfigures(1, 2, width_ratios=[left, right])
        highest = max(float(one.max()) for one in (*domain.image_spectra, *domain.mean_spectra))
        _draw_strips(strips, domain, factor, highest)
        _draw_means(means, domain, frequencies, radius, highest)
    write_figure(figure, path)


def _draw_strips(panel: Any, domain: DomainSpectra, factor: int, highest: float) -> None:
    before, after = domain.images
    rows = [
        ("before", before, {}),
        ("after", after, {}),
        (f"difference\n× {factor}", (0.5 + factor * (after - before)).clip(0, 1), {}),
        ("log spectrum\nbefore", domain.image_spectra[0], {"cmap": "magma", "vmin": 0, "vmax": highest}),
        ("log spectrum\nafter", domain.image_spectra[1], {"cmap": "magma", "vmin": 0, "vmax": highest}),
    ]
    for axes, (name, pictures, style) in zip(panel.subplots(5, len(before), squeeze=False), rows, strict=True):
        for axis, picture in zip(axes, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest", **style)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")


def _draw_means(panel: Any, domain: DomainSpectra, frequencies: Array, radius: float, highest: float) -> None:
    grid = panel.add_gridspec(2, 3)
    before, after = domain.mean_spectra
    change = after - before
    # A single frequency, such as Nyquist's of a checkerboard, would leave all others white.
    furthest = float(np.quantile(np.abs(change), 0.99)) or 1.0
    # Frequencies of a shifted spectrum run from -1/2 to below 1/2.
    around: dict[str, Any] = {"extent": (-0.5, 0.5, 0.5, -0.5), "interpolation": "nearest"}
    level, signed = {"cmap": "magma", "vmin": 0, "vmax": highest}, {"cmap": "RdBu_r", "vmin": -furthest}
    pictures = (
        ("mean before", before, level),
        ("mean after", after, level),
        ("after less before", change, signed | {"vmax": furthest}),
    )
    axes = []
    for place, (name, picture, style) in enumerate(pictures):
        axis = panel.add_subplot(grid[0, place])
        drawn = axis.imshow(picture, **around, **style)
        axis.set_title(name, fontsize=8)
        axis.set_xticks([-0.5, 0, 0.5])
        axis.set_yticks([-0.5, 0, 0.5], ["−0.5", "0", "0.5"] if place == 0 else [])
        axis.tick_params(labelsize=7)
        axes.append(axis)
        if place > 0:
            # Before and after have one scale.
            bar = panel.colorbar(drawn, ax=axes[:2] if place == 1 else axis, shrink=0.75, pad=0.02)
            bar.ax.tick_params(labelsize=7)
    axis = panel.add_subplot(grid[1, :])
    for name, curve, own in zip(("before", "after"), domain.curves, (BEFORE, AFTER), strict=True):
        axis.plot(frequencies, curve, color=own, label=name, linewidth=1.5, linestyle="-" if own == BEFORE else "--")
    axis.axvline(radius, color="black", linewidth=0.8, linestyle=":", label=f"{radius:g}: high beyond")
    axis.set_xlabel("frequency, cycles per pixel (sampled at 1)", fontsize=8)
    axis.set_ylabel("mean of log(1 + |F|)", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)

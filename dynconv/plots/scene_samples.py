"""A picture of driving scenes: images, their label maps in colours, and what the colours mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynconv.data.scenes.label_maps import palette_of
from dynconv.data.scenes.listing import SceneListing
from dynconv.data.scenes.reading import read_scene
from dynconv.plots.samples import write_figure
from dynconv.plots.scenes import BLACK, LEGEND_COLUMNS, NO_CLASS, add_legend, coloured

# Inches: the width of one image; a title; a line of the legend.
_TILE, _TITLE, _LINE = 2.2, 0.25, 0.2
# Pixels of a drawn image's width: what its tile shows at 120 dots per inch.
_SHOWN = 264


def save_scene_samples(
    domains: Sequence[tuple[str, SceneListing]], path: Path | str, *, count: int = 4, seed: int = 0
) -> None:
    """Draw a row of training images per domain and, below it, their label maps; a legend is at the foot.

    Args:
        domains: A title and what to show, top to bottom. All have the same classes.
        path: Image file to write (its suffix chooses the format); its folder is made if absent.
        count: Images of each domain, at most.
        seed: Fixes which images are drawn.

    Raises:
        ValueError: no domain, domains of different classes, `count` below 1, or `path` cannot be written.
        DataError: a scene cannot be read.
    """
    from matplotlib.figure import Figure

    if not domains:
        raise ValueError("domains: expected at least one, got none")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    classes = domains[0][1].classes
    if other := [title for title, listing in domains if listing.classes != classes]:
        raise ValueError(f"{other[0]} has other classes than {domains[0][0]}: draw them in two pictures")
    drawn = [_drawn(listing, count, seed) for _, listing in domains]
    columns = max(len(scenes) for scenes in drawn)
    tall = max(scene.shape[0] / scene.shape[1] for scenes in drawn for scene in scenes) * _TILE
    lines = -(-(len(classes) + 1) // LEGEND_COLUMNS)
    height = len(domains) * (2 * tall + _TITLE) + lines * _LINE + _TITLE
    # Of few columns the legend is wider than the images.
    figure = Figure(figsize=(max(columns * _TILE, LEGEND_COLUMNS * 1.2), height), dpi=120, layout="constrained")
    axes = figure.subplots(2 * len(domains), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, ((title, listing), scenes) in enumerate(zip(domains, drawn, strict=True)):
        for column, scene in enumerate(scenes):
            axes[2 * place][column].imshow(scene[..., :3])
            axes[2 * place + 1][column].imshow(coloured(scene[..., 3], classes), interpolation="nearest")
        splits = " / ".join(f"{number:,}" for number in listing.counts().values())
        axes[2 * place][0].set_title(f"{title}: {splits} {' / '.join(listing.counts())}", fontsize=8, loc="left")
    add_legend(figure, [*zip(classes, palette_of(classes), strict=True), (NO_CLASS, BLACK)])
    write_figure(figure, Path(path))


def _drawn(listing: SceneListing, count: int, seed: int) -> list[np.ndarray[Any, Any]]:
    """Scenes uint8 (H, W, 4), no wider than they are shown."""
    order = torch.randperm(len(listing.train), generator=torch.Generator().manual_seed(seed))
    scenes = []
    for place in sorted(order[:count].tolist()):
        scene = read_scene(listing.train[place], listing.name, listing.labels)
        # Every so many pixels of a large one: label maps have no values in between.
        step = max(1, scene.shape[1] // _SHOWN)
        scenes.append(scene[::step, ::step])
    return scenes

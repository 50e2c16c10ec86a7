"""A picture of sample images per domain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynconv.data.base import Domain, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_samples(domains: Sequence[Domain], path: Path | str, *, columns: int = 10, seed: int = 0) -> None:
    """Draw a row of training images per domain and, below it, one of its test images.

    Column by column the classes take turns, so a row of ten shows each digit once.

    Args:
        domains: What to show, top to bottom.
        path: Image file to write (its suffix chooses the format); its folder is made if absent.
        columns: Images per row.
        seed: Fixes which images are drawn.

    Raises:
        ValueError: no domain, `columns` below 1, or `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if not domains:
        raise ValueError("domains: expected at least one, got none")
    if columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}")
    rows = [
        (f"{domain.name}\n{part}", domain.classes, split)
        for domain in domains
        for part, split in (("train", domain.train), ("test", domain.test))
        if split is not None and len(split)
    ]
    figure = Figure(figsize=(0.62 * columns + 1.2, 0.72 * len(rows) + 0.1), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, classes, split) in zip(axes, rows, strict=True):
        for axis, index in zip(line, _one_per_class(split, len(classes), columns, seed), strict=True):
            axis.set_axis_off()
            if index is not None:
                (image,) = split.images_at(torch.tensor([index]))
                axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
                axis.set_title(classes[int(split.labels[index])], fontsize=6, pad=1)
        line[0].text(-0.15, 0.5, title, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    write_figure(figure, Path(path))


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure (its suffix chooses the format); `path` is at every moment the old file or the whole new one.

    Raises:
        ValueError: it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written: {error}") from error


def _one_per_class(split: Split, num_classes: int, columns: int, seed: int) -> list[int | None]:
    """For each column the index of an image of the column's class (modulo the classes), or None where none is left."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    by_class: list[Tensor] = [order[split.labels[order] == label] for label in range(num_classes)]
    chosen: list[int | None] = []
    for column in range(columns):
        place, members = column // num_classes, by_class[column % num_classes]
        chosen.append(int(members[place]) if place < len(members) else None)
    return chosen

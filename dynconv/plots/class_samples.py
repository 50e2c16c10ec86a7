"""A picture of samples of each class, domains side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynconv.data.base import Domain, Split
from dynconv.plots.samples import write_figure

# Inches: one image; a domain's title beside the next; the counts to the right of a domain's images.
_TILE, _TITLE, _COUNTS = 0.5, 1.55, 0.6
_DPI = 120
# 1 GB while it is drawn. A side of 2**16 is matplotlib's own bound.
_MOST_PIXELS = 2**28


def save_class_samples(
    domains: Sequence[tuple[str, Domain]],
    path: Path | str,
    *,
    per_class: int = 4,
    most_classes: int = 40,
    seed: int = 0,
) -> None:
    """Draw a row per class, with `per_class` training images of each domain beside each other.

    Rows and domains say how many training images there are. A class that a domain lacks stays empty.

    Args:
        domains: A title and what to show, left to right. Domains of other classes than the first's are refused.
        path: Image file to write (its suffix chooses the format); its folder is made if absent.
        per_class: Images per class and domain, at most (no more than the largest class has).
        most_classes: Of more classes so many are shown, at even distances.
        seed: Fixes which images are drawn.

    Raises:
        ValueError: no domain, domains of different classes, a number below 1, a picture too large to draw, or
            `path` cannot be written.
        DataError: an image cannot be read.
    """
    from matplotlib.figure import Figure

    if not domains:
        raise ValueError("domains: expected at least one, got none")
    if per_class < 1 or most_classes < 1:
        raise ValueError(f"per_class, most_classes: expected at least 1, got {per_class} and {most_classes}")
    classes = domains[0][1].classes
    if other := [title for title, domain in domains if domain.classes != classes]:
        raise ValueError(f"{other[0]} has other classes than {domains[0][0]}: draw them in two pictures")
    shown = _evenly(len(classes), most_classes)
    # Columns that no class fills would be white, at any price in memory.
    per_class = min(per_class, max(1, *(_largest_class(domain.train) for _, domain in domains)))
    names = max(len(classes[label]) for label in shown)
    left, top, bottom = 0.075 * (names + 2), 0.5, 0.28
    block = max(per_class * _TILE + _COUNTS, _TITLE)
    width, height = left + len(domains) * block, top + len(shown) * _TILE + bottom
    across, down = round(width * _DPI), round(height * _DPI)
    if max(across, down) >= 2**16 or across * down > _MOST_PIXELS:
        raise ValueError(
            f"a picture of {across:,} x {down:,} pixels is too large to draw: take fewer images (--per-class), classes "
            "(--most-classes) or domains"
        )
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    for place, (title, domain) in enumerate(domains):
        axes = figure.add_axes(
            (
                (left + place * block) / width,
                bottom / height,
                per_class * _TILE / width,
                len(shown) * _TILE / height,
            )
        )
        counts = torch.bincount(domain.train.labels, minlength=len(classes)).tolist()
        axes.imshow(_mosaic(domain.train, shown, per_class, seed), extent=(0, per_class, len(shown), 0), aspect="auto")
        axes.set_axis_off()
        axes.set_title(f"{title}\n{_counted(domain)}", fontsize=7.5, pad=4, loc="left")
        for row, label in enumerate(shown):
            axes.text(per_class + 0.08, row + 0.5, f"{counts[label]:,}", fontsize=6, va="center", color="0.45")
            if place == 0:
                axes.text(-0.12, row + 0.5, classes[label], fontsize=7, va="center", ha="right")
    more = f" ({len(shown)} of {len(classes)})" if len(shown) < len(classes) else ""
    note = f"training images by class{more}; the number beside a row: how many there are"
    figure.text(0.08 / width, 0.09 / height, note, fontsize=6, color="0.45")
    write_figure(figure, Path(path))


def _largest_class(split: Split) -> int:
    return max(split.labels.bincount().tolist(), default=0)


def _counted(domain: Domain) -> str:
    if domain.test is None or domain.test is domain.train:
        return f"{len(domain.train):,} images"
    return f"{len(domain.train):,} / {len(domain.test):,} train / test"


def _evenly(total: int, most: int) -> list[int]:
    """At most `most` of the numbers below `total`, the first and the last among them."""
    return sorted(set(np.linspace(0, total - 1, min(total, most)).round().astype(int).tolist()))


def _mosaic(split: Split, labels: Sequence[int], per_class: int, seed: int) -> np.ndarray[Any, Any]:
    """The drawn images of each label in a row, white where there is none: uint8 (rows, columns, 3)."""
    _, height, width = split.image_shape
    edge = max(1, height // 24)
    canvas = np.full((len(labels) * (height + edge), per_class * (width + edge), 3), 255, dtype=np.uint8)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    drawn = [order[split.labels[order] == label][:per_class] for label in labels]
    images: Tensor = split.images_at(torch.cat(drawn))
    pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    place = 0
    for row, members in enumerate(drawn):
        for column in range(len(members)):
            y, x = row * (height + edge), column * (width + edge)
            canvas[y : y + height, x : x + width] = pixels[place]
            place += 1
    return canvas

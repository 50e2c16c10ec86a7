"""The same scenes as several runs of segmentation label them, beside each other (GAM, Fig. 4)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynconv.plots.samples import write_figure
from dynconv.plots.scenes import scenes_figure
from dynconv.report.figures.scenes import TRUTH, Array, Scenes, check_segmentation_run, label_maps, scenes_of, ways_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dynconv.engine.loaded_run import LoadedRun
    from dynconv.models import DomainName

# What tells which scenes a run is judged by.
SAME_DATA = ("protocol", "source", "target", "image_size")
# Letters of a head in a line.
HEAD_WIDTH = 40


@dataclass(frozen=True)
class Comparison:
    """M scenes of one side, and what the networks of several runs make of them."""

    classes: tuple[str, ...]
    """Names of the classes."""
    domain: str
    """Whose scenes they are."""
    names: tuple[str, ...]
    """Of the M image files."""
    images: Array
    """uint8 (M, H, W, 3), as in `SceneViews`."""
    label_maps: dict[str, Array]
    """By the head of the column, the truth first: uint8 (M, H, W)."""

    def figure(self, title: str) -> Figure:
        """The scenes in rows, the image and its label maps in columns."""
        return scenes_figure(self.images, self.label_maps, self.classes, names=self.names, title=title)


def compare(
    paths: Sequence[Path],
    load: Callable[[Path], LoadedRun],
    *,
    side: DomainName,
    count: int,
    line: Callable[[str], None],
) -> Comparison:
    """Look at test scenes of one side, chosen as by `view`, through the network of each run after training.

    Args:
        paths: The run folders. A column's head is what its path has in contrast to the others'.
        load: Opens one. They are opened one after the other: of large networks a few would fill the memory.
        side: Whose scenes.
        count: How many at most.
        line: Where the progress goes.

    Raises:
        ValueError: As `view`; a run on other data than the first, or one given twice.
    """
    heads = _heads(paths)
    first: tuple[LoadedRun, Scenes] | None = None
    images: list[Array] = []
    maps: dict[str, list[Array]] = {TRUTH: []}
    for place, (path, head) in enumerate(zip(paths, heads, strict=True), start=1):
        line(f"run {place} of {len(paths)}: scenes of {path}")
        loaded = load(path)
        check_segmentation_run(loaded)
        begins = first is None
        if first is None:
            first = loaded, scenes_of(loaded, side, count)
        _check_same_data(*first, loaded, side, count)
        column = maps.setdefault(f"{head}\n(step {loaded.step})", [])
        for part in first[1].parts:
            own, (truth, predicted) = label_maps(loaded, part, ways_of(loaded, side)[-1:])
            column.append(predicted)
            if begins:
                images.append(own)
                maps[TRUTH].append(truth)
    if first is None:
        raise ValueError("paths: expected at least one run, got none")
    loaded, scenes = first
    whole = {head: np.concatenate(parts) for head, parts in maps.items()}
    return Comparison(loaded.classes, scenes.domain, scenes.names, np.concatenate(images), whole)


def save_comparison(
    paths: Sequence[Path],
    load: Callable[[Path], LoadedRun],
    out: Path,
    *,
    side: DomainName,
    count: int,
    line: Callable[[str], None],
) -> None:
    """Draw what several runs make of the same scenes. Arguments and errors as of `compare`; ValueError, too, where
    `out` cannot be written."""
    found = compare(paths, load, side=side, count=count, line=line)
    write_figure(found.figure(f"{found.domain} ({side})"), out)


def _heads(paths: Sequence[Path]) -> list[str]:
    """What tells each run's path from the others': without the folders that all have before it and behind it."""
    names = [path.resolve().parts for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"RUN: a run was given twice: {', '.join(map(str, paths))}")
    for end in (0, -1):
        while min(map(len, names)) > 1 and len({name[end] for name in names}) == 1:
            names = [name[1:] if end == 0 else name[:-1] for name in names]
    return [textwrap.fill("/".join(name), HEAD_WIDTH) for name in names]


def _check_same_data(first: LoadedRun, scenes: Scenes, other: LoadedRun, side: DomainName, count: int) -> None:
    """Raise a ValueError where `scenes`, of the run `first`, are not those that `other` is judged by."""
    one, two = first.config.run, other.config.run
    differing = [
        f"{name} {getattr(two, name)} and not {getattr(one, name)}"
        for name in SAME_DATA
        if getattr(one, name) != getattr(two, name)
    ]
    if first.classes != other.classes:
        differing.append(f"the classes {', '.join(other.classes)} and not {', '.join(first.classes)}")
    if differing:
        raise ValueError(
            f"RUN {other.folder.path} is on other data than {first.folder.path}: it has {'; '.join(differing)}; give "
            "runs of one task"
        )
    # The seed draws them, and a limit decides of how many.
    if scenes.held_out and scenes_of(other, side, count).names != scenes.names:
        raise ValueError(
            f"RUN {other.folder.path}: the source has no test scenes, and those that it held out (seed {two.seed}, "
            f"source_limit {two.source_limit}) are not those of {first.folder.path} (seed {one.seed}, source_limit "
            f"{one.source_limit}); give runs of one seed and one limit"
        )

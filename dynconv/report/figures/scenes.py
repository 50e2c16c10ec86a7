"""Scenes of a run of segmentation: what its network makes of them, before adaptation and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from dynconv.plots.samples import write_figure
from dynconv.plots.scenes import DRAWN, scenes_figure
from dynconv.report.page.analysis import evenly

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from dynconv.data.scenes.split import SceneSplit
    from dynconv.engine.loaded_run import LoadedRun
    from dynconv.models import DomainName

Array = np.ndarray[Any, Any]

SCENES = 4
TRUTH = "ground truth"


@dataclass(frozen=True)
class SceneViews:
    """M scenes of one side with K label maps each: the truth, and what networks make of them."""

    step: int
    """Training steps that the checkpoint has seen."""
    classes: tuple[str, ...]
    """Names of the classes."""
    domain: str
    """Whose scenes they are."""
    names: tuple[str, ...]
    """Of the M image files."""
    heads: tuple[str, ...]
    """Of the K label maps: the truth first; before adaptation, where the run has that network; after it."""
    images: Array
    """uint8 (M, H, W, 3), where larger than that reduced to what a figure shows, `DRAWN` pixels of width."""
    label_maps: Array
    """uint8 (K, M, H, W)."""

    def figure(self, title: str) -> Figure:
        """The scenes in rows, the image and its label maps in columns."""
        maps = dict(zip(self.heads, self.label_maps, strict=True))
        return scenes_figure(self.images, maps, self.classes, names=self.names, title=title)


class Way(NamedTuple):
    """One network of a run."""

    head: str
    predict: Callable[[Tensor], Tensor]
    domain: DomainName
    """Whose network it is, where a run keeps one for each domain."""


def view(loaded: LoadedRun, *, side: DomainName = "target", count: int = SCENES) -> SceneViews:
    """Look at `count` test scenes of one side at most, evenly spread; of sources without some at held-out ones.

    "Before" is the classifier without its calibrator, and the source's network where the target has one of its own
    (ADDA, GAM); other methods change the network that they have, and are shown after training alone.

    Raises:
        ValueError: The run is not of segmentation, data are missing, or the network gives scores that are not finite.
    """
    scenes = scenes_of(loaded, side, count)
    ways = ways_of(loaded, side)
    columns = [label_maps(loaded, part, ways) for part in scenes.parts]
    return SceneViews(
        step=loaded.step,
        classes=loaded.classes,
        domain=scenes.domain,
        names=scenes.names,
        heads=(TRUTH, *(way.head for way in ways)),
        images=np.concatenate([images for images, _ in columns]),
        label_maps=np.concatenate([maps for _, maps in columns], axis=1),
    )


def check_segmentation_run(loaded: LoadedRun) -> None:
    """Raise a ValueError where a run's network labels whole images."""
    if loaded.config.network_input.labels == "image":
        raise ValueError(
            f"RUN {loaded.folder.path}: {loaded.config.options.backbone} labels whole images and makes no label maps; "
            "give a run of segmentation"
        )


def save_scenes_figure(loaded: LoadedRun, out: Path, *, side: DomainName, count: int) -> None:
    """Draw scenes of a run beside their label maps. Arguments and errors as of `view`; ValueError, too, where `out`
    cannot be written."""
    found = view(loaded, side=side, count=count)
    run = Path(*loaded.folder.path.resolve().parts[-2:])
    title = f"{run}, checkpoint {loaded.checkpoint} (step {found.step}): {found.domain} ({side})"
    write_figure(found.figure(title), out)


class Scenes(NamedTuple):
    """Test scenes of one side."""

    domain: str
    """The names of its domains."""
    parts: list[SceneSplit]
    """By domain; not empty."""
    held_out: bool
    """Whether they are of a source's training split, from which the run's seed held them out."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the image files."""
        return tuple(scene.image.name for part in self.parts for scene in part.files.scenes)


def scenes_of(loaded: LoadedRun, side: DomainName, count: int) -> Scenes:
    """The scenes that `view` looks at, and its errors."""
    from dynconv.data.scenes.split import SceneSplit
    from dynconv.engine.loaded_run import source_images

    check_segmentation_run(loaded)
    protocol, held_out = loaded.domains()
    tested = [] if protocol.target.test is None else [(protocol.target.name, protocol.target.test)]
    named = tested if side == "target" else source_images(protocol, held_out)
    each = max(count // max(len(named), 1), 1)
    there = [split for _, split in named if isinstance(split, SceneSplit) and len(split)]
    parts = [split.subset(evenly(len(split), each)) for split in there]
    if not parts:
        raise ValueError(f"{protocol.target.name if side == 'target' else 'the source'} has no test scenes")
    untested = side == "source" and all(domain.test is None for domain in protocol.sources)
    return Scenes(", ".join(name for name, _ in named), parts, untested)


def ways_of(loaded: LoadedRun, side: DomainName) -> list[Way]:
    """The networks of a run that are shown, that after training the last."""
    from dynconv.methods.calibrator import CalibratorMethod
    from dynconv.methods.encoders import Encoders

    method = loaded.method
    if isinstance(method, CalibratorMethod) and method.calibrating:
        frozen = method

        def alone(images: Tensor) -> Tensor:
            return frozen.scores(frozen.features(images))

        return [Way("before: classifier alone", alone, side), Way("after: with calibrator", method.predict, side)]
    if isinstance(method.features, Encoders):
        # GAM adapts the classifier too, ADDA the encoder alone.
        what = "network" if hasattr(method, "target_heads") else "encoder"
        return [
            Way(f"before: the source's {what}", method.predict, "source"),
            Way(f"after: the target's {what}", method.predict, "target"),
        ]
    return [Way("prediction", method.predict, side)]


def label_maps(loaded: LoadedRun, split: SceneSplit, ways: Sequence[Way]) -> tuple[Array, Array]:
    """Images uint8 (M, H, W, 3) and label maps uint8 (K, M, H, W), the truth and what K - 1 `ways` make of them, as
    they are drawn.

    Raises:
        NonFiniteError: A network gives scores that are not finite.
    """
    from dynconv.data.scenes.reading import resized
    from dynconv.engine.scoring import evaluating
    from dynconv.engine.segmentation import SceneScoring
    from dynconv.metrics import NonFiniteError
    from dynconv.metrics.segmentation import IGNORE

    scenes = SceneScoring(loaded.scoring, loaded.config.run.eval_window)
    height, width = split.image_shape[1:]
    drawn = (height, width) if width <= DRAWN else (max(round(height * DRAWN / width), 1), DRAWN)
    images, maps = [], []
    # One by one: whatever the size of the scenes, one of them is bounded by the run's own evaluation.
    for place in torch.arange(len(split)).split(1):
        image, truth = split.labelled_at(place)
        found = [truth]
        for way in ways:
            with evaluating(loaded.method), loaded.method.evaluating_domain(way.domain):
                predicted = scenes.label_maps(way.predict, image).cpu()
            if (predicted == IGNORE).any():
                raise NonFiniteError(f"the network's scores are not finite ({way.head}): the run diverged")
            found.append(predicted)
        images.append(resized(image, *drawn))
        maps.append(resized(torch.stack(found), *drawn, nearest=True))
    return torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy(), torch.cat(maps, dim=1).numpy()

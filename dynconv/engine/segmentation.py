"""What is measured of networks that label every pixel."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynconv.data import Protocol, Split, normalise
from dynconv.data.augment import centre_crop
from dynconv.data.scenes.label_maps import SUBSETS
from dynconv.data.scenes.split import SceneSplit
from dynconv.data.threads import read_ahead
from dynconv.distributed import gather_rows, is_main, my_share
from dynconv.engine.config import TrainConfig
from dynconv.engine.evaluation import Evaluation
from dynconv.engine.scoring import Scoring, my_part, spread
from dynconv.engine.windows import windowed_scores
from dynconv.methods import Method
from dynconv.metrics import UnlabelledError, prediction_validators, segmentation
from dynconv.metrics.names import IOU_OF, SEGMENTATION_METRICS

log = logging.getLogger(__name__)

# Validators compare pixels as they compare images: so many, from as many scenes, evenly spread over both.
PIXELS = 2000
SCENES = 100
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SceneScoring:
    """How scenes become label maps."""

    scoring: Scoring
    window: tuple[int, int] | None = None
    """Height and width that the network is given at a time; None for whole scenes."""
    full_resolution: bool = False
    """Whether label maps have the size of the label files, and not that of the network's images."""

    @torch.no_grad()
    def batches(self, method: Method, split: SceneSplit) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of predictions and labels uint8 (B, H, W) of every scene in order; `method` is in evaluation mode. A
        prediction of 255 is that of a score that is not finite."""
        if len(split) == 0:
            return
        length = self.scoring.chunk_of(split)
        # More than the network takes at once where as many threads read.
        places = torch.arange(len(split)).split(max(length, split.files.decoding.threads))
        if self.full_resolution:
            for scenes in read_ahead(split.native_at, places, "judge"):
                for image, label_map in scenes:
                    size = (label_map.shape[0], label_map.shape[1])
                    prediction = self.label_maps(method.predict, image[None], size)
                    yield prediction, label_map[None].to(self.scoring.device)
            return
        for images, labels in read_ahead(split.labelled_at, places, "judge"):
            for few, their_labels in zip(images.split(length), labels.split(length), strict=True):
                yield self.label_maps(method.predict, few), their_labels.to(self.scoring.device)

    def label_maps(self, predict: Predict, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """What `predict`, which gives scores (B, C, h, w), makes of images uint8 (B, 3, H, W): predictions uint8
        (B, H', W') of `size`, by default the images'."""
        given = normalise(images, self.scoring.device, self.scoring.network_input.normalisation)
        with self.scoring.autocast():
            return windowed_scores(
                predict,
                given,
                window=self.window,
                multiple=self.scoring.network_input.multiple,
                size=size,
            )


@dataclass(frozen=True)
class SegmentationEvaluation(Evaluation):
    """The measurements of a run on scenes: of each split `mean-iou`, `frequency-weighted-iou`, `pixel-accuracy` and
    `class-accuracy` (`dynconv.metrics.segmentation`), of the target's test split also `iou-of-CLASS`; where the
    classes hold more than these, `mean-iou-16` and `mean-iou-13` of Cityscapes' classes that SYNTHIA has.

    The validators look at pixels. Deep embedded validation, which weights whole images, is left out.
    """

    unlabelled: ClassVar[int] = SCENES
    window: tuple[int, int] | None = None
    full_resolution: bool = False

    @property
    def scenes(self) -> SceneScoring:
        """How they become label maps."""
        return SceneScoring(self.scoring, self.window, self.full_resolution)

    def images(self, split: Split) -> Iterator[Tensor]:
        """Of each scene what the network takes at once: the middle of it where it has a window, or sides that are no
        multiples of what they must be."""
        multiple = self.scoring.network_input.multiple
        for images in self.scoring.images(split):
            sides = [side - side % multiple for side in images.shape[2:]]
            if self.window is not None:
                sides = [min(pair) for pair in zip(sides, self.window, strict=True)]
            yield centre_crop(images, (sides[0], sides[1]))

    def figures(self, method: Method) -> dict[str, float]:
        row: dict[str, float] = {}
        for name, split in self.labelled():
            by_class = name.startswith("target-test/")
            row |= scene_metrics(method, name, split, self.protocol.classes, self.scenes, by_class=by_class)
        return row | self._pixel_validators(method)

    def _pixel_validators(self, method: Method) -> dict[str, float]:
        split = spread(self.protocol.target.train, self.unlabelled)
        each = max(PIXELS // len(split), 1)
        mine = split.subset(my_share(len(split)))
        rows = [torch.empty(0, each, self.protocol.num_classes, device=self.scoring.device)]
        seen = int(my_share(len(split))[0]) if len(mine) else 0
        with torch.no_grad(), method.evaluating_domain("target"):
            for images in self.images(mine) if len(mine) else ():
                with self.scoring.autocast():
                    scores = method.predict(images).float().flatten(2)
                chosen = _places(seen, len(scores), each, scores.shape[2]).to(scores.device)
                rows.append(scores.gather(2, chosen[:, None].expand(-1, scores.shape[1], -1)).transpose(1, 2))
                seen += len(scores)
        found = prediction_validators(gather_rows(torch.cat(rows), len(split)).flatten(0, 1))
        return {f"target-train/{self.protocol.target.name}/{name}": value for name, value in found.items()}


def _places(first: int, count: int, each: int, pixels: int) -> Tensor:
    """Int64 (count, each): evenly spread pixels of scenes `first` and following, of each others: in driving scenes
    the same places would show the same few classes."""
    golden = (5**0.5 - 1) / 2
    shifts = torch.arange(first, first + count, dtype=torch.float64)[:, None] * golden
    spread_out = (torch.arange(each, dtype=torch.float64) + 0.5) / each
    return ((spread_out + shifts) % 1 * pixels).long()


def scene_metrics(
    method: Method, name: str, split: Split, classes: Sequence[str], scenes: SceneScoring, *, by_class: bool
) -> dict[str, float]:
    """`NAME/mean-iou` and its like of `method`, which must be in evaluation mode, on a labelled split of scenes.

    The scenes of a NAME that begins with "source-" are predicted as a source's, all others as the target's. `by_class`
    adds `NAME/iou-of-CLASS` for every class that occurs. Several processes share the scenes. Of a split without a
    labelled pixel there is no figure, which is told on stderr.

    Raises:
        ValueError: The split's images have one label each.
        NonFiniteError: A score is not finite.
    """
    if not isinstance(split, SceneSplit):
        raise ValueError(f"{name}: expected scenes with label maps, got images with one label each")
    with method.evaluating_domain("source" if name.startswith("source-") else "target"):
        try:
            found = segmentation(scenes.batches(method, my_part(split)), classes, device=scenes.scoring.device)
        except UnlabelledError:
            _tell_unlabelled(name)
            return {}
    measured = (found.mean_iou, found.frequency_weighted_iou, found.pixel_accuracy, found.class_accuracy)
    row = {f"{name}/{metric}": value for metric, value in zip(SEGMENTATION_METRICS, measured, strict=True)}
    for count, subset in SUBSETS.items():
        if set(subset) < set(classes):
            with contextlib.suppress(UnlabelledError):
                row[f"{name}/{SEGMENTATION_METRICS[0]}-{count}"] = found.subset(subset).mean_iou
    if by_class:
        pairs = zip(classes, found.iou_of, strict=True)
        row |= {f"{name}{IOU_OF}{label}": value for label, value in pairs if value is not None}
    return row


@functools.cache
def _tell_unlabelled(name: str) -> None:
    """Once of each split."""
    if is_main():
        log.warning("%s: none of its pixels has a class, so that nothing is measured there", name)


def evaluation_of(config: TrainConfig, protocol: Protocol, held_out: Sequence[Split], scoring: Scoring) -> Evaluation:
    """The measurements of a run's kind of network.

    Raises:
        ValueError: As `Evaluation`.
    """
    run = config.run
    if config.network_input.labels == "image":
        return Evaluation(protocol, held_out, scoring, run.ten_crop)
    return SegmentationEvaluation(
        protocol, held_out, scoring, window=run.eval_window, full_resolution=run.full_resolution
    )

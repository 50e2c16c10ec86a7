"""What is measured during a run, and on which images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynconv.data import Protocol, Split
from dynconv.distributed import gather_rows
from dynconv.engine.scoring import Outputs, Scoring, evaluating, my_part, spread
from dynconv.engine.selection import of_class
from dynconv.methods import Matched, Method
from dynconv.metrics import classification, deep_embedded_validation, prediction_validators
from dynconv.models import DomainName

# Validators and AdaBN look at this many images of a side: the spread of a mean over 2,000 is far below the difference
# between two models worth choosing from, and all of MNIST would take longer than the training step.
UNLABELLED = 2000
# Of target images that are passed over many times: `UNLABELLED` of them at 224 x 224. All 120,906 of DomainNet's real
# would take 18 GB.
KEPT_BYTES = UNLABELLED * 3 * 224**2
# Enough of the sources' training images to tell them from the target's.
TRAINED = 1000


@dataclass(frozen=True)
class Evaluation:
    """The measurements of a run, as `SPLIT/DOMAIN/METRIC`.

    `source-val` are the images held out of the sources' training splits, `source-test` and `target-test` the test
    splits; `target-train` are training images of the target without their labels.

    Raises:
        ValueError: `ten_crop` for images that have no margin to crop from.
    """

    protocol: Protocol
    held_out: Sequence[Split]
    scoring: Scoring
    ten_crop: bool = False
    """Whether labelled images are judged by ten crops."""
    unlabelled: ClassVar[int] = UNLABELLED
    """Images of a side, at most, that the validators and AdaBN look at."""

    def __post_init__(self) -> None:
        whole = [name for name, split in self.labelled() if split.side is None]
        if self.ten_crop and whole:
            raise ValueError(
                f"--ten-crop: the images of {', '.join(whole)} are seen whole and have no margin to crop from; leave "
                "it out (it is for image files at 224 x 224)"
            )

    def labelled(self) -> Iterator[tuple[str, Split]]:
        """Pairs of SPLIT/DOMAIN and the split, in the order of the columns."""
        for domain, held_out in zip(self.protocol.sources, self.held_out, strict=True):
            yield f"source-val/{domain.name}", held_out
        for domain in self.protocol.sources:
            if domain.test is not None:
                yield f"source-test/{domain.name}", domain.test
        if self.protocol.target.test is not None:
            yield f"target-test/{self.protocol.target.name}", self.protocol.target.test

    def measure(self, method: Method) -> dict[str, float]:
        """Every metric of `method`, which is left in the mode (training or evaluation) it came in.

        The accuracies of each split; of the target's test split also those of its classes and their mean; and the
        validators (`dynconv.metrics`), for which no label of the target is looked at. Several processes share the work,
        and all get the same.

        Raises:
            NonFiniteError: A feature or a score is not finite.
        """
        with evaluating(method):
            self._observe_target(method)
            return self.figures(method) | self._diagnosis(method)

    def images(self, split: Split) -> Iterator[Tensor]:
        """The images of a split that a method is given without their labels, in chunks."""
        return self.scoring.images(split)

    def figures(self, method: Method) -> dict[str, float]:
        """The metrics of the labelled splits, and the validators; `method` is in evaluation mode."""
        row: dict[str, float] = {}
        held_out = self._outputs(method, self.held_out, "source", self.unlabelled)
        for place, (name, split) in enumerate(self.labelled()):
            if place < len(held_out) and len(held_out[place].scores) == len(split) and not self.ten_crop:
                # At hand: on small sets another pass would make an evaluation a fifth longer.
                pairs = [(held_out[place].scores, held_out[place].labels)]
                found = classification(pairs, self.protocol.num_classes, device=self.scoring.device)
                row[f"{name}/accuracy"] = found.accuracy
            else:
                by_class = name.startswith("target-test/")
                row |= split_metrics(
                    method,
                    name,
                    split,
                    self.protocol.classes,
                    self.scoring,
                    by_class=by_class,
                    ten_crop=self.ten_crop,
                )
        return row | self._validators(method, held_out)

    def target_scores(self, method: Method) -> Tensor:
        """Scores float32 (N, C) of all target training images, in their order, in evaluation mode."""
        split = self.protocol.target.train
        # Of a process without a share.
        rows = [torch.empty(0, self.protocol.num_classes, device=self.scoring.device)]
        with evaluating(method):
            self._observe_target(method)
            with method.evaluating_domain("target"):
                rows += [scores for scores, _ in self.scoring.batches(method, my_part(split))]
        return gather_rows(torch.cat(rows), len(split))

    def _outputs(self, method: Method, splits: Sequence[Split], domain: DomainName, count: int) -> list[Outputs]:
        """Of `count` images at most, as many of each split: in training the sources take turns."""
        each = max(count // len(splits), 1)
        with method.evaluating_domain(domain):
            return [self.scoring.outputs(method, spread(split, each)) for split in splits]

    def _validators(self, method: Method, held_out: Sequence[Outputs]) -> dict[str, float]:
        (target,) = self._outputs(method, [self.protocol.target.train], "target", self.unlabelled)
        trained = self._outputs(method, [domain.train for domain in self.protocol.sources], "source", TRAINED)
        found = prediction_validators(target.scores)
        found["deep-embedded-validation"] = deep_embedded_validation(
            torch.cat([one.features for one in trained]),
            target.features,
            *(torch.cat(column) for column in zip(*held_out, strict=True)),
        )
        return {f"target-train/{self.protocol.target.name}/{name}": value for name, value in found.items()}

    def _diagnosis(self, method: Method) -> dict[str, float]:
        if not (count := method.diagnosed_images):
            return {}
        kinds = ([domain.train for domain in self.protocol.sources], self.held_out)
        parts = ([spread(split, count // len(splits)) for split in splits] for splits in kinds)
        trained, held_out = (torch.cat([images for part in own for images in self.images(part)]) for own in parts)
        with torch.no_grad(), self.scoring.autocast():
            return method.diagnose(trained, held_out)

    def match(self, method: Method) -> Matched:
        """`Method.match` with training images of both domains; `method` is in evaluation mode."""
        sources = self._passes(method, [domain.train for domain in self.protocol.sources])
        with self.scoring.autocast():
            return method.match(sources, self._passes(method, [self.protocol.target.train]))

    def _observe_target(self, method: Method) -> None:
        with self.scoring.autocast():
            method.observe_target(self._passes(method, [self.protocol.target.train]))

    def _passes(self, method: Method, splits: Sequence[Split]) -> Callable[[], Iterator[Tensor]]:
        """What gives, anew at each call, the images that a method is to observe, evenly spread over `splits`."""
        wanted = self.unlabelled if method.observed_images is None else method.observed_images
        each = max(wanted // len(splits), 1)
        parts = [my_part(spread(split, each if wanted else len(split))) for split in splits]

        # Every layer has a pass of its own (53 in a ResNet-50), so that files are read once where memory holds them.
        @functools.cache
        def read(place: int) -> Split:
            part = parts[place]
            return Split(part.images_at(torch.arange(len(part))), part.labels)

        kept = sum(math.prod((len(part), *part.image_shape)) for part in parts) <= KEPT_BYTES
        return lambda: (
            images for place, part in enumerate(parts) for images in self.images(read(place) if kept else part)
        )


def split_metrics(
    method: Method,
    name: str,
    split: Split,
    classes: Sequence[str],
    scoring: Scoring,
    *,
    by_class: bool,
    ten_crop: bool = False,
) -> dict[str, float]:
    """`NAME/accuracy` of `method`, which must be in evaluation mode, on a labelled split, computed in chunks.

    The images of a NAME that begins with "source-" are predicted as a source's, all others as the target's. `by_class`
    adds `NAME/class-mean-accuracy`, and `NAME/accuracy-of-CLASS` for every class that the split has. Several processes
    share the images.
    """
    with method.evaluating_domain("source" if name.startswith("source-") else "target"):
        batches = scoring.batches(method, my_part(split), ten_crop=ten_crop)
        found = classification(batches, len(classes), device=scoring.device)
    row = {f"{name}/accuracy": found.accuracy}
    if by_class:
        row[f"{name}/class-mean-accuracy"] = found.class_mean
        pairs = zip(classes, found.of_classes, strict=True)
        row |= {of_class(name, label): value for label, value in pairs if value is not None}
    return row

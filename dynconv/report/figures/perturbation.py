"""A calibrator's perturbation beside adversarial and random ones of equal size (Calibrator, section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynconv.metrics.perturbation import Sizes, loss_gradient_signs, moved, random_signs, sizes
from dynconv.report.figures.calibrated import CalibratedRun, Part

# Of the random signs.
SEED = 0


class Kind(NamedTuple):
    """A kind of perturbation."""

    label: str
    """What it is called."""
    what: str
    """What it does."""
    oracle: bool = False
    """Whether it looks at the true labels."""


NONE, CALIBRATOR = "none", "calibrator"
KINDS = {
    NONE: Kind("none", "the images as they are"),
    CALIBRATOR: Kind("calibrator", "what it learnt to add"),
    "random": Kind("random signs", "each value goes up or down by chance"),
    "fgsm": Kind("FGSM", "raises the loss of the own prediction"),
    "fgsm-descending": Kind("FGSM descending", "lowers the loss of the own prediction"),
    "fgsm-oracle": Kind("oracle: FGSM", "raises the loss of the true label", oracle=True),
    "fgsm-oracle-descending": Kind("oracle: FGSM descending", "lowers the loss of the true label", oracle=True),
}
"""By the names in the CSV file. Those after the calibrator's are x' = clamp(x + size * signs, 0, 1)."""
SIGNED = tuple(KINDS)[2:]


@dataclass(frozen=True)
class Effect:
    """What one kind of perturbation does to the N images of a domain."""

    kind: str
    bound: float | None
    """L-infinity that it was given; None where each image has the calibrator's own on it."""
    found: Sizes
    """float64 (N,) each: L-infinity and L2 after the clamp."""
    right: Tensor
    """bool (N,): whether the classifier's prediction is the label."""

    @property
    def accuracy(self) -> float:
        """Share of images whose prediction is right."""
        return self.right.double().mean().item()


@dataclass(frozen=True)
class PartEffects:
    """All effects on one domain."""

    part: Part
    equal: tuple[Effect, ...]
    """In the order of `KINDS`, of each image as large as the calibrator's perturbation of it; "none" of size 0."""
    by_size: tuple[Effect, ...]
    """Of `SIGNED`, kind by kind, at each size."""


def measure_perturbations(run: CalibratedRun, part: Part, bounds: Sequence[float]) -> PartEffects:
    """Perturb a domain's images in each way, and classify them.

    Args:
        run: The run. All perturbations are of the classifier alone, in front of which the calibrator stands.
        part: The domain. Its labels serve to measure, and to the kinds that are called oracles.
        bounds: L-infinity sizes to try beside the calibrator's own, in (0, 1].
    """
    generator = torch.Generator().manual_seed(SEED)
    rows: dict[tuple[str, float | None], list[tuple[Tensor, Tensor, Tensor]]] = {}

    def add(kind: str, bound: float | None, images: Tensor, after: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            right = run.classify(after, part.side).argmax(dim=1) == labels
        found = sizes(images, after)
        rows.setdefault((kind, bound), []).append((found.largest.cpu(), found.length.cpu(), right.cpu()))

    for images, labels in run.batches(part):
        calibrated = run.calibrate(images)
        own = sizes(images, calibrated).largest
        add(NONE, None, images, images, labels)
        add(CALIBRATOR, None, images, calibrated, labels)
        for kind, signs in _signs(run, part, images, labels, generator).items():
            for bound in (None, *bounds):
                add(kind, bound, images, moved(images, signs, own if bound is None else bound), labels)
    effects = [_effect(kind, bound, found) for (kind, bound), found in rows.items()]
    by_kind = {effect.kind: effect for effect in effects if effect.bound is None}
    return PartEffects(
        part, tuple(by_kind[kind] for kind in KINDS), tuple(effect for effect in effects if effect.bound is not None)
    )


def _signs(
    run: CalibratedRun, part: Part, images: Tensor, labels: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The directions of `SIGNED`."""

    def classify(batch: Tensor) -> Tensor:
        return run.classify(batch, part.side)

    own, true = loss_gradient_signs(classify, images), loss_gradient_signs(classify, images, labels)
    drawn = random_signs(images, generator)
    return dict(zip(SIGNED, (drawn, own, -own, true, -true), strict=True))


def _effect(kind: str, bound: float | None, rows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Effect:
    largest, length, right = (torch.cat(column) for column in zip(*rows, strict=True))
    return Effect(kind, bound, Sizes(largest, length), right)

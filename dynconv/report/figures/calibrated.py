"""A calibrator's run opened for its figures: the images of its domains before and after calibration, in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynconv.data import evaluation_batches
from dynconv.engine.loaded_run import LoadedRun, calibrating, load_run, source_images
from dynconv.engine.run_options import Device
from dynconv.metrics.errors import check_finite_values
from dynconv.report.page.analysis import evenly

if TYPE_CHECKING:
    from dynconv.data import Split
    from dynconv.engine.run_options import CheckpointName
    from dynconv.methods.calibrator import CalibratorMethod
    from dynconv.models import DomainName


@dataclass(frozen=True)
class Part:
    """The images of one domain that figures measure: the target's test images, and those of `source_images`."""

    name: str
    side: DomainName
    split: Split
    """Images and labels; a target's labels are for measuring alone, and may be missing where `parts` allows it."""
    kind: str = "test image"
    """What one of them is called."""


@dataclass(frozen=True)
class CalibratedRun:
    """The classifier and the calibrator of a run, on images in [0, 1]."""

    loaded: LoadedRun
    method: CalibratorMethod
    """That of `loaded`: in evaluation mode, and calibrating."""

    @property
    def low(self) -> Tensor:
        """(1, 3, 1, 1): black, as the classifier takes it."""
        return self.method.calibrated.low

    @property
    def span(self) -> Tensor:
        """(1, 3, 1, 1): from black to white, as the classifier takes it."""
        return self.method.calibrated.span

    def parts(self, most: int | None = None, *, labelled: bool = True) -> list[Part]:
        """Of each domain, the sources in their order and then the target, `most` images at most, evenly spread. Where
        they need not be `labelled`, of a target without labels the training images.

        Raises:
            ValueError: Data missing, or a domain without images, or without labels where they are needed.
        """
        protocol, held_out = self.loaded.domains()
        named: list[tuple[str, DomainName, Split | None]] = [
            (name, "source", split) for name, split in source_images(protocol, held_out)
        ]
        target = protocol.target
        if target.test is None and labelled:
            raise ValueError(f"{self.loaded.folder.path}: {target.name} has no test images with labels")
        named.append((target.name, "target", target.train if target.test is None else target.test))
        parts = []
        for name, side, split in named:
            if split is None or len(split) == 0:
                raise ValueError(f"{self.loaded.folder.path}: {name} has no test images")
            chosen = split if most is None else split.subset(evenly(len(split), most))
            untested = side == "target" and target.test is None
            parts.append(Part(name, side, chosen, "training image" if untested else "test image"))
        return parts

    def batches(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of images float32 (B, 3, S, S) in [0, 1] and their labels (B,), in order, on the run's device."""
        scoring = self.loaded.scoring
        for images, labels in evaluation_batches(
            part.split,
            batch_size=scoring.chunk_of(part.split),
            device=scoring.device,
            normalisation=scoring.network_input.normalisation,
        ):
            # 0 and 255 come back as -1e-8 and 1 + 1e-7 at worst.
            yield ((images - self.low) / self.span).clamp(0, 1), labels

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the calibrator gives them to the classifier: float32, in [0, 1].

        Raises:
            NonFiniteError: A value is not finite.
        """
        with self.loaded.scoring.autocast():
            calibrated = self.method.calibrator(images).float()
        check_finite_values(calibrated=calibrated)
        return calibrated

    def classify(self, images: Tensor, side: DomainName) -> Tensor:
        """Scores float32 (B, C) of the classifier alone, without calibrator, of images in [0, 1].

        Raises:
            NonFiniteError: A score is not finite.
        """
        with self.method.evaluating_domain(side), self.loaded.scoring.autocast():
            scores = self.method.scores(self.method.features(images * self.span + self.low)).float()
        check_finite_values(scores=scores)
        return scores

    def described(self) -> dict[str, Any]:
        """What the numbers of a figure begin with."""
        loaded = self.loaded
        return {
            "run": str(loaded.folder.path),
            "checkpoint": loaded.checkpoint,
            "step": loaded.step,
            "calibrator": self.method.calibrator.options(),
        }

    def title(self) -> str:
        """The run as a figure calls it: with the folder above it, for that of a recipe's run is called after its seed,
        and what the calibrator may do."""
        name = Path(*self.loaded.folder.path.resolve().parts[-2:])
        bound = f"calibrator within ε = {self.method.calibrator.epsilon:g}"
        return f"{name}, checkpoint {self.loaded.checkpoint} (step {self.loaded.step}), {bound}"


def open_calibrated(
    run: Path,
    *,
    checkpoint: CheckpointName = "last",
    device: Device = "auto",
    data_root: Path | None = None,
) -> CalibratedRun:
    """Open a run of the method calibrator; the arguments are those of `load_run`.

    Raises:
        ValueError: As `load_run` and `calibrating`.
    """
    loaded = load_run(run, checkpoint=checkpoint, device=device, data_root=data_root)
    return CalibratedRun(loaded, calibrating(loaded))

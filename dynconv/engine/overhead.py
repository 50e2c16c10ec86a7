"""What a calibrator costs beside the classifier that it stands before: parameters, multiply-adds and time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynconv.engine.environment import hardware
from dynconv.models.cost import count_cost
from dynconv.timing import interleave

BATCHES = (1, 64)
# Seconds of each of the two calls at each batch size, and the fewest rounds; calls of more than ten budgets have one.
BUDGET = 0.3
MIN_ROUNDS = 9


class Latency(NamedTuple):
    """Median milliseconds of a batch."""

    batch: int
    without: float
    """The classifier alone."""
    calibrated: float
    """The calibrator, then the classifier."""
    rounds: int
    """In each of which both were timed, in turns."""


class Overhead(NamedTuple):
    """A calibrator beside its classifier."""

    calibrator_parameters: int
    classifier_parameters: int
    calibrator_macs: int
    """Multiply-adds of one image, as `dynconv.models.cost` counts them."""
    classifier_macs: int
    latencies: tuple[Latency, ...]
    threads: int
    """Of torch, within which the latencies were taken."""
    cpu: str

    def to_dict(self) -> dict[str, Any]:
        """For calibrator.json."""
        return {
            "parameters": _share(self.calibrator_parameters, self.classifier_parameters),
            "macs_per_image": _share(self.calibrator_macs, self.classifier_macs),
            "milliseconds_per_batch": [
                {"batch": r.batch, "classifier": r.without, "with_calibrator": r.calibrated, "repeats": r.rounds}
                for r in self.latencies
            ],
            "threads": self.threads,
            "cpu": self.cpu,
        }

    def lines(self) -> list[str]:
        """For whoever exports."""
        parameters, macs = (self.to_dict()[name] for name in ("parameters", "macs_per_image"))
        return [
            f"parameters: calibrator {parameters['calibrator']:,}, classifier {parameters['classifier']:,} "
            f"({parameters['percent']:.1f} %)",
            f"multiply-adds per image: calibrator {macs['calibrator'] / 1e6:.2f} M, "
            f"classifier {macs['classifier'] / 1e6:.2f} M ({macs['percent']:.1f} %)",
            *(
                f"batch of {row.batch}: {row.without:.2f} ms without the calibrator, {row.calibrated:.2f} ms with it"
                for row in self.latencies
            ),
            f"medians of interleaved repeats, {self.threads} thread{'s' if self.threads > 1 else ''} of {self.cpu}",
        ]


def measure_overhead(
    calibrator: nn.Module, classifier: nn.Module, image_size: tuple[int, int], batches: Sequence[int] = BATCHES
) -> Overhead:
    """Count and time a calibrator and its classifier, both in evaluation mode and on the CPU.

    Args:
        calibrator: Images (B, 3, H, W) in [0, 1] to images of the same shape.
        classifier: Those to class scores.
        image_size: H and W.
        batches: Sizes of the batches that are timed.
    """
    image = torch.full((1, 3, *image_size), 0.5)
    own, theirs = (count_cost(module, image) for module in (calibrator, classifier))
    with torch.no_grad():
        latencies = tuple(_latency(calibrator, classifier, image.expand(b, -1, -1, -1).contiguous()) for b in batches)
    return Overhead(
        calibrator_parameters=own.parameters,
        classifier_parameters=theirs.parameters,
        # Of dynamic convolutions in the form that costs least.
        calibrator_macs=own.static_macs + own.added_macs("one-kernel"),
        classifier_macs=theirs.static_macs + theirs.added_macs("one-kernel"),
        latencies=latencies,
        threads=torch.get_num_threads(),
        cpu=str(hardware()["cpu"]),
    )


def _latency(calibrator: nn.Module, classifier: nn.Module, images: Tensor) -> Latency:
    seconds = interleave(
        {"without": lambda: classifier(images), "with": lambda: classifier(calibrator(images))},
        images.device,
        budget=BUDGET,
        min_rounds=MIN_ROUNDS,
        always=("without", "with"),
    )
    without, calibrated = (1e3 * statistics.median(seconds[name]) for name in ("without", "with"))
    return Latency(len(images), without, calibrated, len(seconds["with"]))


def _share(calibrator: int, classifier: int) -> dict[str, Any]:
    return {"calibrator": calibrator, "classifier": classifier, "percent": 100 * calibrator / classifier}

"""The options of the figures of `dynconv plot` that are drawn from the files of runs alone, typed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dynconv.engine.run_options import CheckpointName
from dynconv.parsing import check_picture
from dynconv.report.figures.options import Runs, check_runs


@dataclass(frozen=True)
class TrainingOptions:
    """Draw what runs logged, finished or not; several are drawn beside each other."""

    runs: Runs
    """The run folders."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG", help_behavior_hint="")] = None
    """Image file to write; its suffix chooses the format. Default: RUN/training.png, of a single RUN."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        if self.out is not None:
            check_picture(self.out, "training.png")


@dataclass(frozen=True, kw_only=True)
class CurvesOptions:
    """Draw what the target's test images are judged by over the steps, of several runs in one picture, with the drift
    of the weights where it was logged (GAM, Fig. 5); a table tells the last, the best of the adaptation and the drop
    between them."""

    runs: Runs
    """The run folders, finished or not; a folder stands for all runs below it. Those that differ in the seed alone are
    one curve. Those of source-only are best left out: they adapt nothing, and their steps are others."""
    out: Annotated[Path, tyro.conf.arg(metavar="PNG")]
    """Image file to write; its suffix chooses the format. Every point is written beside it as CSV."""
    metric: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """A measure of the target's test images in the run's results.jsonl, such as class-mean-accuracy or pixel-accuracy.
    Default: accuracy, of segmentation mean-iou."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        check_picture(self.out, "curves.png")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Draw what the target's test images are judged by over a field of the method, such as GAM's taps (the places of
    its discriminators) or its adversarial_weight (lambda): a line for each task and kind of run, mean and spread over
    seeds."""

    runs: Runs
    """The finished runs; a folder stands for all runs below it. Those of methods without the field are levels."""
    field: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(required)")]
    """The field, as `dynconv train METHOD --help` and config.yaml call it."""
    out: Annotated[Path, tyro.conf.arg(metavar="PNG")]
    """Image file to write; its suffix chooses the format. The numbers are written beside it as CSV."""
    checkpoint: CheckpointName = "last"
    """The last checkpoint, or the one that a validator chose."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        check_picture(self.out, "sweep.png")


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """Draw target test accuracy after fine-tuning over the number of labelled target images, a line for each kind of
    run that was fine-tuned, and how many labels an adaptation is worth (GAM, section 5.4 and Fig. 6)."""

    runs: Runs
    """The finished runs of target-only with --labelled-images, of each start and number at least one; a folder stands
    for all runs below it. Runs of other methods among them are passed over."""
    out: Annotated[Path, tyro.conf.arg(metavar="PNG")]
    """Image file to write; its suffix chooses the format. The numbers are written beside it as CSV."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        check_picture(self.out, "fine-tuning.png")


@dataclass(frozen=True)
class DegradationOptions:
    """Draw what adaptation costs on each source domain: accuracy on its test images less that of the domain's oracle, a
    network trained on that domain alone (DRT, Fig. 2)."""

    runs: Runs
    """The adapted runs, finished; a folder stands for all runs below it."""
    oracles: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
    """Finished runs of source-only with a single source, at least one for each source of RUN."""
    out: Annotated[Path, tyro.conf.arg(metavar="PNG")]
    """Image file to write; its suffix chooses the format. The numbers are written beside it as CSV."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        check_runs(self.oracles, "--oracles")
        check_picture(self.out, "degradation.png")

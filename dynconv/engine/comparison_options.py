"""From the words of the figures of `dynconv plot` that compare runs by their files to typed options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dynconv.engine.config import CheckpointName
from dynconv.engine.plot_options import Runs
from dynconv.parsing import check_picture, parse_options


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
        _check(self.runs, self.out, "curves.png")


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
        _check(self.runs, self.out, "sweep.png")


def _check(runs: Sequence[Path], out: Path, name: str) -> None:
    if not runs:
        raise ValueError("RUN: expected at least one run folder, got none")
    check_picture(out, name)


def parse_curves(args: Sequence[str]) -> CurvesOptions:
    """The options that the words after `dynconv plot curves` describe. SystemExit as in `parse_options`."""
    return parse_options(CurvesOptions, "plot curves", args)


def parse_sweep(args: Sequence[str]) -> SweepOptions:
    """The options that the words after `dynconv plot sweep` describe. SystemExit as in `parse_options`."""
    return parse_options(SweepOptions, "plot sweep", args)

"""The options of `dynconv plot source-or-not`, typed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from dynconv.engine.run_options import CheckpointName, DataRoot, Device
from dynconv.metrics.source_or_not import FEWEST
from dynconv.report.figures.options import OneRunOptions

# A row of the figure has five.
MOST_ROUNDS = 100


@dataclass(frozen=True, kw_only=True)
class SourceOrNotOptions(OneRunOptions):
    """Play Source-or-Not (GAM, section 5.1, Fig. 3): of two images nothing is seen but the activations of one random
    unit of one random layer over all places; are both of one domain? Draws such pairs, and of every layer how often a
    simple classifier is right; with --play asks you instead, in the terminal, and keeps score."""

    figure: ClassVar[str] = "source-or-not"

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, of any method that has a source; the paper's game is that of a run of source-only."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG", help_behavior_hint="")] = None
    """Image file to write; its suffix chooses the format. The numbers are written beside it as CSV. Default:
    RUN/source-or-not.png. With --play nothing is written."""
    play: tyro.conf.FlagCreatePairsOff[bool] = False
    """Ask in the terminal."""
    rounds: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Pairs that are drawn, or asked for."""
    network: Literal["source", "own"] = "source"
    """Whose activations. "source": both domains' images go through the source's network, as in the paper, where a
    method keeps one or keeps it frozen (gam, adda, calibrator); of other methods through the one network there is.
    "own": each through its own domain's, so that what adaptation left of the difference is measured."""
    images: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 200, of scenes 40)")] = None
    """Training images of each domain that the classifier learns from, and test images of each that it is judged by, at
    most."""
    units: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Units of each layer, drawn at random."""
    seed: int = 0
    """Fixes units, pairs and rounds."""
    # Told again, for tyro looks for the types of all fields in this module.
    checkpoint: CheckpointName = "last"
    """The last checkpoint, or the one that a validator chose."""
    device: Device = "auto"
    """Where to compute."""
    data_root: DataRoot = None
    """Folder of the real data sets. Default: the one of the run's own training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.play and self.out is not None:
            raise ValueError(f"--out {self.out}: with --play nothing is drawn into a file; leave one of them out")
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise ValueError(f"--rounds must be from 1 to {MOST_ROUNDS}, got {self.rounds}")
        if self.units < 1:
            raise ValueError(f"--units must be at least 1, got {self.units}")
        if self.images is not None and self.images < FEWEST:
            raise ValueError(f"--images must be at least {FEWEST}, to learn anything from, got {self.images}")
        if self.seed < 0:
            raise ValueError(f"--seed must be 0 or more, got {self.seed}")

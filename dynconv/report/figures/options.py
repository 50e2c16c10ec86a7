"""The options of the figures of `dynconv plot` that compute with trained networks, typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from dynconv.engine.run_options import CheckpointName, DataRoot, Device
from dynconv.metrics.spectra import RADIUS
from dynconv.parsing import check_picture

Runs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
]

# Rows of a figure of CamVid's scenes: 15,600 pixels.
MOST_SCENES = 50


def check_runs(runs: Sequence[Path], what: str = "RUN") -> None:
    """Raise a ValueError where there is no run folder among the words."""
    if not runs:
        raise ValueError(f"{what}: expected at least one run folder, got none")


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """What figures of trained networks have in common."""

    figure: ClassVar[str]

    checkpoint: CheckpointName = "last"
    """The last checkpoint, or the one that a validator chose."""
    device: Device = "auto"
    """Where to compute."""
    data_root: DataRoot = None
    """Folder of the real data sets. Default: the one of the run's own training."""


@dataclass(frozen=True, kw_only=True)
class SeveralRunsOptions(FigureOptions):
    """What the figures of several runs have in common."""

    runs: Runs
    """The run folders; a folder stands for all runs below it."""
    out: Annotated[Path, tyro.conf.arg(metavar="PNG")]
    """Image file to write; its suffix chooses the format. The numbers are written beside it as CSV."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        check_picture(self.out, f"{self.figure}.png")


@dataclass(frozen=True)
class CoefficientOptions:
    """Draw the dynamic coefficients of trained runs: t-SNE of all layers and of either half, by domain and by class,
    and histograms of each layer; RUN/coefficients.json has the numbers."""

    runs: Runs
    """The run folders, of networks with --residual subspace or combined."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG", help_behavior_hint="")] = None
    """Image file to write, of a single RUN; the histograms and the numbers lie beside it. Default:
    RUN/coefficients.png."""
    points: Annotated[int, tyro.conf.arg(metavar="N")] = 300
    """Test images of each domain, at most. t-SNE of 1,500 takes about 20 s on a CPU core, three times."""
    checkpoint: CheckpointName = "last"
    """The last checkpoint, or the one that a validator chose."""
    device: Device = "auto"
    """Where to compute."""
    data_root: DataRoot = None
    """Folder of the real data sets. Default: the one the run was trained with."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        if self.points < 1:
            raise ValueError(f"--points must be at least 1, got {self.points}")
        if self.out is not None and len(self.runs) > 1:
            raise ValueError(
                f"--out {self.out} is for a single RUN, got {len(self.runs)}; leave it out, and each has its pictures "
                "in its own folder"
            )
        if self.out is not None:
            check_picture(self.out, "coefficients.png")


@dataclass(frozen=True, kw_only=True)
class TradeOffOptions(SeveralRunsOptions):
    """Draw target test accuracy over source test accuracy, before and after adaptation: a colour for each method, a
    shape for each task, means over seeds with the seeds as small points (Calibrator, Fig. 2)."""

    figure: ClassVar[str] = "trade-off"

    runs: Runs
    """The finished runs, source-only runs among them for where others start; a folder stands for all runs below it."""
    source_as: Literal["target", "source"] = "target"
    """Which network judges source images after adaptation where a method keeps one for each domain (ADDA, statistics of
    its own in batch normalisation). "target": the adapted one, for a device that moves does not say where it is
    (section 4.2); checkpoint and data are read for it. "source": its own, from the rows of the run."""
    checkpoint: CheckpointName = "last"
    """What "after" is: the last checkpoint, or the one that a validator chose."""


@dataclass(frozen=True, kw_only=True)
class EpsilonOptions(SeveralRunsOptions):
    """Draw source and target test accuracy of calibrators over epsilon, the bound of their perturbation: a line for
    runs that differ in epsilon and seed alone (Calibrator, section 5.2)."""

    figure: ClassVar[str] = "epsilon"

    runs: Runs
    """The finished runs of calibrator; a folder stands for all runs below it. With --sweep a single one."""
    sweep: tyro.conf.FlagCreatePairsOff[bool] = False
    """Clamp the perturbation of one trained RUN to smaller bounds instead, without training."""
    device: Device = "auto"
    """Where to compute (--sweep only; else the files of the runs have the numbers)."""
    data_root: DataRoot = None
    """Folder of the real data sets (--sweep only). Default: the one the run was trained with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sweep and len(self.runs) > 1:
            raise ValueError(f"--sweep is for a single RUN, got {len(self.runs)}; draw them one by one")
        if not self.sweep and (self.device != "auto" or self.data_root is not None):
            raise ValueError("--device and --data-root are for --sweep: without it nothing is computed; leave them out")


@dataclass(frozen=True, kw_only=True)
class StreamOptions(SeveralRunsOptions):
    """Draw accuracy over time for a device that moves between the source and the targets: blocks of test images of a
    domain drawn at random, without a calibrator, with one for all of them, and with that of the domain (Calibrator,
    section 1)."""

    figure: ClassVar[str] = "stream"

    runs: Runs
    """Runs of calibrator; several must share one frozen classifier, and each has a target of its own."""
    blocks: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Blocks, each of one domain; two that follow each other may be of the same."""
    block_batches: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Batches of a block (released code: 20)."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 128
    """Images of a batch."""
    seed: int = 0
    """Fixes the domains and the order of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (
            ("blocks", self.blocks),
            ("block-batches", self.block_batches),
            ("batch-size", self.batch_size),
        ):
            if value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise ValueError(f"--seed must be 0 or more, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class OneRunOptions(FigureOptions):
    """What the figures of one run, most of them of a calibrator, have in common."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, of the method calibrator."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG", help_behavior_hint="")] = None
    """Image file to write; its suffix chooses the format. The numbers are written beside it. Default: in RUN, called
    after the figure."""

    def __post_init__(self) -> None:
        check_picture(self.picture, f"{self.figure}.png")

    @property
    def picture(self) -> Path:
        """The image file to write."""
        return self.run / f"{self.figure}.png" if self.out is None else self.out


@dataclass(frozen=True, kw_only=True)
class ScenesOptions(FigureOptions):
    """Draw test scenes beside their label maps: ground truth, before adaptation where the run has that network
    (calibrator, adda, gam), and after; of several runs what each one makes of the same scenes (GAM, Fig. 4)."""

    figure: ClassVar[str] = "scenes"

    runs: Runs
    """The run folders, all of one task; the columns stand in their order."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG", help_behavior_hint="")] = None
    """Image file to write; its suffix chooses the format. Default: RUN/scenes.png, of a single RUN."""
    side: Literal["target", "source"] = "target"
    """Whose scenes."""
    images: Annotated[int, tyro.conf.arg(metavar="N")] = 4
    """How many, evenly spread over the test split."""

    def __post_init__(self) -> None:
        check_runs(self.runs)
        if self.out is None and len(self.runs) > 1:
            raise ValueError(f"--out is missing: {len(self.runs)} runs go into one figure; give --out PNG")
        check_picture(self.picture, "scenes.png")
        _check_counts(images=self.images)
        if self.images > MOST_SCENES:
            raise ValueError(
                f"--images must be at most {MOST_SCENES}, a row of the figure each, got {self.images}; "
                "`dynconv predict` writes the label maps of any number of images"
            )

    @property
    def picture(self) -> Path:
        """The image file to write."""
        return self.runs[0] / "scenes.png" if self.out is None else self.out


@dataclass(frozen=True, kw_only=True)
class SpectraOptions(OneRunOptions):
    """Draw test images before and after calibration with their log spectra, and tell the share of energy at high
    frequencies (Calibrator, Fig. 6). The numbers are JSON."""

    figure: ClassVar[str] = "spectra"

    images: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    """Test images of each domain that count, at most."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 6
    """How many of them are drawn."""
    radius: Annotated[float, tyro.conf.arg(metavar="R")] = RADIUS
    """Energy beyond this frequency is high, in cycles per pixel: 0.25 is a quarter of the sampling frequency and half
    of Nyquist's (a choice of ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(images=self.images, samples=self.samples)
        if not 0 <= self.radius < 0.5:
            raise ValueError(f"--radius must be cycles per pixel, from 0 to below 0.5, got {self.radius}")


@dataclass(frozen=True, kw_only=True)
class PredictionOptions(OneRunOptions):
    """Draw what the classifier takes source and target test images for, alone and behind the calibrator: confusion
    matrices and examples (Calibrator, Fig. 3). The numbers are JSON."""

    figure: ClassVar[str] = "predictions"

    images: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Test images of each domain, at most."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """How many of the source's and of the target's are drawn, at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(images=1 if self.images is None else self.images, samples=self.samples)


@dataclass(frozen=True, kw_only=True)
class PerturbationOptions(OneRunOptions):
    """Draw accuracy against the size of perturbations: the calibrator's beside random ones and those of the fast
    gradient sign method (Calibrator, section 5.2). The numbers are CSV."""

    figure: ClassVar[str] = "perturbation"

    images: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    """Test images of each domain that are perturbed, at most."""
    sizes: Annotated[tuple[float, ...], tyro.conf.arg(metavar="E [E ...]")] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
    """L-infinity sizes to try beside the calibrator's own, above 0 and at most 1, the range from black to white."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(images=self.images)
        if not self.sizes or any(not 0 < size <= 1 for size in self.sizes):
            given = " ".join(map(str, self.sizes)) or "none"
            raise ValueError(f"--sizes must be above 0 and at most 1, the range from black to white, got {given}")


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")

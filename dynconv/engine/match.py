"""Adapt the network of a finished run by Gaussian matching: what `dynconv match RUN` trains, a run of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dynconv.data import parse_spec
from dynconv.engine.checkpoint import WEIGHTS, check_configuration, load_checkpoint
from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import CheckpointName, DataRoot, Device, RunOptions, absolute_paths
from dynconv.methods import METHODS, GaussianConfig, MethodConfig
from dynconv.methods.source_first import StartedConfig, no_longer_the_sources
from dynconv.parsing import parse_options

# What describes the network; the optimiser and its schedule have no use where nothing is trained.
OF_NETWORK = (
    "backbone",
    "weights",
    "image_norm",
    "norm",
    "bottleneck",
    "residual",
    "num_bases",
    "basis_kernel_size",
    "reduction",
    "temperature",
    "scale_activation",
    "branch_init",
)
# Of a run's options those that are not of its training.
KEPT = (
    "classes",
    "data_root",
    "seed",
    "batch_size",
    "ten_crop",
    "image_size",
    "crop_size",
    "eval_window",
    "full_resolution",
    "stylised",
    "source_limit",
    "validator",
    "precision",
    "channels_last",
    "workers",
    "cache",
    "skip_bad",
)


@dataclass(frozen=True)
class MatchOptions:
    """Adapt a run's network to a target in closed form, without training and without the target's labels: every layer's
    activations get the mean and variance there that they had on the run's sources (GAM, section 4.1). What is written
    is a run folder too."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, of a network that learnt the sources, such as one of source-only."""
    target: Annotated[str | None, tyro.conf.arg(metavar="NAME=DIR", help_behavior_hint="")] = None
    """The domain to adapt to, or the name of a known one (usps); its labels are used for evaluation only. Default: the
    run's own target."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Run folder to write. Default: runs/SOURCES-TARGET_gaussian_seedN."""
    checkpoint: CheckpointName = "last"
    """The last checkpoint, or the one that a validator chose."""
    layers: Literal["hidden", "all"] = "hidden"
    """The layers that a nonlinearity follows, or the scores too."""
    statistics_images: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Training images of each side, evenly spread, that are looked at; 0 for all. Default: 2,000 images or 100
    scenes."""
    data_root: DataRoot = None
    """Folder of the real data sets. Default: the one the run was trained with."""
    device: Device = "auto"
    """Where to compute."""

    def __post_init__(self) -> None:
        if self.statistics_images is not None and self.statistics_images < 0:
            raise ValueError(f"--statistics-images must be at least 0, got {self.statistics_images}")


def parse_match(args: Sequence[str]) -> MatchOptions:
    """The options that the words after `dynconv match` describe. SystemExit as in `parse_options`."""
    return parse_options(MatchOptions, "match", args)


def match_config(options: MatchOptions) -> TrainConfig:
    """The run that matches another run's network.

    Raises:
        ValueError: No run or checkpoint there, a network that is not one for all domains and nothing else, or a target
            that does not fit.
    """
    folder = RunFolder(options.run)
    if not folder.config.exists():
        raise ValueError(f"{options.run} is no run folder: there is no {folder.config}")
    trained = load_config(folder.config)
    _check_network(options.run, trained)
    weights = folder.checkpoint(options.checkpoint)
    check_configuration(weights, load_checkpoint(weights, required=WEIGHTS), trained)
    kept: dict[str, Any] = {name: getattr(trained.run, name) for name in KEPT}
    if options.data_root is not None:
        kept["data_root"] = options.data_root
    run = RunOptions(**kept, **_domains(options, trained.run), out=options.out, max_steps=1, device=options.device)
    own = GaussianConfig(
        **{name: getattr(trained.options, name) for name in OF_NETWORK},
        source_checkpoint=str(weights.expanduser().absolute()),
        layers=options.layers,
        statistics_images=options.statistics_images,
    )
    return TrainConfig("gaussian", absolute_paths(run), own)


def _check_network(run: Path, trained: TrainConfig) -> None:
    """Raise a ValueError unless a run's network is its features and its classifier alone, and the source's."""
    own = trained.options
    if not isinstance(own, MethodConfig) or not METHODS[trained.method].is_plain():
        raise ValueError(
            f"RUN {run} is a run of {trained.method}, whose network is more than features and one classifier; give the "
            "run on the source that it started from, or one of source-only"
        )
    before = own.source_checkpoint if isinstance(own, StartedConfig) else ""
    if why := no_longer_the_sources(trained.method, before):
        raise ValueError(f"RUN {run} is a run of {trained.method}, {why}")
    if own.has_split_statistics:
        raise ValueError(
            f"RUN {run} has the normalisation_policy {own.normalisation_policy!r}, by which every batch normalisation "
            "has statistics of the target already; give a run with another policy, such as one of source-only"
        )


def _domains(options: MatchOptions, run: RunOptions) -> dict[str, Any]:
    """The fields of `RunOptions` that name the domains: the run's sources and the target that is asked for."""
    if options.target is None:
        names = ("protocol", "source", "target", "target_limit")
        return {name: getattr(run, name) for name in names}
    if run.protocol is None:
        return {"source": run.source, "target": options.target}
    sources, _, variant = parse_spec(run.protocol)
    if "@" in run.protocol:
        raise ValueError(
            f"--target {options.target}: RUN {options.run} is of the protocol {run.protocol}, whose variant @{variant} "
            "is of its own pair of domains; leave --target out, or give a run without a variant"
        )
    return {"source": sources, "target": options.target}

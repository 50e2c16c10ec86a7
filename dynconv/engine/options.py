"""From the words of `dynconv train`, `dynconv eval` and `dynconv plot` to typed options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from dynconv.engine.config import Precision, RunOptions, TrainConfig, absolute_paths, load_config
from dynconv.methods import METHODS

C = TypeVar("C")


@dataclass(frozen=True)
class TrainOptions(Generic[C]):
    """Train a method. Options override --config FILE, which overrides the defaults."""

    run: RunOptions
    method: C


@dataclass(frozen=True)
class EvalOptions:
    """Measure a run's checkpoint on the run's own domains, or on another one."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    domain: Annotated[str | None, tyro.conf.arg(metavar="NAME=DIR", help_behavior_hint="")] = None
    """Another labelled domain: one folder per class or a "path label" list, or the name of a known domain (usps,
    embedded:plain). Default: the run's own sources and target."""
    checkpoint: Literal["last", "source-val"] = "last"
    """The last checkpoint, or the one with the best accuracy on the held-out source images."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the real data sets. Default: the one the run was trained with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Annotated[Precision | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Numeric precision. Default: the run's own."""


@dataclass(frozen=True)
class PlotOptions:
    """Draw what runs logged, finished or not; several are drawn beside each other."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """The run folders."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG", help_behavior_hint="")] = None
    """Image file to write; its suffix chooses the format. Default: RUN/training.png, of a single RUN."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("RUN: expected at least one run folder, got none")


def parse_train(method: str, args: Sequence[str]) -> TrainConfig:
    """The configuration that the words after `dynconv train METHOD` describe.

    Raises:
        ValueError: A --config file that does not fit.
        SystemExit: With code 2 for an unknown option, a wrong value or a contradiction; with 0 after --help.
    """
    config_class = METHODS[method].config_class
    run, own = RunOptions(), config_class()
    if (path := value_of("--config", args)) is not None:
        loaded = load_config(Path(path), METHODS)
        if loaded.method != method:
            raise ValueError(f"--config {path} is of the method {loaded.method!r}, the command says {method!r}")
        run, own = _without_overridden(loaded.run, args), loaded.options
    options = tyro.cli(
        TrainOptions[config_class],  # type: ignore[valid-type]  # an alias made at run time
        prog=f"dynconv train {method}",
        args=args,
        default=TrainOptions(run, own),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return TrainConfig(method, absolute_paths(options.run), _absolute_weights(options.method))


def parse_eval(args: Sequence[str]) -> EvalOptions:
    """The options that the words after `dynconv eval` describe. SystemExit as in `parse_train`."""
    return tyro.cli(EvalOptions, prog="dynconv eval", args=args)


def parse_plot(figure: str, args: Sequence[str]) -> PlotOptions:
    """The options that the words after `dynconv plot FIGURE` describe. SystemExit as in `parse_train`."""
    return tyro.cli(PlotOptions, prog=f"dynconv plot {figure}", args=args)


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """The word given to `flag` in `args` (as `--flag WORD` or `--flag=WORD`), or None where the flag is not there."""
    for index, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else next(iter(args[index + 1 :]), "")
    return None


def _absolute_weights(own: Any) -> Any:
    """The method's options with a file of weights made absolute, as `absolute_paths`."""
    if own.weights in ("auto", "none", "imagenet"):
        return own
    return dataclasses.replace(own, weights=str(Path(own.weights).expanduser().absolute()))


def _without_overridden(run: RunOptions, args: Sequence[str]) -> RunOptions:
    """`run` without what a flag in `args` replaces by another field: the data, and the length of the run."""
    drop: dict[str, Any] = {}
    if value_of("--protocol", args) is not None:
        drop |= {"source": (), "target": None}
    if value_of("--source", args) is not None and value_of("--target", args) is not None:
        drop["protocol"] = None
    if value_of("--epochs", args) is not None:
        drop["max_steps"] = None
    if value_of("--max-steps", args) is not None:
        drop["epochs"] = None
    return dataclasses.replace(run, **drop)

"""The options of `dynconv train`, `eval`, `predict`, `export` and `runs`, typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

import tyro

from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.run_options import CheckpointName, DataRoot, Device, Precision, RunOptions, absolute_paths
from dynconv.methods import METHODS

C = TypeVar("C")
# Without the None that stands for the run's own.
PRECISIONS = f"{{{','.join(get_args(Precision))}}}"


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
    checkpoint: CheckpointName = "last"
    """The last checkpoint, the one with the best accuracy on the held-out source images, or the one with the best
    label-free validator on the target's."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""
    data_root: DataRoot = None
    """Folder of the real data sets. Default: the one the run was trained with."""
    device: Device = "auto"
    """Where to compute."""
    precision: Annotated[Precision | None, tyro.conf.arg(metavar=PRECISIONS, help_behavior_hint="")] = None
    """Numeric precision. Default: the run's own."""


@dataclass(frozen=True)
class PredictOptions:
    """Write the class and the confidence of every image below a folder as a CSV table; of a run of segmentation a label
    map of each image, as a PNG in the colours of the classes."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The images: a folder, with all folders below it, or a text file of "path" or "path label" lines."""
    out: Annotated[Path, tyro.conf.arg(metavar="CSV|DIR")]
    """File to write; "-" for standard output. Of a run of segmentation the folder for the label maps, called as the
    images are, and predictions.json with the names of the classes."""
    top: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Classes per image, the likeliest first."""
    checkpoint: CheckpointName = "last"
    """The last checkpoint, the one with the best accuracy on the held-out source images, or the one with the best
    label-free validator on the target's."""
    device: Device = "auto"
    """Where to compute."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: as in eval)")] = None
    """Images (or crops of them) computed at a time; of a run of segmentation it is one."""
    image_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="")] = None
    """Of a run of segmentation: height and width that the network sees the images at; label maps have the images' own
    size. Default: that of the run's training."""
    precision: Annotated[Precision | None, tyro.conf.arg(metavar=PRECISIONS, help_behavior_hint="")] = None
    """Numeric precision. Default: the run's own."""

    def __post_init__(self) -> None:
        for name, value in (("top", self.top), ("batch-size", self.batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.image_size is not None and min(self.image_size) < 1:
            given = " ".join(map(str, self.image_size))
            raise ValueError(f"--image-size: expected a height and a width above 0, got {given}")


@dataclass(frozen=True)
class ExportOptions:
    """Write the adapted model, with its normalisation, as a file that runs without dynconv, or its calibrator alone."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """A new folder for the files; a JSON among them says how to feed what was written."""
    part: Literal["model", "classifier", "calibrator", "stylised"] = "model"
    """What to write of the run. "model": what predicts. Of a run of calibrator: "classifier", the frozen classifier
    without its calibrator, or "calibrator", the calibrator alone, as calibrator.safetensors and, with --format, as a
    program. Of a run of cyclegan: "stylised", its source's training images in the target's style, called
    LABEL_ID_fake_B.png, which --source NAME=DIR reads."""
    format: Annotated[
        Literal["torch", "onnx"] | None,
        tyro.conf.arg(metavar="{torch,onnx}", help_behavior_hint="(required for model and classifier)"),
    ] = None
    """"torch": a torch.export program, .pt2. "onnx": .onnx (needs dynconv[export])."""
    image_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="")] = None
    """Of a network that labels every pixel: height and width of the images that the program takes. Default: the run's
    own --image-size."""
    checkpoint: CheckpointName = "last"
    """The last checkpoint, the one with the best accuracy on the held-out source images, or the one with the best
    label-free validator on the target's."""
    data_root: DataRoot = None
    """Folder of the real data sets ("stylised" only). Default: the one the run was trained with."""

    def __post_init__(self) -> None:
        if self.part == "stylised" and self.format is not None:
            raise ValueError(f"--format {self.format} is for programs, and --part stylised writes images: leave it out")
        if self.part == "stylised" and self.image_size is not None:
            given = " ".join(map(str, self.image_size))
            raise ValueError(f"--image-size {given} is for networks that label every pixel: leave it out")
        if self.part != "stylised" and self.data_root is not None:
            raise ValueError(f"--data-root {self.data_root} has no use: --part {self.part} reads no data; leave it out")


@dataclass(frozen=True)
class RunsOptions:
    """List what ran below a folder: done, running, unfinished, diverged or damaged, the last written first."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]")] = Path("runs")
    """The folder that holds the runs, at any depth."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON list instead of a table."""


def parse_train(method: str, args: Sequence[str]) -> TrainConfig:
    """The configuration that the words after `dynconv train METHOD` describe.

    Raises:
        ValueError: A --config file that does not fit.
        SystemExit: With code 2 for an unknown option, a wrong value or a contradiction; with 0 after --help.
    """
    config_class = METHODS[method].config_class
    run, own = RunOptions(), config_class()
    if (path := value_of("--config", args)) is not None:
        loaded = load_config(Path(path))
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
    return TrainConfig(method, absolute_paths(options.run), _absolute_files(options.method))


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """The word given to `flag` in `args` (as `--flag WORD` or `--flag=WORD`), or None where the flag is not there."""
    for index, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else next(iter(args[index + 1 :]), "")
    return None


def _absolute_files(own: Any) -> Any:
    """The method's options with a file of weights and the checkpoint that it starts from made absolute, as
    `absolute_paths`."""
    files = {} if own.weights in ("auto", "none", "imagenet") else {"weights": own.weights}
    if checkpoint := getattr(own, "source_checkpoint", ""):
        files["source_checkpoint"] = checkpoint
    return dataclasses.replace(own, **{name: str(Path(file).expanduser().absolute()) for name, file in files.items()})


def _without_overridden(run: RunOptions, args: Sequence[str]) -> RunOptions:
    """`run` without what a flag in `args` replaces by another field: the data, and the length of the run."""
    drop: dict[str, Any] = {}
    if value_of("--protocol", args) is not None:
        drop |= {"source": (), "target": None, "classes": "same"}
    if value_of("--source", args) is not None and value_of("--target", args) is not None:
        drop["protocol"] = None
    if value_of("--pseudo-labels-from", args) is not None:
        drop["pseudo_labels_of"] = None
    if value_of("--epochs", args) is not None:
        drop["max_steps"] = None
    if value_of("--max-steps", args) is not None:
        drop["epochs"] = None
    return dataclasses.replace(run, **drop)

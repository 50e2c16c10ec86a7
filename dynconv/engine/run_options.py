"""The options of a run that every method shares."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dynconv.data.class_choice import ClassChoice
from dynconv.data.files import CacheMode
from dynconv.engine.label_options import SIZES
from dynconv.engine.selection import VALIDATOR
from dynconv.metrics import ValidatorName

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
CheckpointName = Literal["last", "source-val", "label-free"]
Device = Literal["auto", "cpu", "cuda"]
# The folder of the real data sets, of commands on a run that knows one itself.
DataRoot = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]

DEFAULT_EPOCHS = 10
# DRT, section 4.3.
PSEUDO_CONFIDENCE = 0.8
EVALUATIONS_PER_RUN = 10
LOG_EVERY = 50


def _default_data_root() -> Path | None:
    root = os.environ.get("DYNCONV_DATA")
    return Path(root) if root else None


def _words(metavar: str, default: str = "") -> object:
    """How --help shows an option that is not set by default."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"({default})" if default else "")


@dataclass(frozen=True)
class RunOptions:
    """Options that every method shares."""

    protocol: Annotated[str | None, _words("NAME")] = None
    """Known domains as SOURCE[+SOURCE...]-TARGET[@variant]: mnist-usps, mnist+usps-mnist_m, mnist-usps@adda, or
    embedded:optical, which needs no files. Give either this or --source and --target."""
    source: Annotated[tuple[str, ...], _words("NAME=DIR [NAME=DIR ...]")] = ()
    """Own labelled domains. DIR holds one folder per class or translated images called LABEL_ID_fake_B.png, or is a
    list of "path label" lines. A known domain stands by its name alone (mnist)."""
    target: Annotated[str | None, _words("NAME=DIR")] = None
    """Own target domain, or the name of a known one (usps). Its labels are used for evaluation only; a folder of images
    without folders in it, or a list of paths alone, has none."""
    classes: ClassChoice = "same"
    """What to do where the class names of own domains differ: stop ("same"), take those that all have and leave out the
    other images ("common"), or let the target lack classes of the sources ("partial")."""
    data_root: Annotated[Path | None, _words("DIR", "default: $DYNCONV_DATA")] = field(
        default_factory=_default_data_root
    )
    """Folder of the real data sets, each in its publisher's layout."""
    out: Annotated[Path | None, _words("RUN", "default: runs/PROTOCOL_METHOD_seedN")] = None
    """Run folder to write."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, dropout and the source-validation split."""
    epochs: Annotated[int | None, _words("N", f"default: {DEFAULT_EPOCHS}")] = None
    """Length of the run. An epoch is the fewest steps after which every source image was seen."""
    max_steps: Annotated[int | None, _words("N")] = None
    """Length of the run in steps, instead of --epochs."""
    batch_size: Annotated[int | None, _words("N", "default: the method's; 6 scenes")] = None
    """Images per step from the sources together, and as many from the target."""
    augmentation: Literal["auto", "none", "flip", "crop-flip"] = "auto"
    """Of the training images: mirrored ("flip"), or cut out at random, resized and mirrored ("crop-flip"); auto is
    none for images of up to 32 x 32 and crop-flip for larger ones, of driving scenes flip, or with --crop-size
    crop-flip."""
    ten_crop: bool = False
    """Judge labelled images by their four corners, the centre and the mirror images of these (224 x 224 only)."""
    image_size: Annotated[tuple[int, int] | None, _words("H W", "default: 512 1024, CamVid's own")] = None
    """Of driving scenes: height and width that images and label maps are resized to."""
    crop_size: Annotated[tuple[int, int] | None, _words("H W", "default: whole scenes")] = None
    """Of driving scenes: height and width of a random part of each that is trained on."""
    eval_window: Annotated[tuple[int, int] | None, _words("H W", "default: whole scenes")] = None
    """Of driving scenes: height and width of the overlapping windows that are judged one at a time, to save memory;
    where they overlap, the scores are averaged."""
    full_resolution: bool = False
    """Of driving scenes: judge at the size of the label files; by default at that of the images."""
    stylised: Annotated[Path | None, _words("DIR", "default: none")] = None
    """Of gta5: a folder of images in another style, under the originals' names, to train on in their place. What tells
    the run from others is the folder's own name, not where it lies."""
    source_limit: Annotated[int | None, _words("N", "default: all")] = None
    """At most this many training images per source; classes keep their shares, every seed uses the same ones."""
    target_limit: Annotated[int | None, _words("N", "default: all")] = None
    """At most this many unlabelled training images of the target; every seed uses the same ones."""
    pseudo_labels_from: Annotated[Path | None, _words("RUN", "default: none")] = None
    """Self-training: a finished run of the same target and classes. The target's training images that its network is
    surer of than --pseudo-confidence join the sources, with the classes that it gives them, as one more source (DRT,
    section 4.3). They are predicted once, at the start, and kept in pseudo_labels.json."""
    pseudo_confidence: float = PSEUDO_CONFIDENCE
    """Of --pseudo-labels-from: images are taken whose highest probability is greater than this."""
    pseudo_checkpoint: CheckpointName = "last"
    """Of --pseudo-labels-from: the run's last checkpoint, or the one that a rule without target labels chose."""
    pseudo_labels_of: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """What --pseudo-labels-from held when the run was configured: method, hash of the configuration without task and
    seed, and its whole hash. `TrainConfig` fills it in."""
    eval_every: Annotated[int | None, _words("N", f"default: {EVALUATIONS_PER_RUN} evaluations per run")] = None
    """Steps between evaluations. The last step is always evaluated."""
    validator: ValidatorName = VALIDATOR
    """What the column "label-free" selects by, looking at no label of the target. Every evaluation has them all."""
    checkpoint_every: Annotated[int | None, _words("N", "default: at every evaluation")] = None
    """Steps between checkpoints."""
    log_every: Annotated[
        int | None, _words("N", f"default: {LOG_EVERY}, in shorter runs {EVALUATIONS_PER_RUN} rows per run")
    ] = None
    """Steps between the rows of training.jsonl: means of the losses and of all else that the method logs."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where it is available."""
    devices: int = 1
    """Number of GPUs, or of processes on a CPU, that share every batch. Under torchrun, which says it itself, leave it
    out."""
    precision: Precision = "32-true"
    """Numeric precision; 16-mixed needs CUDA."""
    accumulate: int = 1
    """Micro-batches that every batch is divided into, to save memory. What takes a whole batch (batch statistics,
    GSDA's gradient sums, class balance) then takes a micro-batch. Less is saved where one update uses what another has
    computed, as in ADDA, GAM and the Calibrator: between them the activations of all micro-batches are kept."""
    clip_norm: Annotated[float | None, _words("X", "default: none")] = None
    """Greatest norm of an update's gradient over all parameters that it steps."""
    channels_last: bool = True
    """Weights and images in channels_last (NHWC) order, which convolutions on CPUs and tensor cores want."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, for a faster step."""
    workers: Annotated[int | None, _words("N", "default: torch's threads")] = None
    """Threads of each process that decode image files."""
    prefetch: int = 2
    """Batches prepared ahead of the training, of images in files or for a GPU."""
    cache: CacheMode = "auto"
    """Where decoded image files are kept: in memory, in a file of the cache folder ($DYNCONV_CACHE) that later runs
    read too, or nowhere ("none": decoded each time); auto is memory up to 1 GiB a split, and none above."""
    skip_bad: bool = False
    """Look through all image files before the training and leave out, named and counted in skipped.json, those that
    cannot be read. Without it the first of them stops the run."""
    resume: Literal["auto", "never"] = "auto"
    """auto goes on from the run folder's checkpoint if there is one; never insists on a new run folder."""
    config: Annotated[Path | None, _words("FILE")] = None
    """A run's config.yaml to start from; other flags override it."""

    def __post_init__(self) -> None:
        # A whole number, of Python's, is the same run as the float that a file brings back.
        for name in ("pseudo_confidence", "clip_norm"):
            if isinstance(value := getattr(self, name), int):
                object.__setattr__(self, name, float(value))
        own = bool(self.source) or self.target is not None
        if self.protocol is not None and own:
            raise ValueError(
                f"--protocol {self.protocol} and --source/--target contradict each other: give one of the two"
            )
        if self.protocol is not None and self.classes != "same":
            raise ValueError(
                f"--classes {self.classes} is for own domains (--source, --target); --protocol {self.protocol} has its "
                "published classes"
            )
        if own and not (self.source and self.target is not None):
            missing, given = ("--target", "--source") if self.source else ("--source", "--target")
            raise ValueError(f"{missing} is missing: {given} was given, and own domains need both, each as NAME=DIR")
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError(
                f"--epochs {self.epochs} and --max-steps {self.max_steps} contradict each other: give one of the two"
            )
        for name in (
            "epochs",
            "max_steps",
            "batch_size",
            "source_limit",
            "target_limit",
            "eval_every",
            "checkpoint_every",
            "log_every",
            "devices",
            "accumulate",
            "workers",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in SIZES:
            # A configuration read from a file brings its tuples as lists.
            if isinstance(size := getattr(self, name), list):
                object.__setattr__(self, name, tuple(size))
            if size is not None and (len(size) != 2 or min(size) < 1):
                given = " ".join(map(str, size))
                raise ValueError(f"--{name.replace('_', '-')}: expected a height and a width above 0, got {given}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be in [0, 2**32), got {self.seed}")
        if self.clip_norm is not None and not (0 < self.clip_norm < float("inf")):
            raise ValueError(f"--clip-norm must be more than 0 and finite, got {self.clip_norm}")
        if self.prefetch < 0:
            raise ValueError(f"--prefetch must be at least 0, got {self.prefetch}")
        if not 0 <= self.pseudo_confidence < 1:
            raise ValueError(f"--pseudo-confidence must be in [0, 1), got {self.pseudo_confidence}")
        if self.pseudo_labels_from is None:
            for name in ("pseudo_confidence", "pseudo_checkpoint", "pseudo_labels_of"):
                if (value := getattr(self, name)) != getattr(RunOptions, name):
                    raise ValueError(
                        f"--{name.replace('_', '-')} {value} has no use without --pseudo-labels-from RUN: give both or "
                        "neither"
                    )

    def require_data(self) -> None:
        """Raise a ValueError where neither a protocol nor own domains are named."""
        if self.protocol is None and self.target is None:
            raise ValueError(
                "no data was named: give --protocol NAME (such as embedded:optical, which needs no files, or "
                "mnist-usps), or --source NAME=DIR ... --target NAME=DIR"
            )

    @property
    def style(self) -> str | None:
        """What counts of `stylised`: the folder's own name; None where there is none."""
        return None if self.stylised is None else self.stylised.name

    @property
    def pseudo_labels_kind(self) -> str | None:
        """`pseudo_labels_of` without what tells the other run's task and seed; None where there are none."""
        return None if self.pseudo_labels_of is None else self.pseudo_labels_of.rpartition(" ")[0]

    @property
    def task(self) -> str:
        """The protocol's name, or the same form made of the own domains' names. ValueError as `require_data`."""
        self.require_data()
        if self.protocol is not None:
            return self.protocol
        names = ["+".join(source.partition("=")[0] for source in self.source), str(self.target).partition("=")[0]]
        return "-".join(names)


def absolute_paths(run: RunOptions) -> RunOptions:
    """`run` with --data-root, --stylised, --pseudo-labels-from and the folders of own domains made absolute, so that a
    run folder can be used from another directory."""

    def absolute(spec: str) -> str:
        name, equals, path = spec.partition("=")
        # Anything else is left as it is, for the data's own message about the form.
        return f"{name}={Path(path).expanduser().absolute()}" if equals and path else spec

    return dataclasses.replace(
        run,
        data_root=None if run.data_root is None else run.data_root.expanduser().absolute(),
        stylised=None if run.stylised is None else run.stylised.expanduser().absolute(),
        pseudo_labels_from=None if run.pseudo_labels_from is None else run.pseudo_labels_from.expanduser().absolute(),
        source=tuple(absolute(s) for s in run.source),
        target=None if run.target is None else absolute(run.target),
    )

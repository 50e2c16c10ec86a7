"""Open a run again after training: its network at a checkpoint, and what that makes of a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynconv.data import Protocol, Split, parse_spec
from dynconv.engine.checkpoint import WEIGHTS, check_configuration, check_weights, load_checkpoint
from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.loading import check_skipped, load_domains, training_domains
from dynconv.engine.processes import make_fabric
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import CheckpointName, Device, Precision
from dynconv.engine.scoring import CROPS, Scoring, evaluating
from dynconv.methods import METHODS, Method
from dynconv.methods.calibrator import CalibratorMethod
from dynconv.models import DomainName
from dynconv.models.weights import weights_left_out


@dataclass(frozen=True)
class LoadedRun:
    """A run's method with the weights of one checkpoint, ready to predict."""

    config: TrainConfig
    """As the run was trained."""
    folder: RunFolder
    """Where it lies; nothing here writes to it."""
    method: Method
    """In evaluation mode, on the device of `scoring`."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the scores."""
    scoring: Scoring
    """Device, precision, size and normalisation of what the method is fed."""
    step: int
    """Training steps that the checkpoint has seen."""
    root: Path | None
    """Folder of the real data sets."""
    checkpoint: CheckpointName
    """Which of the run's checkpoints."""
    image_size: tuple[int, int] | None
    """Height and width that the run's images had; None for a checkpoint of an earlier version."""

    def protocol(self) -> Protocol:
        """The run's own domains, each with all its images.

        Raises:
            DataError: Data missing, or others than the run was trained on.
        """
        run = dataclasses.replace(self.config.run, data_root=self.root)
        protocol = load_domains(dataclasses.replace(self.config, run=run))
        if run.skip_bad:
            check_skipped(self.folder, protocol.skipped)
        return protocol

    def domains(self) -> tuple[Protocol, tuple[Split, ...]]:
        """The run's own domains, and the images held out of each source's training split, as training saw them.

        Raises:
            DataError: As `protocol`.
        """
        return training_domains(self.config, self.protocol())


def load_run(
    path: Path,
    *,
    checkpoint: CheckpointName = "last",
    device: Device = "auto",
    precision: Precision | None = None,
    data_root: Path | None = None,
) -> LoadedRun:
    """Open a run at a checkpoint, finished or not.

    Args:
        path: The run folder.
        checkpoint: "last", or the one that a validator chose.
        device, precision: Where and how to compute; None for the run's own precision.
        data_root: Folder of the real data sets; None for the one of training.

    Raises:
        ValueError: No run there, no whole checkpoint of its configuration, or a device that is not there.
    """
    folder = RunFolder(path)
    if not folder.config.exists():
        raise ValueError(f"{path} is no run folder: there is no {folder.config}")
    config = load_config(folder.config)
    run = dataclasses.replace(config.run, device=device, devices=1, precision=precision or config.run.precision)
    fabric = make_fabric(run)
    weights = folder.checkpoint(checkpoint)
    # On the CPU, whatever the device: the optimisers' moments, twice the weights and more, are not asked for.
    state = load_checkpoint(weights, required=WEIGHTS)
    check_configuration(weights, state, config)
    classes = tuple(state["classes"])
    # The weights the training began with are in no need of being there: the checkpoint's take their place.
    with weights_left_out():
        method = METHODS[config.method].for_task(config.options, len(classes), _num_sources(config))
    check_weights(weights, state["method"], method)
    method.load_state_dict(state["method"])
    fabric.to_device(method)
    scoring = Scoring(fabric.device, fabric.autocast, config.network_input)
    root = data_root if data_root is not None else config.run.data_root
    # Earlier versions did not write it down, nor label pixels.
    height, width = state.get("image_size", (None, None))
    size = None if height is None else (height, width)
    return LoadedRun(config, folder, method.eval(), classes, scoring, state["step"], root, checkpoint, size)


def seen_size(run: LoadedRun, asked: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width that a network for segmentation is to see images at: `asked`, or those of its run.

    Raises:
        ValueError: Neither tells one.
    """
    size = asked or run.image_size
    if size is None:
        raise ValueError(
            f"--image-size: the checkpoint of {run.folder.path} does not tell the size of its images; give H W"
        )
    return size


def check_whole_images(run: LoadedRun, figure: str) -> None:
    """Raise a ValueError where a run's network labels every pixel, of which `figure` does not show anything."""
    if run.config.network_input.labels == "pixel":
        raise ValueError(
            f"RUN {run.folder.path}: {figure} is for networks that give an image one class, and "
            f"{run.config.options.backbone} labels every pixel; `dynconv plot scenes` draws what it makes of images"
        )


def calibrator_method(run: LoadedRun) -> CalibratorMethod:
    """The method of a run of calibrator.

    Raises:
        ValueError: It is of another method.
    """
    if not isinstance(run.method, CalibratorMethod):
        raise ValueError(
            f"RUN {run.folder.path} is a run of {run.config.method}, which has no calibrator; give one of `dynconv "
            "train calibrator`"
        )
    return run.method


def calibrating(run: LoadedRun) -> CalibratorMethod:
    """The method of a run of calibrator whose adaptation has begun.

    Raises:
        ValueError: It is of another method, or its checkpoint is of the classifier alone.
    """
    method = calibrator_method(run)
    if not method.calibrating:
        raise ValueError(
            f"RUN {run.folder.path}: its checkpoint {run.checkpoint} (step {run.step}) is from before the calibrator's "
            "first step, where the classifier learns the source; go on with the training, or give another --checkpoint"
        )
    return method


def source_images(protocol: Protocol, held_out: Sequence[Split]) -> list[tuple[str, Split]]:
    """Names of sources, and the images that measure them: the test images of those that have some; where none has, the
    images held out of each one's training split. It is the rule by which reports read a run's rows.

    Args:
        protocol, held_out: As `LoadedRun.domains` gives them.
    """
    tested = [(domain.name, domain.test) for domain in protocol.sources if domain.test is not None]
    return tested or [(domain.name, held) for domain, held in zip(protocol.sources, held_out, strict=True)]


def _num_sources(config: TrainConfig) -> int:
    """How many sources a run has: those that its options name, and the images with pseudo labels."""
    run = config.run
    named = len(run.source if run.protocol is None else parse_spec(run.protocol)[0])
    return named + (run.pseudo_labels_from is not None)


class Dump(NamedTuple):
    """What a network makes of the N images of a split, in their order; all on the CPU."""

    features: Tensor
    """float32 (N, F): what the classifiers see; with ten crops their mean."""
    scores: Tensor
    """float32 (N, C), as `Method.predict` and the run's crops give them: those of the accuracies."""
    labels: Tensor
    """int64 (N,)."""
    indices: Tensor
    """int64 (N,): places in the split."""


def dump(loaded: LoadedRun, split: Split, *, domain: DomainName = "target") -> Dump:
    """Features and scores of every image of `split`, computed in chunks.

    Args:
        loaded: The run.
        split: The images.
        domain: Whose they are, for networks that normalise each domain by statistics of its own.

    Raises:
        ValueError: The split holds no image.
        DataError: An image cannot be read.
    """
    if len(split) == 0:
        raise ValueError("split: it holds no image")
    ten_crop = loaded.config.run.ten_crop
    features: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        output = output.float()
        features.append((output.unflatten(0, (-1, CROPS)).mean(dim=1) if ten_crop else output).cpu())

    scores, labels = [], []
    # `predict` computes the features on its way: a second pass for them would double the work.
    handle = loaded.method.features.register_forward_hook(keep)
    try:
        with evaluating(loaded.method), loaded.method.evaluating_domain(domain):
            for chunk, own in loaded.scoring.batches(loaded.method, split, ten_crop=ten_crop):
                scores.append(chunk.cpu())
                labels.append(own.cpu())
    finally:
        handle.remove()
    return Dump(torch.cat(features), torch.cat(scores), torch.cat(labels), torch.arange(len(split)))

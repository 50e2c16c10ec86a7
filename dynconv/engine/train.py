"""From a configuration to a run that is ready: device, data, method, and the folder's last checkpoint."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric, seed_everything
from rich.console import Console
from torch import nn

from dynconv.data import DomainBatches
from dynconv.data.arrangements import with_pseudo_labels
from dynconv.distributed import rank, world_size
from dynconv.engine.config import TrainConfig
from dynconv.engine.interrupt import Interrupted
from dynconv.engine.journal import NotWritten
from dynconv.engine.loading import (
    check_skipped,
    load_domains,
    record_skipped,
    repeated_note,
    training_domains,
    unlabelled_note,
)
from dynconv.engine.meter import Diverged
from dynconv.engine.processes import OtherProcessFailed, make_fabric, process_layout, started, synchronise_norms
from dynconv.engine.pseudo_label_file import record_pseudo_labels
from dynconv.engine.pseudo_labels import check_pseudo_labels, pseudo_labels
from dynconv.engine.resume import take_up
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.scoring import Scoring
from dynconv.engine.segmentation import evaluation_of
from dynconv.engine.source_run import check_source_run
from dynconv.methods import METHODS
from dynconv.models.features import use_memory_format

__all__ = [
    "Diverged",
    "Interrupted",
    "NotWritten",
    "OtherProcessFailed",
    "Refused",
    "Run",
    "load_domains",
    "make_fabric",
    "open_folder",
    "prepare",
    "train",
    "train_in",
]


class Refused(ValueError):  # noqa: N818 - reads as what happened
    """Options, data or the run folder do not fit; nothing was trained."""


def train(config: TrainConfig, *, console: Console | None = None) -> RunFolder:
    """Train one run to its end, going on from its folder's checkpoint if there is one.

    Args:
        config: The run.
        console: Where progress goes; standard error by default.

    Returns:
        The finished run's folder (at once, if it was finished before).

    Raises:
        ValueError: Before the first step, for options, data or a run folder that do not fit.
        DataError: An image that is read when its turn comes cannot be.
        Interrupted: On Ctrl-C or SIGTERM, after a checkpoint.
        Diverged: A loss is no longer finite.
        NotWritten: The run folder cannot be written to any more.
        OtherProcessFailed: Another process of this run did, and said why.
    """
    folder = open_folder(config)
    if folder.read_done() is None:
        train_in(folder, config, make_fabric(config.run), console=console)
    return folder


def train_in(folder: RunFolder, config: TrainConfig, fabric: Fabric, *, console: Console | None = None) -> None:
    """Train a run that is not finished in its folder (`open_folder`), starting the processes of `fabric`.

    Raises:
        Refused: Before the first step, as `prepare`.
        DataError, Interrupted, Diverged, NotWritten, OtherProcessFailed: As `train`.
    """
    with started(fabric):
        try:
            run = prepare(config, folder, fabric)
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from error
        run.fit(console)


def open_folder(config: TrainConfig) -> RunFolder:
    """The run's folder, which may not exist yet.

    Raises:
        ValueError: It cannot hold this run, no data are named, or the batch cannot be divided.
    """
    folder = RunFolder(config.out)
    config.run.require_data()
    check_pseudo_labels(config)
    parts = process_layout(config.run).total * config.run.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"--batch-size {config.batch_size}: it is divided among {parts // config.run.accumulate} processes and "
            f"{config.run.accumulate} micro-batches (--accumulate), so give a multiple of {parts}"
        )
    folder.claim(config)
    return folder


def prepare(config: TrainConfig, folder: RunFolder, fabric: Fabric) -> Run:
    """Load the data, build the method, go back to the folder's last checkpoint if there is one, and open the folder.

    The folder is not written to before everything else was found in order.

    Args:
        config: The run.
        folder: `open_folder(config)`.
        fabric: `make_fabric(config.run)`, its processes started.

    Raises:
        ValueError: Options, data, or the folder's checkpoint do not fit, or the folder cannot be read and written.
    """
    training, held_out = training_domains(config, load_domains(config))
    if config.run.skip_bad:
        check_skipped(folder, training.skipped)
    pseudo = pseudo_labels(config, folder, training.target, fabric)
    # What is trained on: what is measured knows nothing of pseudo labels.
    drawn = training if pseudo is None else with_pseudo_labels(training, pseudo.indices, pseudo.labels)
    seed_everything(config.run.seed, verbose=False)
    method = METHODS[config.method].for_task(config.options, training.num_classes, len(drawn.sources))
    method.check_classes(training.classes)
    check_source_run(config)
    synchronise_norms(method, fabric.device)
    fabric.to_device(method)
    use_memory_format(method, torch.channels_last if config.run.channels_last else torch.contiguous_format)
    parts = world_size() * config.run.accumulate
    if config.batch_size == parts and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.modules()):
        raise ValueError(
            f"--batch-size {config.batch_size}: batch normalisation needs at least 2 images of each domain in each of "
            f"{parts} parts"
        )
    if config.run.compile:
        method.features.compile()
    if rank():
        # The weights are the same in every process, dropout's masks are not.
        torch.manual_seed(config.run.seed + 2**32 * rank())
    batches = DomainBatches(
        drawn,
        batch_size=config.batch_size,
        seed=config.run.seed,
        device=fabric.device,
        class_balanced=method.class_balanced,
        augmentation=config.augmentation,
        normalisation=config.network_input.normalisation,
        rank=rank(),
        world_size=world_size(),
        prefetch=config.run.prefetch,
    )
    scoring = Scoring(fabric.device, fabric.autocast, config.network_input)
    evaluation = evaluation_of(config, training, held_out, scoring)
    run = Run(config, folder, fabric, method, batches, evaluation)
    if run.max_steps > 1 and (note := repeated_note(drawn, config.batch_size)) is not None:
        # A run of one step matches, or imports, and trains on no batch.
        run.notices.append(note)
    method.check_run(max_steps=run.max_steps, micro_batch=config.batch_size // config.run.accumulate)
    if method.supervised_by_target:
        few = config.options.few_labels
        labels = f"{few} of the labels" if few else "the labels"
        run.notes.append(
            f"{config.method} is a bound: it trains on {labels} of {training.target.name} and looks at no source"
        )
    if (note := unlabelled_note(training)) is not None:
        run.notes.append(note)
    if pseudo is not None:
        run.notes.append(f"pseudo labels of {config.run.pseudo_labels_from}: {pseudo.summary()}")
    take_up(run)
    if config.run.skip_bad:
        record_skipped(folder, training.skipped)
    if pseudo is not None:
        record_pseudo_labels(folder, pseudo)
        if run.step == 0:
            # Once, in the first row of training.jsonl.
            run.meter.add(pseudo.logs())
    return run

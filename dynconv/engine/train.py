"""From a configuration to a run that is ready: device, data, method, and the folder's last checkpoint."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric, seed_everything
from rich.console import Console
from torch import nn

from dynconv.data import DomainBatches, Protocol, load_protocol, source_validation_split
from dynconv.engine.checkpoint import STATE, load_checkpoint
from dynconv.engine.config import RunOptions, TrainConfig
from dynconv.engine.environment import environment
from dynconv.engine.evaluation import Evaluation, Scoring
from dynconv.engine.interrupt import Interrupted
from dynconv.engine.progress import Diverged
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.methods import METHODS

__all__ = ["Diverged", "Interrupted", "Run", "open_folder", "prepare", "train"]


def train(config: TrainConfig, *, console: Console | None = None) -> RunFolder:
    """Train one run to its end, going on from its folder's checkpoint if there is one.

    Args:
        config: The run.
        console: Where progress goes; standard error by default.

    Returns:
        The finished run's folder (at once, if it was finished before).

    Raises:
        ValueError: Before the first step, for options, data or a run folder that do not fit.
        Interrupted: On Ctrl-C or SIGTERM, after a checkpoint.
        Diverged: A loss is no longer finite.
    """
    folder = open_folder(config)
    if folder.read_done() is None:
        prepare(config, folder).fit(console)
    return folder


def open_folder(config: TrainConfig) -> RunFolder:
    """The run's folder, which may not exist yet. ValueError where it cannot hold this run, or no data are named."""
    folder = RunFolder(config.out)
    config.run.require_data()
    folder.claim(config, METHODS)
    return folder


def prepare(config: TrainConfig, folder: RunFolder) -> Run:
    """Load the data, build the method, go back to the folder's last checkpoint if there is one, and open the folder.

    The folder is not written to before everything else was found in order.

    Raises:
        ValueError: Options, data, or the folder's checkpoint do not fit, or the folder cannot be read and written.
    """
    fabric = make_fabric(config.run)
    training, held_out = source_validation_split(load_domains(config), config.run.seed)
    seed_everything(config.run.seed, verbose=False)
    method = METHODS[config.method](config.options, training.num_classes)
    fabric.to_device(method)
    # The batches are NHWC; weights of the same layout spare the convolutions a copy.
    method.to(memory_format=torch.channels_last)
    if config.batch_size == 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.modules()):
        raise ValueError("--batch-size 1: batch normalisation needs at least 2 images of each domain")
    batches = DomainBatches(
        training,
        batch_size=config.batch_size,
        seed=config.run.seed,
        device=fabric.device,
        class_balanced=method.class_balanced,
        augmentation=config.augmentation,
        normalisation=config.network_input.normalisation,
    )
    scoring = Scoring(fabric.device, fabric.autocast, config.network_input)
    evaluation = Evaluation(training, held_out, scoring, config.run.ten_crop)
    run = Run(config, folder, fabric, method, batches, evaluation)
    if folder.last.exists():
        run.load_state(load_checkpoint(folder.last, fabric.device, required=STATE))
    folder.open(config, environment(), run.step)
    return run


def load_domains(config: TrainConfig) -> Protocol:
    """The domains that the options name, in the size that the backbone takes."""
    run = config.run
    return load_protocol(
        run.protocol,
        source=list(run.source) or None,
        target=run.target,
        data_root=run.data_root,
        image_size=config.network_input.image_size,
        source_limit=run.source_limit,
        target_limit=run.target_limit,
    )


def make_fabric(run: RunOptions) -> Fabric:
    """Device and precision of a run.

    Raises:
        ValueError: CUDA is asked for and not available, or 16-mixed without CUDA.
    """
    cuda = torch.cuda.is_available()
    if run.device == "cuda" and not cuda:
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise ValueError(f"--device cuda: {why}; use --device cpu (or auto)")
    device = "cuda" if cuda and run.device != "cpu" else "cpu"
    if run.precision == "16-mixed" and device == "cpu":
        raise ValueError("--precision 16-mixed needs CUDA and this run is on the CPU; use 32-true or bf16-mixed")
    return Fabric(accelerator=device, devices=1, precision=run.precision)

"""Devices, precision and processes of a run: one process, `--devices N` of them, or those that torchrun started."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynconv.distributed import all_mean, barrier, world_size
from dynconv.engine.launch import exit_words
from dynconv.engine.run_options import RunOptions

# Steps between two looks at whether a process was told to stop: on a GPU each of them waits for the device.
AGREE_EVERY = 10
# Seconds to wait for the end of a process that seems to have failed: Python's own end takes one or two.
PATIENCE = 5.0


class Layout(NamedTuple):
    """How many processes there are, before they are started."""

    per_node: int
    nodes: int

    @property
    def total(self) -> int:
        return self.per_node * self.nodes


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def process_layout(run: RunOptions) -> Layout:
    """The processes of a run: torchrun's, where it started this one, else `--devices` on this machine.

    Raises:
        ValueError: `--devices` contradicts torchrun.
    """
    if not under_torchrun():
        return Layout(run.devices, 1)
    per_node, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if run.devices not in (1, per_node):
        raise ValueError(
            f"--devices {run.devices}: torchrun started {per_node} processes on this machine; leave --devices out"
        )
    return Layout(per_node, total // per_node)


def make_fabric(run: RunOptions) -> Fabric:
    """Device, precision and, where there are several, the strategy of the processes, which are not started yet.

    Raises:
        ValueError: CUDA is asked for and not available, more GPUs than there are, or 16-mixed without CUDA.
    """
    cuda = torch.cuda.is_available()
    if run.device == "cuda" and not cuda:
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise ValueError(f"--device cuda: {why}; use --device cpu (or auto)")
    device = "cuda" if cuda and run.device != "cpu" else "cpu"
    if run.precision == "16-mixed" and device == "cpu":
        raise ValueError("--precision 16-mixed needs CUDA and this run is on the CPU; use 32-true or bf16-mixed")
    layout = process_layout(run)
    if device == "cuda" and layout.per_node > torch.cuda.device_count():
        raise ValueError(f"--devices {layout.per_node}: torch sees {torch.cuda.device_count()} CUDA devices")
    if layout.total == 1:
        return Fabric(accelerator=device, devices=1, precision=run.precision)
    return Fabric(
        accelerator=device, devices=layout.per_node, num_nodes=layout.nodes, precision=run.precision, strategy="ddp"
    )


@contextmanager
def started(fabric: Fabric) -> Iterator[Fabric]:
    """`fabric` with its processes started, each of which runs the same command from its beginning.

    At the end the processes wait for each other. Where this one fails, those that it started are killed: they would
    wait for it in a collective for half an hour.

    Raises:
        OtherProcessFailed: This process failed because one that it started did.
    """
    # Fabric's remarks on the rendezvous would stand among the lines of the progress.
    for package in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(package).setLevel(logging.WARNING)
    fabric.launch()
    started_here: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    try:
        yield fabric
        barrier()
    except BaseException as error:
        children = list(started_here)
        # Fabric watches this very list, and kills this process too where one of the others failed.
        started_here.clear()
        failed = _failed(children) if _is_a_broken_connection(error) else None
        for child in children:
            child.kill()
            child.wait()
        if failed is not None:
            raise OtherProcessFailed(*failed) from error
        raise
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    for child in started_here:
        # Not here: a script may go on to train another run with the same processes.
        atexit.register(child.wait)


class OtherProcessFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """Process `rank` ended with the exit code `code` and said why, or was killed by the signal -`code`; `exit_code` is
    this command's own."""

    def __init__(self, rank: int, code: int) -> None:
        self.rank, self.code = rank, code
        self.exit_code = max(code, 1)
        # The kernel kills where memory runs out, and the process can say nothing.
        how = (
            f"was {exit_words(code)}, by hand or for want of memory; the same command goes on from the last checkpoint"
            if code < 0
            else f"ended with the {exit_words(code)}; what it said stands above"
        )
        super().__init__(f"process {rank} {how}")


def _is_a_broken_connection(error: BaseException) -> bool:
    """Whether an error may come of another process's end: gloo raises a plain RuntimeError, we none."""
    return type(error) is RuntimeError or isinstance(error, dist.DistError)


def _failed(children: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    """Number and exit code of a process that failed, of those that this one started; None where none did.

    A process that fails closes its connections, of which the others hear before it has ended.
    """
    deadline = time.monotonic() + PATIENCE
    while children and time.monotonic() < deadline:
        for number, child in enumerate(children, start=1):
            if child.poll():
                return number, child.returncode
        time.sleep(0.05)
    return None


def synchronise_norms(method: nn.Module, device: torch.device) -> None:
    """Let batch normalisation see the batches of all processes, which torch can do on GPUs alone."""
    if world_size() > 1 and device.type == "cuda":
        # Every module but a batch normalisation itself is changed in place.
        nn.SyncBatchNorm.convert_sync_batchnorm(method)


def running_statistics(method: nn.Module) -> list[Tensor]:
    """The running statistics that each process collects from its own share alone; none in a single process."""
    if world_size() == 1:
        return []
    return [
        buffer
        for module in method.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


@torch.no_grad()
def average(buffers: Sequence[Tensor]) -> None:
    """Replace each buffer by its mean over the processes."""
    if buffers:
        means = all_mean(torch.cat([buffer.reshape(-1) for buffer in buffers]))
        for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

"""Checkpoint files, and the state of the random number generators.

A file is what `torch.save` wrote, followed by one line with the number of the format and the SHA-256 of all before it.
`torch.load` reads it as any other, and one that was cut off or changed by a bit is known before anything of it is used.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynconv.distributed import rank, world_size
from dynconv.engine.config import TrainConfig
from dynconv.engine.durable import put_in_place, temporary_of

# Another number for other contents than `STATE`.
FORMAT = 1
# What evaluating takes of a checkpoint, and what going on with the training takes.
WEIGHTS = ("config_hash", "config", "classes", "step", "method")
STATE = (*WEIGHTS, "seconds", "best", "optimisers", "precision", "batches", "meter", "random")

_SEAL = re.compile(rb"\ndynconv checkpoint ([0-9]{4}) ([0-9a-f]{64})\n")
_SEAL_BYTES = len("\ndynconv checkpoint 0001 \n") + 64
_CHUNK = 2**20


class UnusableCheckpoint(ValueError):
    """A file that is no whole checkpoint of this run: `reason` tells the file and why."""

    def __init__(self, path: Path, why: str) -> None:
        self.reason = f"{path} {why}"
        super().__init__(f"{self.reason}; put the run's own file back, or choose another checkpoint")


def save_checkpoint(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write `state` so that `path` is at every moment either the old file or the whole new one.

    With `keep`, the old file goes on under that name.

    Raises:
        OSError: The file cannot be written; `path` is the old one.
    """
    temporary = temporary_of(path)
    with temporary.open("w+b") as file:
        _save(state, file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(b"\ndynconv checkpoint %04d %s\n" % (FORMAT, digest.encode()))
        file.flush()
        os.fsync(file.fileno())
    if keep is not None and path.exists():
        _keep(path, keep)
    put_in_place(temporary, path)


def _save(state: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # Of a full disk torch says at last that a position was not expected.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _keep(path: Path, keep: Path) -> None:
    """Give the file `path` the name `keep` too."""
    temporary = temporary_of(keep)
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        # A file system without hard links: until the new file is in place, there is `keep` alone.
        path.replace(keep)
        return
    temporary.replace(keep)
    # Where both were names of one file already, after a kill, the rename did nothing.
    temporary.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", *, required: Collection[str] = ()
) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers, strings and containers of these; no code of the file is run.

    Raises:
        UnusableCheckpoint: A ValueError: the file is missing, is not whole, is no checkpoint, is of another version of
            the format, or lacks one of the `required` keys.
    """
    if not path.is_file():
        raise UnusableCheckpoint(
            path, "is not there: there is no checkpoint of this name (the run has not come so far?)"
        )
    try:
        with path.open("rb") as file:
            if (problem := _broken_seal(file)) is not None:
                raise UnusableCheckpoint(path, problem)
            state = torch.load(file, map_location=device, weights_only=True)
    except UnusableCheckpoint:
        raise
    except Exception as error:
        raise UnusableCheckpoint(path, f"cannot be read as a checkpoint ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise UnusableCheckpoint(path, f"is no checkpoint of a run: it holds a {type(state).__name__}")
    if missing := [key for key in required if key not in state]:
        raise UnusableCheckpoint(path, f"is no checkpoint of a run: it lacks {', '.join(missing)}")
    return state


def is_sealed(path: Path) -> bool:
    """Whether the file `path` has a checkpoint's end; a look at its last bytes that tells a file cut off, not one that
    was changed."""
    with path.open("rb") as file:
        return _seal(file) is not None


def step_of(path: Path) -> int:
    """The step of a checkpoint with its end in place, of which no tensor is read. UnusableCheckpoint otherwise."""
    if not is_sealed(path):
        raise UnusableCheckpoint(path, "was cut off")
    try:
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["step"])
    except Exception as error:
        raise UnusableCheckpoint(path, f"cannot be read as a checkpoint ({type(error).__name__}: {error})") from error


def _seal(file: IO[bytes]) -> tuple[int, str, int] | None:
    """Format, digest and the bytes before them; None where the file does not end so."""
    size = file.seek(0, os.SEEK_END)
    if size < _SEAL_BYTES:
        return None
    file.seek(size - _SEAL_BYTES)
    found = _SEAL.fullmatch(file.read())
    return None if found is None else (int(found[1]), found[2].decode(), size - _SEAL_BYTES)


def _broken_seal(file: IO[bytes]) -> str | None:
    """What is wrong with the file as a whole, or None; leaves it at its beginning."""
    seal = _seal(file)
    if seal is None:
        return "cannot be read as a checkpoint: it was cut off, or is no checkpoint of dynconv (its end is missing)"
    number, expected, size = seal
    if number != FORMAT:
        return f"is a checkpoint of format {number}, and this dynconv reads format {FORMAT}: use the one that wrote it"
    file.seek(0)
    digest = hashlib.sha256()
    while size and (chunk := file.read(min(_CHUNK, size))):
        digest.update(chunk)
        size -= len(chunk)
    file.seek(0)
    if digest.hexdigest() != expected:
        return "cannot be read as a checkpoint: it is damaged (its contents do not fit its SHA-256)"
    return None


def check_configuration(path: Path, state: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise UnusableCheckpoint where `state`, read from `path`, is of another configuration.

    Static weights load into a dynamic network, so that a foreign checkpoint would give figures.
    """
    if lines := config.mismatches(state["config"]):
        raise UnusableCheckpoint(
            path,
            f"is of the configuration {state['config_hash']}, and config.yaml is {config.hash} (there -> here: "
            f"{_few(lines)}): one of the two was edited or is of another run",
        )


def check_weights(path: Path, state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Raise UnusableCheckpoint where the tensors `state`, read from `path`, are not those of `module`."""
    expected = module.state_dict()
    if problem := _misfit(
        {name: tuple(value.shape) for name, value in state.items()},
        {name: tuple(value.shape) for name, value in expected.items()},
    ):
        raise UnusableCheckpoint(path, f"does not fit the method's networks: {problem}")


def check_optimisers(
    path: Path, states: Mapping[str, Mapping[str, Any]], optimisers: Mapping[str, torch.optim.Optimizer]
) -> None:
    """Raise UnusableCheckpoint where `states`, read from `path`, are not those of `optimisers`."""
    if problem := _misfit(dict.fromkeys(states), dict.fromkeys(optimisers)):
        raise UnusableCheckpoint(path, f"does not fit the method's optimisers: {problem}")
    for name, optimiser in optimisers.items():
        groups = [len(group["params"]) for group in states[name]["param_groups"]]
        expected = [len(group["params"]) for group in optimiser.param_groups]
        if groups != expected:
            problem = f"groups of {groups} parameters in it, of {expected} here"
            raise UnusableCheckpoint(path, f"does not fit the optimiser {name}: {problem}")
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for place, moments in states[name]["state"].items():
            for key, value in moments.items():
                # Adam's count of steps has no dimension.
                if isinstance(value, Tensor) and value.dim() and value.shape != parameters[place].shape:
                    shapes = f"{tuple(value.shape)} in it, {tuple(parameters[place].shape)} here"
                    raise UnusableCheckpoint(path, f"does not fit the optimiser {name}: {key} {place} is {shapes}")


def _misfit(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """The first few names that one alone has, or with different values; None where there are none."""
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is unknown" for name in found if name not in expected]
    lines += [
        f"{name} is {found[name]} in it, {value} here"
        for name, value in expected.items()
        if name in found and found[name] != value
    ]
    return _few(lines) if lines else None


def _few(lines: Sequence[str]) -> str:
    return ", ".join(lines[:5]) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")


def random_state() -> dict[str, Any]:
    """States of this process's global generators of Python, NumPy, torch and every CUDA device."""
    _, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(key).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def random_states() -> list[dict[str, Any]]:
    """`random_state()` of every process, by rank; all of them must call this."""
    own = random_state()
    if world_size() == 1:
        return [own]
    states: list[dict[str, Any]] = [{} for _ in range(world_size())]
    dist.all_gather_object(states, own)
    return states


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` gave; of CUDA devices as many as are both in it and here."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    key, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", key.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, each in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(each.cpu(), device)


def set_random_states(states: Sequence[dict[str, Any]], device: torch.device) -> list[str]:
    """Restore this process's part of what `random_states` gave.

    Args:
        states: By rank.
        device: Where the run computes.

    Returns:
        A line for each way in which dropout goes on otherwise than in the run that was stopped. A process that has no
        state in `states` stays as it is.
    """
    notes = []
    if len(states) != world_size():
        notes.append(
            f"the checkpoint is of {len(states)} processes and this is one of {world_size()}: dropout goes on with "
            "other masks than in a run never stopped"
        )
    if rank() >= len(states):
        return notes
    own = states[rank()]
    set_random_state(own)
    if device.type == "cuda" and len(own["cuda"]) != torch.cuda.device_count():
        notes.append(
            f"the checkpoint has the generators of {len(own['cuda'])} CUDA devices and this machine has "
            f"{torch.cuda.device_count()}: dropout goes on with other masks than in a run never stopped"
        )
    return notes

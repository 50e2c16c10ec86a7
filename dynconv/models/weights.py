"""Weights from a file, or torchvision's for ImageNet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# What trainers wrap a state_dict in, and what DistributedDataParallel, torch.compile and released DRT, of
# whose network the backbone is a part, put before each name.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "features.")
CLASSIFIERS = ("fc.", "classifier.")

_LEFT_OUT = ContextVar("weights left out", default=False)


@contextlib.contextmanager
def weights_left_out() -> Iterator[None]:
    """Networks that are built within the context read no weights, whatever their configuration says: those of a
    checkpoint take their place, and the file that the training began with need not be there."""
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def are_left_out() -> bool:
    """Whether `weights_left_out` is in force."""
    return _LEFT_OUT.get()


def imagenet_state(name: str) -> dict[str, Tensor]:
    """torchvision's IMAGENET1K_V1 weights of `resnet50` or `resnet101` (the ones that the papers of 2020 began with).

    Read from torch.hub's cache, or downloaded into it.

    Raises:
        ValueError: The download failed: where it was looked for, and what to do without a network.
    """
    weights = _imagenet(name)
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except Exception as error:
        raise ValueError(
            f"weights: the ImageNet weights of {name} are not in {imagenet_file(name)} and could not be had from "
            f"{weights.url} ({type(error).__name__}: {error}). Put the file there (TORCH_HOME moves the folder), give "
            "a state_dict with --weights FILE, or start from scratch with --weights none"
        ) from error


def imagenet_file(name: str) -> Path:
    """Where torch.hub keeps the file that `imagenet_state` reads, or would."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_imagenet(name).url).name


def _imagenet(name: str) -> Any:
    from torchvision.models import ResNet50_Weights, ResNet101_Weights

    return {"resnet50": ResNet50_Weights, "resnet101": ResNet101_Weights}[name].IMAGENET1K_V1


def read_state(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file: of torch.save (no code of the file is run), or .safetensors.

    A checkpoint that holds the state_dict under "state_dict" or the like is unwrapped, and prefixes of wrappers
    ("module.", or "features." beside a classifier without it) are cut.

    Raises:
        ValueError: The file is missing, cannot be read, or holds no tensors by name.
    """
    if not path.is_file():
        raise ValueError(
            f"--weights {path}: there is no such file; expected auto, none, imagenet or a file that holds a state_dict"
        )
    try:
        found = _read(path)
    except Exception as error:
        raise ValueError(
            f"--weights {path} cannot be read ({type(error).__name__}: {error}); expected a state_dict, saved by "
            "torch.save or as .safetensors"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        what = f"a mapping with {words(list(found))}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise ValueError(f"--weights {path}: expected a state_dict (names to tensors), the file holds {what}")
    state = dict(found)
    for prefix in PREFIXES:
        if all(name.startswith((prefix, *CLASSIFIERS)) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_state(module: nn.Module, state: Mapping[str, Tensor], where: str) -> list[str]:
    """Copy `state` into `module`; a classifier in it (`fc.*`, `classifier.*`) is left out.

    Args:
        module: The backbone.
        state: Names to tensors.
        where: Where the state is from, for the message.

    Returns:
        The names of the classifier that was left out.

    Raises:
        ValueError: Names are missing or unexpected, or shapes differ (each is listed).
    """
    own = module.state_dict()
    given = {name: value for name, value in state.items() if name in own or not name.startswith(CLASSIFIERS)}
    # Checkpoints older than torch 0.4.1 have no counter of batches; torch starts it at 0.
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "other shapes": shapes}
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {words(names)}" for fault, names in faults.items() if names)
        expected = ", ".join(list(own)[:2])
        raise ValueError(f"{where} does not fit the backbone, whose parameters are named {expected}, ...: {listed}")
    module.load_state_dict(dict(given), strict=False)
    return [name for name in state if name not in given]


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def words(names: list[str], most: int = 6) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(map(str, names[:most])) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"

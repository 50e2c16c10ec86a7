"""An encoder for each domain in the place of one, and where a trained one comes from."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dynconv.methods.config import MethodConfig
from dynconv.models import DomainName, Features, input_of

# What a branch computes by, beside what the shapes of its weights tell.
OF_BRANCHES = ("temperature", "scale_activation")


class Encoders(Features):
    """Two backbones of one shape: `source` for source images, `target` for target images.

    `domain` says which of them the next pass takes; without a word it is the target's.

    Args:
        encoder: Becomes `source`, and `target` begins as its copy.
    """

    def __init__(self, encoder: Features) -> None:
        super().__init__()
        self.source = encoder
        self.target = copy.deepcopy(encoder)
        self.domain: DomainName = "target"
        self.image_size = encoder.image_size
        self.out_features = encoder.out_features
        self.memory_format = encoder.memory_format

    def forward(self, images: Tensor) -> Tensor:
        return self.source(images) if self.domain == "source" else self.target(images)

    @torch.no_grad()
    def follow(self) -> None:
        """Make `target` what `source` is."""
        # Each by its own name in the state, running statistics and counters too.
        for own, model in zip(self.target.state_dict().values(), self.source.state_dict().values(), strict=True):
            own.copy_(model)


def load_source(networks: nn.ModuleDict, path: Path, config: MethodConfig) -> tuple[str, ...]:
    """Copy the encoder and the classifier of a run's checkpoint into `networks`, "features" and "heads", which are as
    `config` describes them.

    Returns:
        The names of the classes that the run told apart, in the order of the scores.

    Raises:
        ValueError: The file is missing, is no run's checkpoint, is of another network or of images that were
            normalised otherwise, or of a run that has seen the target's labels.
    """
    where = f"source_checkpoint {path}"
    if not path.is_file():
        raise ValueError(
            f"{where}: there is no such file; expected a checkpoint of a run on the source, such as "
            "RUN/checkpoints/last.pt"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        classes, method = tuple(found["classes"]), found["config"]["method"]
        of_branches = {
            name: found["config"].get(f"{method}.{name}", getattr(MethodConfig, name)) for name in OF_BRANCHES
        }
        weights = found["config"].get(f"{method}.weights", MethodConfig.weights)
        state = {name: value for name, value in found["method"].items() if name.startswith(tuple(networks))}
    except Exception as error:
        raise ValueError(
            f"{where} cannot be read ({type(error).__name__}); expected a checkpoint of a run on the source"
        ) from error
    if _sees_target_labels(method):
        raise ValueError(
            f"{where} is of a run of {method}, which has seen the target's labels; give one of a run on the source, "
            "such as source-only"
        )
    own = networks.state_dict()
    misfits = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    misfits += [name for name in state if name not in own]
    if misfits:
        raise ValueError(
            f"{where} is of a run of {method} with another network: {listed(misfits)} do not fit; give the backbone, "
            f"norm, bottleneck and residual of that run, whose classes are {listed(classes)}"
        )
    others = [f"{name} {value!r}" for name, value in of_branches.items() if value != getattr(config, name)]
    if others:
        raise ValueError(
            f"{where} is of a run of {method} whose coefficients are found in another way; give its {', '.join(others)}"
        )
    if input_of(config.backbone, weights) != input_of(config.backbone, config.weights):
        raise ValueError(
            f"{where} is of a run of {method} with weights {weights!r}, and with {config.weights!r} the images are "
            f"normalised otherwise than there; give weights {'none' if weights == 'none' else 'auto'!r}"
        )
    networks.load_state_dict(state)
    return classes


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _sees_target_labels(method: str) -> bool:
    # Here, for the registry holds the method that this module is a part of.
    from dynconv.methods import METHODS

    return method in METHODS and METHODS[method].supervised_by_target


@contextlib.contextmanager
def encoding(encoders: Encoders, domain: DomainName) -> Iterator[None]:
    """Within the context `encoders` takes its images for those of `domain`.

    Raises:
        ValueError: `domain` is neither "source" nor "target".
    """
    if domain not in ("source", "target"):
        raise ValueError(f"domain: expected 'source' or 'target', got {domain!r}")
    before = encoders.domain
    encoders.domain = domain
    try:
        yield
    finally:
        encoders.domain = before


@contextlib.contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Within the context all of `module` is in evaluation mode; afterwards each layer is in the mode it came in."""
    layers = [layer for layer in module.modules() if layer.training]
    module.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True

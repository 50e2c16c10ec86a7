"""An encoder for each domain in the place of one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from torch import Tensor, nn

from dynconv.models import DomainName, Features


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
        self.taps = encoder.taps

    def of(self, domain: DomainName) -> Features:
        """The backbone of a domain."""
        return self.source if domain == "source" else self.target

    def forward(self, images: Tensor) -> Tensor:
        return self.of(self.domain)(images)


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

"""What every backbone is to the code above it: images to features of an announced width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Features(nn.Module):
    """Images (B, 3, S, S) to features (B, out_features).

    Weights and images are in channels_last unless `use_memory_format` says otherwise: a training step of `lenet-small`
    on one CPU core took 94 ms with it and 137 ms without.
    """

    image_size: int
    """S, the side of the images the network is made for."""
    out_features: int
    """Width of the features."""
    taps: tuple[str, ...] = ()
    """Names (of `get_submodule`) of the modules whose outputs, maps (B, C, h, w) of any C and size or features (B, C),
    can be matched between two networks, from the images to the features."""
    memory_format: torch.memory_format = torch.channels_last
    """The order in which images and weights lie in memory."""

    def check_fixed_size(self, images: Tensor) -> None:
        """Raise a ValueError unless `images` are (B, 3, image_size, image_size), for networks with linear layers."""
        if images.dim() != 4 or images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"images: expected (B, 3, {self.image_size}, {self.image_size}), got {tuple(images.shape)}; "
                f"a {type(self).__name__} is fixed to its input size, so resize the images"
            )

    def laid_out(self, images: Tensor) -> Tensor:
        """`images` in the memory format of the weights."""
        return images.contiguous(memory_format=self.memory_format)


class WithBottleneck(Features):
    """A backbone and one linear layer after it: the bottleneck of DANN, CDAN and the methods built on them.

    The layer starts as in CDAN's release: weights N(0, 0.005), bias 0.1; nothing follows it.

    Args:
        trunk: The backbone.
        width: `out_features` of the whole.
    """

    def __init__(self, trunk: Features, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.bottleneck = nn.Linear(trunk.out_features, width)
        nn.init.normal_(self.bottleneck.weight, std=0.005)
        nn.init.constant_(self.bottleneck.bias, 0.1)
        self.image_size = trunk.image_size
        self.out_features = width
        self.taps = (*(f"trunk.{tap}" for tap in trunk.taps), "bottleneck")

    def forward(self, images: Tensor) -> Tensor:
        return self.bottleneck(self.trunk(images))


def relus(network: nn.Module) -> tuple[str, ...]:
    """Names of the ReLUs in `network`, in the order in which they were added."""
    return tuple(name for name, module in network.named_modules() if isinstance(module, nn.ReLU))


def use_memory_format(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Keep the weights of `module`, and bring the images of every backbone in it, in `memory_format`."""
    for part in module.modules():
        if isinstance(part, Features):
            part.memory_format = memory_format
    module.to(memory_format=memory_format)

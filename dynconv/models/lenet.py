"""The LeNet family: a row of convolutions, then fully connected layers, with or without batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynconv.models.features import Features


@dataclass(frozen=True)
class Stage:
    """One convolution of a `LeNet`, followed by its normalisation, ReLU and, where `pool` is set, a max pooling."""

    channels: int
    kernel_size: int
    padding: int
    pool: tuple[int, int, int] | None = None
    """Kernel size, stride and padding of the pooling."""


ConvFactory = Callable[[int, int, int, int], nn.Module]
"""`(in_channels, out_channels, kernel_size, padding)` to a convolution."""


def static_convolution(in_channels: int, out_channels: int, kernel_size: int, padding: int) -> nn.Module:
    """`nn.Conv2d`, as a `ConvFactory`."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)


# Rec. 601's luma, by which released ADDA and GAM make a colour image grey.
_LUMA = (0.2989, 0.587, 0.114)


class LeNet(Features):
    """Features of square colour images. Its ReLUs, after their poolings where there are any, are its `taps`.

    Args:
        stages: The convolutions, in order.
        linear: Widths of the fully connected layers after them; the last one is `out_features`.
        dropout: Probability of dropping a feature before each fully connected layer but the first; 0 for no dropout.
        norm: Whether every layer is batch-normalised.
        convolution: Makes each convolution, so that the same net comes static or dynamic.
        image_size: Side S of the images.
        grey: Whether the convolutions see one channel, the images' luma in [0, 1], in the place of the three in
            [-1, 1] that come in.

    `forward(images)` takes (B, 3, S, S) and gives (B, out_features).
    """

    image_size = 32

    def __init__(
        self,
        stages: tuple[Stage, ...],
        linear: tuple[int, ...],
        *,
        dropout: float = 0.0,
        norm: bool = True,
        convolution: ConvFactory = static_convolution,
        image_size: int = image_size,
        grey: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.grey = grey
        layers: list[nn.Module] = []
        taps: list[str] = []
        channels, size = 1 if grey else 3, image_size
        for stage in stages:
            layers.append(convolution(channels, stage.channels, stage.kernel_size, stage.padding))
            channels, size = stage.channels, size + 2 * stage.padding - stage.kernel_size + 1
            if norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU())
            if stage.pool is not None:
                kernel, stride, padding = stage.pool
                layers.append(nn.MaxPool2d(kernel, stride, padding))
                size = (size + 2 * padding - kernel) // stride + 1
            taps.append(f"convolutions.{len(layers) - 1}")
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)

        layers = [nn.Flatten()]
        features = channels * size * size
        for index, width in enumerate(linear):
            if dropout > 0 and index > 0:
                layers.append(nn.Dropout(dropout))
            layers.append(nn.Linear(features, width))
            if norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU())
            taps.append(f"linear.{len(layers) - 1}")
            features = width
        self.linear = nn.Sequential(*layers)
        self.out_features = features
        self.taps = tuple(taps)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) to features (B, out_features).

        Raises:
            ValueError: For images of another shape.
        """
        self.check_fixed_size(images)
        if self.grey:
            luma = torch.tensor(_LUMA, dtype=images.dtype, device=images.device)
            images = torch.einsum("bchw,c->bhw", images / 2 + 0.5, luma)[:, None]
        return self.linear(self.convolutions(self.laid_out(images)))

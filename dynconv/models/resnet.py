"""The ResNets: a small one for 64 x 64 images from scratch, and torchvision's for 224 x 224.

torchvision is imported when one is built: `import dynconv.models` stays light.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dynconv.models.features import Features


class SmallResNet(Features):
    """A ResNet of torchvision's BasicBlocks for 64 x 64 colour images, from scratch.

    A 3x3 stem of stride 2, a max pooling, stages of 32, 64, 128 and 256 channels (all but the first halve the image),
    and the average over the places. Blocks and average are its `taps`.

    Args:
        blocks: Blocks per stage.
    """

    # 1.23 M parameters, 16.6 MMAC per image forward: 0.13 s for a training step of 72 images on one CPU core. On
    # Office-31's Webcam, 500 steps, it came to 93.7 % in-domain; without the pooling and with a stride in the first
    # stage (27.9 MMAC, 0.17 s) to 88.1 %.

    image_size = 64
    widths = (32, 64, 128, 256)

    def __init__(self, blocks: tuple[int, int, int, int] = (1, 1, 1, 1)) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock

        channels = self.widths[0]
        stem = (nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels))
        layers: list[nn.Module] = [*stem, nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]
        for stage, (width, count) in enumerate(zip(self.widths, blocks, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                downsample = None
                if stride != 1 or channels != width:
                    projection = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
                    downsample = nn.Sequential(projection, nn.BatchNorm2d(width))
                layers.append(BasicBlock(channels, width, stride, downsample))
                channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        names = [name for name, layer in self.layers.named_children() if isinstance(layer, BasicBlock)]
        self.taps = tuple(f"layers.{name}" for name in (*names, str(len(layers) - 2)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.layers.to(memory_format=torch.channels_last)
        self.out_features = channels

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S), S = 64 or another multiple of 32, to features (B, 256).

        Raises:
            ValueError: For images that are not (B, 3, S, S).
        """
        check_images(images)
        return self.layers(self.laid_out(images))


class ResNet(Features):
    """torchvision's ResNet without its classifier, as `trunk`: the names of its parameters are torchvision's. Its four
    stages and the average over the places are its `taps`.

    Args:
        depth: 50 or 101.
    """

    image_size = 224

    def __init__(self, depth: Literal[50, 101]) -> None:
        super().__init__()
        from torchvision.models import resnet50, resnet101

        self.trunk = {50: resnet50, 101: resnet101}[depth](weights=None)
        self.out_features = int(self.trunk.fc.in_features)
        self.trunk.fc = nn.Identity()
        self.taps = (*(f"trunk.layer{stage}" for stage in range(1, 5)), "trunk.avgpool")
        self.trunk.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S), S = 224 where the weights are ImageNet's, to features (B, 2048).

        Raises:
            ValueError: For images that are not (B, 3, S, S).
        """
        check_images(images)
        return self.trunk(self.laid_out(images))


def check_images(images: Tensor) -> None:
    """Raise a ValueError unless `images` are (B, 3, S, S)."""
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images: expected square colour images (B, 3, S, S), got {tuple(images.shape)}")

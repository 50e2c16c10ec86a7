"""DRN-C-26, a dilated residual network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynconv.models.segmentation import LinearHead, SegmentationFeatures, SegmentationHead

# Width, blocks, stride, dilation and whether the blocks have a residual, of levels 1 to 8. Levels 7 and 8 take away the
# gridding that the dilation leaves (section 4 of the paper).
_LEVELS = (
    (16, 1, 1, 1, True),
    (32, 1, 2, 1, True),
    (64, 2, 2, 1, True),
    (128, 2, 2, 1, True),
    (256, 2, 1, 2, True),
    (512, 2, 1, 4, True),
    (512, 1, 1, 2, False),
    (512, 1, 1, 1, False),
)


class DRN26(SegmentationFeatures):
    """DRN-C-26 (Yu, Koltun and Funkhouser, CVPR 2017) without its classifier: a 7x7 convolution and eight levels of
    basic blocks, three of which halve the maps. CyCADA and the Calibrator call it DRN-26.

    Its names are those of the released network: `conv1`, `bn1`, `layer1` to `layer8`; the levels are its `taps`.
    Convolutions start from He's normal distribution (fan out).

    Args:
        norm: Whether the convolutions are batch-normalised. Without it each has a bias.

    `forward(images)` takes (B, 3, H, W), H and W multiples of 8, and gives (B, 512, H / 8, W / 8).
    """

    multiple = 8
    taps = tuple(f"layer{level}" for level in range(1, 9))

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        channels = 16
        self.conv1 = nn.Conv2d(3, channels, 7, padding=3, bias=not norm)
        self.bn1 = _norm(channels, norm)
        self.relu = nn.ReLU()
        for name, (width, count, stride, dilation, residual) in zip(self.taps, _LEVELS, strict=True):
            blocks = []
            for block in range(count):
                first = block == 0
                blocks.append(
                    _BasicBlock(channels, width, stride if first else 1, dilation, residual=residual, norm=norm)
                )
                channels = width
            self.add_module(name, nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.out_features = channels
        self.to(memory_format=torch.channels_last)

    def make_head(self, num_classes: int) -> SegmentationHead:
        """A 1x1 convolution and bilinear upsampling by 8."""
        return LinearHead(self.out_features, num_classes, self.multiple)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to maps (B, 512, H / 8, W / 8).

        Raises:
            ValueError: For images of another shape.
        """
        self.check_images(images)
        maps = self.relu(self.bn1(self.conv1(self.laid_out(images))))
        for level in self.taps:
            maps = self.get_submodule(level)(maps)
        return maps


def _norm(channels: int, norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm else nn.Identity()


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions (torchvision's BasicBlock has neither dilation nor one without a residual)."""

    def __init__(self, before: int, width: int, stride: int, dilation: int, *, residual: bool, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=not norm)
        self.bn1 = _norm(width, norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=not norm)
        self.bn2 = _norm(width, norm)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != width:
            projection = nn.Conv2d(before, width, 1, stride=stride, bias=not norm)
            self.downsample = nn.Sequential(projection, _norm(width, norm))
        self.residual = residual
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(maps)))
        inner = self.bn2(self.conv2(inner))
        if self.residual:
            inner = inner + (maps if self.downsample is None else self.downsample(maps))
        return self.relu(inner)

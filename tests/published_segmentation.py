"""Networks for segmentation as their authors published them: their modules' names, and scores of every pixel. Narrow
where `segmentation_networks.make_narrow` makes ours narrow."""

from __future__ import annotations

import torch
from segmentation_networks import GROUPS, LEVELS
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, interpolate, pad, relu
from torchvision.models.vgg import make_layers


class Down(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width - before, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        return relu(self.bn(torch.cat([self.conv(maps), self.pool(maps)], 1)))


class Up(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(before, width, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        return relu(self.bn(self.conv(maps)))


class NonBottleneck(nn.Module):
    def __init__(self, width: int, dilated: int) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self.conv3x1_2 = nn.Conv2d(width, width, (3, 1), padding=(dilated, 0), dilation=(dilated, 1))
        self.conv1x3_2 = nn.Conv2d(width, width, (1, 3), padding=(0, dilated), dilation=(1, dilated))
        self.bn2 = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        inner = relu(self.bn1(self.conv1x3_1(relu(self.conv3x1_1(maps)))))
        return relu(self.bn2(self.conv1x3_2(relu(self.conv3x1_2(inner)))) + maps)


class ErfnetPart(nn.Module):
    """ERFNet's encoder or decoder."""

    def __init__(self, first: nn.Module | None, layers: list[nn.Module], output: nn.Module) -> None:
        super().__init__()
        if first is not None:
            self.initial_block = first
        self.layers = nn.ModuleList(layers)
        self.output_conv = output

    def forward(self, maps: Tensor, predict: bool) -> Tensor:
        maps = self.initial_block(maps) if hasattr(self, "initial_block") else maps
        for layer in self.layers:
            maps = layer(maps)
        return self.output_conv(maps) if predict else maps


class PublishedERFNet(nn.Module):
    """erfnet_pytorch's ERFNet, in evaluation mode."""

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__()
        dilated = [NonBottleneck(128, dilation) for dilation in (2, 4, 8, 16) * 2]
        self.encoder = ErfnetPart(
            Down(3, 16),
            [Down(16, 64), *(NonBottleneck(64, 1) for _ in range(5)), Down(64, 128), *dilated],
            nn.Conv2d(128, num_classes, 1),
        )
        layers = [layer for a, b in ((128, 64), (64, 16)) for layer in (Up(a, b), *(NonBottleneck(b, 1),) * 2)]
        # Two blocks each, of their own.
        layers[2], layers[5] = NonBottleneck(64, 1), NonBottleneck(16, 1)
        self.decoder = ErfnetPart(None, layers, nn.ConvTranspose2d(16, num_classes, 2, stride=2))

    def forward(self, images: Tensor, only_encode: bool = False) -> Tensor:
        if only_encode:
            return interpolate(self.encoder(images, True), scale_factor=8, mode="bilinear")
        return self.decoder(self.encoder(images, False), True)


class BasicBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int, dilation: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample, self.residual = None, residual
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(relu(self.bn1(self.conv1(maps)))))
        if self.residual:
            inner = inner + (maps if self.downsample is None else self.downsample(maps))
        return relu(inner)


class PublishedDRN(nn.Module):
    """DRN's own DRN-26 for segmentation (`base`, `seg` and a fixed upsampling `up`)."""

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        before = LEVELS[0][0]
        parts: list[nn.Module] = [nn.Conv2d(3, before, 7, padding=3, bias=False), nn.BatchNorm2d(before), nn.ReLU()]
        for width, count, stride, dilation, residual in LEVELS:
            blocks = []
            for place in range(count):
                blocks.append(BasicBlock(before, width, stride if place == 0 else 1, dilation, residual))
                before = width
            parts.append(nn.Sequential(*blocks))
        self.base = nn.Sequential(*parts)
        self.seg = nn.Conv2d(before, num_classes, 1)
        self.up = nn.ConvTranspose2d(num_classes, num_classes, 16, stride=8, padding=4, groups=num_classes, bias=False)
        tent = 1 - (torch.arange(16) - 7.5).abs() / 8
        self.up.weight.data.copy_(tent[:, None] * tent)

    def forward(self, images: Tensor) -> Tensor:
        return self.up(self.seg(self.base(images)))


class Bilinear(nn.Module):
    def __init__(self, factor: int, num_classes: int) -> None:
        super().__init__()
        self.factor = factor
        tent = 1 - (torch.arange(2 * factor) - factor + 0.5).abs() / factor
        self.register_buffer("w", torch.eye(num_classes)[..., None, None] * (tent[:, None] * tent))

    def forward(self, scores: Tensor) -> Tensor:
        return conv_transpose2d(scores, self.w, stride=self.factor)


class PublishedFCN8s(nn.Module):
    """CyCADA's FCN-8s on VGG16, in evaluation mode."""

    def __init__(self, num_classes: int = 19, *, hidden: int = 16) -> None:
        super().__init__()
        self.vgg = make_layers([each for group in GROUPS for each in (*group, "M")])
        for layer in self.vgg:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        fc6, fc7 = nn.Conv2d(GROUPS[-1][-1], hidden, 7), nn.Conv2d(hidden, hidden, 1)
        parts = (fc6, nn.ReLU(), nn.Dropout2d(), fc7, nn.ReLU(), nn.Dropout2d(), nn.Conv2d(hidden, num_classes, 1))
        self.vgg_head = nn.Sequential(*parts)
        self.upscore2 = self.upscore_pool4 = Bilinear(2, num_classes)
        self.upscore8 = Bilinear(8, num_classes)
        self.score_pool4 = nn.Conv2d(GROUPS[3][0], num_classes, 1)
        self.score_pool3 = nn.Conv2d(GROUPS[2][0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps, pools = pad(images, (99,) * 4), {}
        for place, layer in enumerate(self.vgg):
            maps = pools[place] = layer(maps)
        scores = self.upscore2(self.vgg_head(maps))
        scores = scores + _cut(self.score_pool4(0.01 * pools[23]), scores, 5)
        scores = self.upscore_pool4(scores)
        scores = scores + _cut(self.score_pool3(0.0001 * pools[16]), scores, 9)
        return _cut(self.upscore8(scores), images, 31)


def _cut(maps: Tensor, like: Tensor, offset: int) -> Tensor:
    return maps[..., offset : offset + like.shape[2], offset : offset + like.shape[3]]

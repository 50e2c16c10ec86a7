"""ERFNet, whole and as GAM uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynconv.models.segmentation import LinearHead, SegmentationFeatures, SegmentationHead

# Of every batch normalisation in released ERFNet.
_EPSILON = 1e-3


class ERFNetEncoder(SegmentationFeatures):
    """The encoder of ERFNet (Romera et al., T-ITS 2018, table I, layers 1 to 16), with bilinear upsampling in place of
    the decoder, as GAM (Huang et al., ECCV 2018, section 5.3) uses it: 16 modules, and the head's 1x1 convolution
    `score` as the 17th.

    Its names are those of the released network: `encoder.initial_block`, then `encoder.layers.0` to `encoder.layers.14`
    for modules 2 to 16. `taps` has the names in this order: module n is `taps[n - 1]`. The 17th is the head's: its
    output is `head.low(maps)`.

    Args:
        norm: Whether the convolutions are batch-normalised.

    `forward(images)` takes (B, 3, H, W), H and W multiples of 8, and gives (B, 128, H / 8, W / 8).
    """

    multiple = 8

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.encoder = _Encoder(norm)
        self.taps = ("encoder.initial_block", *(f"encoder.layers.{n}" for n in range(len(self.encoder.layers))))
        self.out_features = 128
        self.to(memory_format=torch.channels_last)

    def make_head(self, num_classes: int) -> SegmentationHead:
        """A 1x1 convolution and bilinear upsampling by 8."""
        return LinearHead(self.out_features, num_classes, self.multiple)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to maps (B, 128, H / 8, W / 8).

        Raises:
            ValueError: For images of another shape.
        """
        self.check_images(images)
        return self.encoder(self.laid_out(images))


class ERFNet(ERFNetEncoder):
    """ERFNet (Romera et al., T-ITS 2018, table I, layers 1 to 22): the encoder and the decoder up to its last layer,
    which is the head.

    To the encoder's taps come `decoder.layers.0` to `decoder.layers.5`, layers 17 to 22 of the table.

    Args:
        norm: Whether the convolutions are batch-normalised.

    `forward(images)` takes (B, 3, H, W), H and W multiples of 8, and gives (B, 16, H / 2, W / 2).
    """

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__(norm=norm)
        self.decoder = _Decoder(norm)
        self.taps = (*self.taps, *(f"decoder.layers.{n}" for n in range(len(self.decoder.layers))))
        self.out_features = 16
        self.to(memory_format=torch.channels_last)

    def make_head(self, num_classes: int) -> SegmentationHead:
        """A 2x2 transposed convolution of stride 2."""
        return TransposedHead(self.out_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to maps (B, 16, H / 2, W / 2).

        Raises:
            ValueError: For images of another shape.
        """
        return self.decoder(super().forward(images))


class TransposedHead(SegmentationHead):
    """ERFNet's last layer: a 2x2 transposed convolution of stride 2, as `score`.

    There are no scores before it, so `low` gives them at the images' size and `upsample` is the identity.

    Args:
        channels: Of the maps.
        num_classes: Of the scores.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.score = nn.ConvTranspose2d(channels, num_classes, 2, stride=2)

    def low(self, maps: Tensor) -> Tensor:
        """Maps (B, channels, h, w) to scores (B, num_classes, 2 h, 2 w)."""
        return self.score(maps)

    def upsample(self, low: Tensor) -> Tensor:
        """`low`."""
        return low


class _Encoder(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.initial_block = _Down(3, 16, norm)
        layers: list[nn.Module] = [_Down(16, 64, norm)]
        layers += [_Residual(64, 1, 0.03, norm) for _ in range(5)]
        layers.append(_Down(64, 128, norm))
        layers += [_Residual(128, dilation, 0.3, norm) for dilation in (2, 4, 8, 16) * 2]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.initial_block(images))


class _Decoder(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in ((128, 64), (64, 16)):
            layers.append(_Up(before, width, norm))
            layers += [_Residual(width, 1, 0.0, norm) for _ in range(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps)


def _norm(channels: int, norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=_EPSILON) if norm else nn.Identity()


class _Down(nn.Module):
    """A downsampler (figure 2 d of the paper): a 3x3 convolution of stride 2 beside a max pooling."""

    def __init__(self, before: int, width: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width - before, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.bn = _norm(width, norm)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        return self.relu(self.bn(torch.cat([self.conv(maps), self.pool(maps)], dim=1)))


class _Up(nn.Module):
    """An upsampler: a 3x3 transposed convolution of stride 2."""

    def __init__(self, before: int, width: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(before, width, 3, stride=2, padding=1, output_padding=1)
        self.bn = _norm(width, norm)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(maps)))


class _Residual(nn.Module):
    """A non-bottleneck-1D block: two pairs of 3x1 and 1x3 convolutions, the second pair dilated."""

    def __init__(self, width: int, dilation: int, dropout: float, norm: bool) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.bn1 = _norm(width, norm)
        self.conv3x1_2 = nn.Conv2d(width, width, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
        self.conv1x3_2 = nn.Conv2d(width, width, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.bn2 = _norm(width, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.relu(self.conv3x1_1(maps))
        inner = self.relu(self.bn1(self.conv1x3_1(inner)))
        inner = self.relu(self.conv3x1_2(inner))
        return self.relu(maps + self.dropout(self.bn2(self.conv1x3_2(inner))))

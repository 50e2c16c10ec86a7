"""FCN-8s on VGG16."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle, pixel_unshuffle

from dynconv.models.segmentation import SegmentationFeatures, SegmentationHead

# VGG16's widths; a max pooling after each group.
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Where the poolings 3 to 5 stand among the modules of `vgg`, whose numbers are torchvision's.
_POOLS = (16, 23, 30)
# Of pool3, pool4 and fc7.
_CHANNELS = (256, 512, 4096)
# The images' zero margin. With the first convolution's own it makes 100, so that the 7x7 convolution at the end, which
# has none, gives a map for images of 32 x 32.
_MARGIN = 99
# "At once" FCN-8s scales the poolings' features, where the paper trains its three stages one after the other.
_SCALES = (0.0001, 0.01)


class FCN8s(SegmentationFeatures):
    """FCN-8s on VGG16 (Long, Shelhamer and Darrell, CVPR 2015) without its three scoring layers, which are the head.

    Scores are made from three depths, and the features are all three in one tensor on the grid of the deepest, fc7:
    pool4 and pool3, cut to the part that the scores of the image's pixels depend on, are taken apart by
    `pixel_unshuffle` into 4 and 16 places per place. The poolings round up, as Caffe's do, in which the release was
    made, and CyCADA's (its release, models/fcn8s.py).

    `vgg` has torchvision's numbers; `fc6` and `fc7` are VGG16's first two linear layers as convolutions. Convolutions
    start from He's normal distribution (fan out), as torchvision's VGG.

    `forward(images)` takes (B, 3, H, W), H and W multiples of 32, and gives (B, 10240, H / 32 + 1, W / 32 + 1): 16 x
    256 channels of pool3, 4 x 512 of pool4, 4096 of fc7.
    """

    multiple = 32
    taps = (*(f"vgg.{index}" for index in _POOLS), "fc6", "fc7")
    """pool3, pool4, pool5, fc6 and fc7, the last two before their ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for group in _GROUPS:
            for width in group:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.vgg = nn.Sequential(*layers)
        self.fc6 = nn.Conv2d(before, _CHANNELS[2], 7)
        self.fc7 = nn.Conv2d(_CHANNELS[2], _CHANNELS[2], 1)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.out_features = 16 * _CHANNELS[0] + 4 * _CHANNELS[1] + _CHANNELS[2]
        self.to(memory_format=torch.channels_last)

    def make_head(self, num_classes: int) -> SegmentationHead:
        """The scoring layers and upsamplings of FCN-8s."""
        return FCN8sHead(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to maps (B, 10240, H / 32 + 1, W / 32 + 1).

        Raises:
            ValueError: For images of another shape.
        """
        self.check_images(images)
        maps = pad(self.laid_out(images), (_MARGIN,) * 4)
        pools = []
        for index, layer in enumerate(self.vgg):
            maps = layer(maps)
            if index in _POOLS:
                pools.append(maps)
        maps = self.dropout(self.relu(self.fc6(maps)))
        maps = self.dropout(self.relu(self.fc7(maps)))
        # Of n = H / 32: pool3 has 4 n + 25 rows, pool4 2 n + 13 and fc7 n + 1. The released crops (9 and 5 rows, 31 of
        # the image) leave 4 n + 2 rows of pool3 that count and 2 n + 2 of pool4; 4 n + 4 and 2 n + 2 are taken along.
        pool3, pool4 = pools[0][..., 10:-11, 10:-11], pools[1][..., 5:-6, 5:-6]
        return torch.cat([pixel_unshuffle(pool3, 4), pixel_unshuffle(pool4, 2), maps], dim=1)


class FCN8sHead(SegmentationHead):
    """The scores of FCN-8s from what `FCN8s` gives: of fc7, twice as large plus those of pool4, twice as large plus
    those of pool3, and eight times as large.

    The upsamplings are the paper's transposed convolutions with bilinear weights, kept fixed, in an exactly equal form;
    their crops are those of the release (5, 9 and 31). Pool4 and pool3 are multiplied by 0.01 and 0.0001, and scored by
    layers that start at zero, so that training begins with FCN-32s. `score` starts at random: the paper starts it at
    zero, where MCD's two heads would remain the same for ever.

    Args:
        num_classes: Of the scores.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.score_pool3 = nn.Conv2d(_CHANNELS[0], num_classes, 1)
        self.score_pool4 = nn.Conv2d(_CHANNELS[1], num_classes, 1)
        self.score = nn.Conv2d(_CHANNELS[2], num_classes, 1)
        for layer in (self.score_pool3, self.score_pool4):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def low(self, maps: Tensor) -> Tensor:
        """Maps (B, 10240, n + 1, m + 1) to scores (B, num_classes, 4 n + 2, 4 m + 2): those of the images' places at an
        eighth of the size, and one place more on each side."""
        packed3, packed4, fc7 = maps.split([16 * _CHANNELS[0], 4 * _CHANNELS[1], _CHANNELS[2]], dim=1)
        # A transposed convolution fades to zero at the borders, of which the crops leave the first: zeros lie beyond.
        scores = _doubled(pad(self.score(fc7), (1, 0, 1, 0)))
        scores = scores + self.score_pool4(_SCALES[1] * pixel_shuffle(packed4, 2))
        return _doubled(scores) + self.score_pool3(_SCALES[0] * pixel_shuffle(packed3, 4)[..., 1:-1, 1:-1])

    def upsample(self, low: Tensor) -> Tensor:
        """Scores (B, num_classes, 4 n + 2, 4 m + 2) to (B, num_classes, 32 n, 32 m)."""
        # Row r of these 32 n + 16 is row r + 20 of the 32 n + 88 that the release cuts from 31 on.
        return interpolate(low, scale_factor=8, mode="bilinear")[..., 11:-5, 11:-5]


def _doubled(scores: Tensor) -> Tensor:
    """(B, C, h, w), twice as large but for the outermost places: (B, C, 2 h - 2, 2 w - 2)."""
    return interpolate(scores, scale_factor=2, mode="bilinear")[..., 1:-1, 1:-1]

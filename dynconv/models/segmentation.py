"""What every segmentation network is to the code above it: images to maps of features, and heads from maps to scores.

A method that works on features (B, C) and class scores (B, classes) works on maps (B, C, h, w) and scores (B, classes,
H, W) by the same words: `features(images)`, `head(features)`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from dynconv.models.features import Features


class SegmentationHead(nn.Module):
    """Maps of features to scores of every pixel: `head(maps)` is `head.upsample(head.low(maps))`."""

    def low(self, maps: Tensor) -> Tensor:
        """Maps (B, out_features, h, w) to scores (B, num_classes, h', w') before the last upsampling."""
        raise NotImplementedError

    def upsample(self, low: Tensor) -> Tensor:
        """Scores of `low` to scores (B, num_classes, H, W) of the images' pixels."""
        raise NotImplementedError

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, out_features, h, w) to scores (B, num_classes, H, W) of the images' pixels."""
        return self.upsample(self.low(maps))


class SegmentationFeatures(Features):
    """Images (B, 3, H, W) to maps (B, out_features, h, w), H and W multiples of `multiple`."""

    image_size = 0
    """Images of no particular size: see `multiple`."""
    multiple: int
    """What the images' height and width must be multiples of."""

    def make_head(self, num_classes: int) -> SegmentationHead:
        """A new head with its own random start."""
        raise NotImplementedError

    def check_images(self, images: Tensor) -> None:
        """Raise a ValueError unless `images` are (B, 3, H, W) with H and W positive multiples of `multiple`."""
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < 1 or any(side % self.multiple for side in shape[2:]):
            raise ValueError(
                f"images: expected (B, 3, H, W), H and W multiples of {self.multiple} for a {type(self).__name__}, got "
                f"{shape}; resize or pad the images"
            )


class LinearHead(SegmentationHead):
    """A 1x1 convolution to scores, as `score`, and a bilinear upsampling.

    Args:
        channels: Of the maps.
        num_classes: Of the scores.
        factor: Of the upsampling: the images' height by the maps'.
    """

    def __init__(self, channels: int, num_classes: int, factor: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, num_classes, 1)
        self.factor = factor

    def low(self, maps: Tensor) -> Tensor:
        """Maps (B, channels, h, w) to scores (B, num_classes, h, w)."""
        return self.score(maps)

    def upsample(self, low: Tensor) -> Tensor:
        """Scores (B, num_classes, h, w) to (B, num_classes, factor h, factor w)."""
        return interpolate(low, scale_factor=self.factor, mode="bilinear")

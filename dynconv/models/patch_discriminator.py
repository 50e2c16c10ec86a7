"""PatchGAN: a discriminator that judges every patch of an image (Isola et al., CVPR 2017)."""

from __future__ import annotations

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """CycleGAN's discriminator (Zhu et al., ICCV 2017, appendix 7.2): C64-C128-C256-C512 and a last convolution to one
    number per patch. All are 4x4, the first `layers` of stride 2; leaky ReLU of 0.2, and instance normalisation but in
    the first layer. Weights start from N(0, 0.02), biases at 0.

    Args:
        width: Channels of the first layer, doubled from layer to layer up to eight times as many (64 in the paper).
        layers: Layers of stride 2. They make the patches' side, `patch_size`: 16, 34 or, for 3 (paper), 70.

    `forward(images)` takes (B, 3, H, W) and gives (B, 1, h, w), without a sigmoid.
    """

    def __init__(self, *, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        for name, value in (("width", width), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.layer_count = layers
        convolutions = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
        for layer in range(1, layers + 1):
            wider = width * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            convolutions += [
                nn.Conv2d(channels, wider, 4, stride=stride, padding=1),
                nn.InstanceNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            channels = wider
        self.layers = nn.Sequential(*convolutions, nn.Conv2d(channels, 1, 4, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def patch_size(self) -> int:
        """Side of the part of an image that one number depends on."""
        side = 1
        # From the last convolution back: two of stride 1, then those of stride 2.
        for stride in (1, 1, *(2,) * self.layer_count):
            side = (side - 1) * stride + 4
        return side

    @property
    def least_side(self) -> int:
        """Side of the smallest images that it takes: the instance normalisation needs more than one value, and so must
        the layer before the last give."""
        return 3 * 2**self.layer_count

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to numbers (B, 1, h, w), one per patch.

        Raises:
            ValueError: For images of another shape, or too small for so many layers.
        """
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < self.least_side:
            raise ValueError(
                f"images: expected (B, 3, H, W) of at least {self.least_side} x {self.least_side} for "
                f"{self.layer_count} layers, got {shape}; take fewer layers"
            )
        return self.layers(images)

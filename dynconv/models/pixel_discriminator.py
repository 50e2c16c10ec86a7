"""Discriminators of the Calibrator (Ye et al., CVPR 2020, section 3.2): small fully connected networks that tell which
group an image, or its features, is of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def group_discriminator(
    in_features: int, hidden_features: Sequence[int], groups: int, *, dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers with ReLU between them, (B, in_features) to logits (B, groups).

    Args:
        in_features: Width of what is judged.
        hidden_features: Widths of the hidden layers; one of them makes the paper's two layers.
        groups: Of images.
        dropout: Probability of dropping a feature of the last hidden layer.
    """
    widths = [in_features, *hidden_features]
    layers: list[nn.Module] = []
    for before, width in zip(widths, hidden_features, strict=False):
        layers += [nn.Linear(before, width), nn.ReLU()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], groups))


class PixelDiscriminator(nn.Module):
    """Judges images by a square patch of each, with its pixels in random order, so that it does not overfit to the
    training set (section 3.2).

    Place and order are drawn anew for every image at every call, and the place from the whole image.

    Args:
        patch_size: Side of the patches; that of the images for whole ones, which must be square.
        shuffle: Whether the pixels are shuffled; the three colours of a pixel stay together.
        hidden_features: Widths of the hidden layers.
        groups: Of images.

    Raises:
        ValueError: A patch without a pixel.
    """

    def __init__(self, patch_size: int, *, shuffle: bool, hidden_features: Sequence[int], groups: int) -> None:
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"patch_size: expected at least 1, got {patch_size}")
        self.patch_size = patch_size
        self.shuffle = shuffle
        self.layers = group_discriminator(3 * patch_size**2, hidden_features, groups)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, H, W) to logits (B, groups); `generator` (on the images' device) draws the patches, by default
        torch's own.

        Raises:
            ValueError: The images are smaller than a patch.
        """
        return self.layers(self.patches(images, generator).flatten(1))

    def check_size(self, images: Tensor) -> None:
        """Raise a ValueError where images (B, 3, H, W) are smaller than a patch."""
        height, width = images.shape[2:]
        if self.patch_size > min(height, width):
            raise ValueError(
                f"patch_size: expected 1 to {min(height, width)} for images of {height} x {width}, got "
                f"{self.patch_size}"
            )

    def patches(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, H, W) to patches (B, 3, patch_size ** 2)."""
        self.check_size(images)
        count, device = len(images), images.device
        height, width = images.shape[2:]
        top, left = (
            torch.randint(side - self.patch_size + 1, (count, 1, 1), generator=generator, device=device)
            for side in (height, width)
        )
        within = torch.arange(self.patch_size, device=device)
        places = ((top + within[:, None]) * width + left + within).flatten(1)
        if self.shuffle:
            order = torch.rand(places.shape, generator=generator, device=device).argsort(dim=1)
            places = places.gather(1, order)
        return images.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1))

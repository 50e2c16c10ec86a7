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
    """Judges images by a patch of each, with its pixels in random order, so that it does not overfit to the training
    set (section 3.2).

    Place and order are drawn anew for every image at every call, and the place from the whole image.

    Args:
        image_size: Side of the images.
        patch_size: Side of the patches; None for whole images.
        shuffle: Whether the pixels are shuffled; the three colours of a pixel stay together.
        hidden_features: Widths of the hidden layers.
        groups: Of images.

    Raises:
        ValueError: A patch that is larger than the image, or without a pixel.
    """

    def __init__(
        self, image_size: int, *, patch_size: int | None, shuffle: bool, hidden_features: Sequence[int], groups: int
    ) -> None:
        super().__init__()
        side = image_size if patch_size is None else patch_size
        if not 1 <= side <= image_size:
            raise ValueError(f"patch_size: expected 1 to {image_size}, the side of the images, got {patch_size}")
        self.image_size = image_size
        self.side = side
        self.shuffle = shuffle
        self.layers = group_discriminator(3 * side**2, hidden_features, groups)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, S, S) to logits (B, groups); `generator` (on the images' device) draws the patches, by default
        torch's own."""
        return self.layers(self.patches(images, generator).flatten(1))

    def patches(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, S, S) to patches (B, 3, patch_size ** 2)."""
        count, device = len(images), images.device
        corners = self.image_size - self.side + 1
        top, left = torch.randint(corners, (2, count, 1, 1), generator=generator, device=device)
        within = torch.arange(self.side, device=device)
        places = ((top + within[:, None]) * self.image_size + left + within).flatten(1)
        if self.shuffle:
            order = torch.rand(places.shape, generator=generator, device=device).argsort(dim=1)
            places = places.gather(1, order)
        return images.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1))

"""Small scenes for tests, in which colours tell the classes, and a small network for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.models import network
from dynconv.models.segmentation import LinearHead, SegmentationFeatures, SegmentationHead

CLASSES = 3
IGNORE = 255


class TinyScenes(SegmentationFeatures):
    """What every network for segmentation has, batch normalisation, dropout and a head that upsamples eightfold, in two
    convolutions: a step of the smallest published one takes 60 times as long."""

    multiple = 8
    taps = ("layers.0", "layers.4")

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.out_features = 6
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Conv2d(8, 6, 3, stride=2, padding=1),
            nn.ReLU(),
        )

    def make_head(self, num_classes: int) -> SegmentationHead:
        return LinearHead(self.out_features, num_classes, self.multiple)

    def forward(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return self.layers(images)


def use_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "erfnet-encoder" the name of `TinyScenes`."""
    monkeypatch.setitem(network._SEGMENTATION, "erfnet-encoder", TinyScenes)


def without_dropout(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0


def draw(count: int, seed: int, *, height: int = 16, width: int = 24, dtype: torch.dtype = torch.float64) -> Batch:
    """`count` scenes of each domain, whose quarters have a class each; the target's are darker. Of the n-th source
    scene n rows and a column are without a class, so that halves of a batch have unequally many such pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (2 * count, 2, 2), generator=generator)
    labels = labels.repeat_interleave(height // 2, dim=1).repeat_interleave(width // 2, dim=2)
    images = 1.4 * nn.functional.one_hot(labels, CLASSES).permute(0, 3, 1, 2) - 0.7
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    images[count:] = 0.5 * images[count:] - 0.3
    of_source = labels[:count].clone()
    of_source[:, :, -1] = IGNORE
    for place in range(count):
        of_source[place, :place] = IGNORE
    return batch_of(images.to(dtype), of_source)


def batch_of(images: Tensor, labels: Tensor) -> Batch:
    """The first images are the source's, with `labels`, and the others the target's."""
    count = len(labels)
    source = SourceBatch(images[:count], labels, torch.zeros(count, dtype=torch.int64))
    return Batch(source, TargetBatch(images[count:], torch.arange(len(images) - count)))

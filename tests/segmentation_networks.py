"""What the tests of the segmentation networks share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynconv.models import SegmentationFeatures, SegmentationHead, drn, fcn8s
from dynconv.nn import DynamicConv2d

# Channels of VGG16's convolutions in `make_narrow`.
GROUPS = ((4, 4), (4, 4), (6, 6, 6), (8, 8, 8), (8, 8, 8))
# Its levels of DRN-26.
LEVELS = tuple((width, *level[1:]) for width, level in zip((16, 20, 24, 28, 32, 40, 40, 40), drn._LEVELS, strict=True))


def make_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give DRN-26 and FCN-8s few channels and leave their plan: the real ones, of 20 and 134 million parameters, take a
    half and two seconds to build."""
    monkeypatch.setattr(drn, "_LEVELS", LEVELS)
    monkeypatch.setattr(fcn8s, "_GROUPS", GROUPS)
    monkeypatch.setattr(fcn8s, "_CHANNELS", (6, 8, 16))


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def images(batch: int = 2, height: int = 16, width: int = 32) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def tapped(features: SegmentationFeatures, pictures: Tensor) -> dict[str, Tensor]:
    """What each tap gives, in the order of execution."""
    found: dict[str, Tensor] = {}
    handles = [
        features.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.__setitem__(name, output)
        )
        for name in features.taps
    ]
    with torch.no_grad():
        features(pictures)
    for handle in handles:
        handle.remove()
    return found


def dynamic_names(features: nn.Module) -> list[str]:
    return [name for name, layer in features.named_modules() if isinstance(layer, DynamicConv2d)]


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def assert_labels_every_pixel(
    features: SegmentationFeatures, head: SegmentationHead, classes: int, pictures: Tensor
) -> None:
    """An image is labelled alone as in a batch, `low` and `upsample` are the head, and the features channels last."""
    features.eval()
    formats = []
    handles = [
        layer.register_forward_hook(lambda _layer, inputs, _output: formats.append(is_channels_last(inputs[0])))
        for layer in features.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        maps = features(pictures)
        assert len(formats) > 8 and all(formats)
        for handle in handles:
            handle.remove()
        scores = head(maps)
        assert maps.shape[1] == features.out_features
        assert scores.shape == (2, classes, *pictures.shape[2:])
        low = head.low(maps)
        assert low.shape[1] == classes
        assert torch.equal(head.upsample(low), scores)
        assert scores.std() > 0
        torch.testing.assert_close(head(features(pictures[1:])), scores[1:], rtol=1e-3, atol=1e-4)


def assert_exported(features: SegmentationFeatures, head: SegmentationHead, size: tuple[int, int] = (16, 32)) -> None:
    """Features and head leave Python for a batch of any number of images of one size."""
    model = nn.Sequential(features, head).eval()
    exported = torch.export.export(model, (images(2, *size),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    pictures = images(3, *size)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(pictures), model(pictures))


def assert_trains_dynamically(features: SegmentationFeatures, head: SegmentationHead, pictures: Tensor) -> None:
    """Gradients reach every parameter, and those of the bases differ."""
    features.train()
    nn.functional.cross_entropy(
        head(features(pictures)), torch.zeros_like(pictures[:, 0], dtype=torch.int64)
    ).backward()
    missing = [name for name, parameter in features.named_parameters() if parameter.grad is None]
    assert missing == []
    for name in dynamic_names(features):
        layer = features.get_submodule(name)
        assert layer.basis.grad.any(), name

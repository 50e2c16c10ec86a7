"""DRN-26: its size, its levels, its values, static and dynamic, and the statistics of a target."""

from __future__ import annotations

import pytest
import torch
from segmentation_networks import (
    assert_exported,
    assert_labels_every_pixel,
    assert_trains_dynamically,
    dynamic_names,
    images,
    parameters,
    tapped,
)
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from dynconv.models import DynamicSpec, build, domain_norms, set_target_statistics, split_by_domain


def test_the_real_network_has_the_calibrators_count_and_eight_levels() -> None:
    with torch.device("meta"):
        network = build("drn26", num_classes=19)
    # With the 1x1 scoring layer of Cityscapes' 19 classes; a bilinear upsampling has none.
    assert parameters(network.features, network.make_head()) == 20_623_331
    assert parameters(network.make_head()) == 513 * 19
    found = tapped(network.features, torch.empty(1, 3, 16, 32, device="meta"))
    assert tuple(found) == network.features.taps == tuple(f"layer{level}" for level in range(1, 9))
    widths = [16, 32, 64, 128, 256, 512, 512, 512]
    sides = [(16, 32), (8, 16), (4, 8)] + 5 * [(2, 4)]
    assert [tuple(output.shape[1:]) for output in found.values()] == [
        (width, *side) for width, side in zip(widths, sides, strict=True)
    ]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_pixel_is_labelled(norm: str) -> None:
    network = build("drn26", num_classes=5, norm=norm)
    assert_labels_every_pixel(network.features, network.make_head(), 5, images())
    norms = any(isinstance(layer, nn.BatchNorm2d) for layer in network.features.modules())
    biased = [layer.bias is not None for layer in network.features.modules() if isinstance(layer, nn.Conv2d)]
    assert norms == (norm == "batch") and all(biased) == (norm == "none") == any(biased)


@pytest.mark.usefixtures("narrow")
def test_the_values_are_those_of_the_papers_figure() -> None:
    network = build("drn26", num_classes=5)
    features, head = network.features.eval(), network.make_head()
    for layer in features.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    weights = features.state_dict()

    def normed(maps: Tensor, conv: str, norm: str, **options: object) -> Tensor:
        maps = conv2d(maps, weights[f"{conv}.weight"], **options)
        mean, variance, weight, bias = (
            weights[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (maps - mean) / (variance + 1e-5).sqrt() * weight + bias

    with torch.no_grad():
        # 6 places each way: a dilation of 4 must not fall into the padding alone.
        pictures = images(1, 48, 48)
        maps = normed(pictures, "conv1", "bn1", padding=3).relu()
        # Level, blocks, stride, dilation.
        for level, count, stride, dilation in (
            (1, 1, 1, 1),
            (2, 1, 2, 1),
            (3, 2, 2, 1),
            (4, 2, 2, 1),
            (5, 2, 1, 2),
            (6, 2, 1, 4),
            (7, 1, 1, 2),
            (8, 1, 1, 1),
        ):
            for index in range(count):
                name = f"layer{level}.{index}"
                step = stride if index == 0 else 1
                wide = {"padding": dilation, "dilation": dilation}
                inner = normed(maps, f"{name}.conv1", f"{name}.bn1", stride=step, **wide).relu()
                inner = normed(inner, f"{name}.conv2", f"{name}.bn2", **wide)
                if index == 0 and level in (2, 3, 4, 5, 6):
                    maps = normed(maps, f"{name}.downsample.0", f"{name}.downsample.1", stride=step)
                maps = inner.relu() if level > 6 else (inner + maps).relu()
        torch.testing.assert_close(features(pictures), maps, rtol=1e-3, atol=1e-4)
        scores = conv2d(maps, head.score.weight, head.score.bias)
        expected = interpolate(scores, pictures.shape[2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(head(maps), expected)


@pytest.mark.usefixtures("narrow")
def test_a_dynamic_network_is_trained_from_scratch() -> None:
    network = build("drn26", num_classes=5, dynamic=DynamicSpec("combined", num_bases=2))
    names = dynamic_names(network.features)
    # Both convolutions of each of 12 blocks; the 7x7 is not.
    assert len(names) == 24 and "conv1" not in names
    assert_trains_dynamically(network.features, network.make_head(), images())


@pytest.mark.usefixtures("narrow")
def test_the_targets_statistics_are_those_of_its_images() -> None:
    features = build("drn26", num_classes=5).features
    split_by_domain(features, shared_affine=True)
    features.eval()
    target = 3 * images(2) + 1
    assert len(domain_norms(features)) == 1 + 2 * 12 + 5
    set_target_statistics(features, lambda: [target], layers=2)
    stem = features.conv1(target)
    torch.testing.assert_close(features.bn1.target.running_mean, stem.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    second = features.layer1[0].bn1
    assert not torch.equal(second.target.running_var, second.source.running_var)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_it_leaves_python() -> None:
    network = build("drn26", num_classes=5)
    assert_exported(network.features, network.make_head())


@pytest.mark.usefixtures("narrow")
def test_images_of_another_size_are_refused() -> None:
    network = build("drn26", num_classes=5)
    for shape in ((2, 3, 32, 60), (2, 3, 30, 64)):
        with pytest.raises(ValueError, match=r"H and W multiples of 8 for a DRN26"):
            network.features(torch.zeros(shape))

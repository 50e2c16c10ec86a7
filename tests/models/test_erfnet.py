"""ERFNet: its sizes, its 17 modules, its values by hand, static and dynamic, and the statistics of a target."""

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
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, max_pool2d

from dynconv.models import DynamicSpec, build, domain_norms, set_target_statistics, split_by_domain

NAMES = ("erfnet-encoder", "erfnet")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def down(before: int, width: int) -> int:
    return (before * 9 + 1) * (width - before) + 2 * width


def up(before: int, width: int) -> int:
    return (before * 9 + 1) * width + 2 * width


def blocks(width: int, count: int) -> int:
    return count * (4 * (width * 3 + 1) * width + 4 * width)


ENCODER = down(3, 16) + down(16, 64) + blocks(64, 5) + down(64, 128) + blocks(128, 8)
DECODER = up(128, 64) + blocks(64, 2) + up(64, 16) + blocks(16, 2)


def test_the_parameters_are_those_of_the_papers_table() -> None:
    encoder, whole = (build(name, num_classes=19) for name in NAMES)
    assert parameters(encoder.features, encoder.make_head()) == ENCODER + 129 * 19 == 1_876_495
    assert parameters(whole.features, whole.make_head()) == ENCODER + DECODER + 16 * 19 * 4 + 19 == 2_064_191


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_pixel_is_labelled(name: str, norm: str) -> None:
    network = build(name, num_classes=5, norm=norm)
    assert_labels_every_pixel(network.features, network.make_head(), 5, images())
    norms = [layer for layer in network.features.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert (norms == []) == (norm == "none")
    assert all(layer.eps == 1e-3 for layer in norms)


def test_the_taps_are_the_17_modules_in_order() -> None:
    network = build("erfnet-encoder", num_classes=19)
    found = tapped(network.features, images(1))
    assert tuple(found) == network.features.taps and len(found) == 16
    shapes = [tuple(output.shape[1:]) for output in found.values()]
    # At 16 x 32. GAM's discriminators stand at modules 4, 8, 12 and 17.
    assert shapes == [(16, 8, 16)] + 6 * [(64, 4, 8)] + 9 * [(128, 2, 4)]
    assert network.make_head().low(found["encoder.layers.14"]).shape == (1, 19, 2, 4)
    whole = tapped(build("erfnet", num_classes=19).features, images(1))
    assert [tuple(output.shape[1:]) for output in whole.values()] == shapes + 3 * [(64, 4, 8)] + 3 * [(16, 8, 16)]


def test_the_values_are_those_of_the_papers_figures() -> None:
    network = build("erfnet", num_classes=5)
    features, head = network.features.eval(), network.make_head()
    for layer in features.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    weights = features.state_dict()

    def conv(maps: Tensor, name: str, **options: object) -> Tensor:
        return conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    def norm(maps: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (maps - mean) / (variance + 1e-3).sqrt() * weight + bias

    def block(maps: Tensor, name: str, dilation: int) -> Tensor:
        inner = conv(maps, f"{name}.conv3x1_1", padding=(1, 0)).relu()
        inner = norm(conv(inner, f"{name}.conv1x3_1", padding=(0, 1)), f"{name}.bn1").relu()
        inner = conv(inner, f"{name}.conv3x1_2", padding=(dilation, 0), dilation=(dilation, 1)).relu()
        inner = conv(inner, f"{name}.conv1x3_2", padding=(0, dilation), dilation=(1, dilation))
        return (maps + norm(inner, f"{name}.bn2")).relu()

    def down(maps: Tensor, name: str) -> Tensor:
        both = torch.cat([conv(maps, f"{name}.conv", stride=2, padding=1), max_pool2d(maps, 2)], dim=1)
        return norm(both, f"{name}.bn").relu()

    def up(maps: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"]
        return norm(conv_transpose2d(maps, weight, bias, 2, 1, 1), f"{name}.bn").relu()

    with torch.no_grad():
        # 17 places each way: the widest dilation, of 16, must not fall into the padding alone.
        pictures = images(1, 136, 136)
        maps = down(down(pictures, "encoder.initial_block"), "encoder.layers.0")
        for index in range(1, 6):
            maps = block(maps, f"encoder.layers.{index}", 1)
        maps = down(maps, "encoder.layers.6")
        for index, dilation in enumerate((2, 4, 8, 16, 2, 4, 8, 16), start=7):
            maps = block(maps, f"encoder.layers.{index}", dilation)
        for start in (0, 3):
            maps = up(maps, f"decoder.layers.{start}")
            for index in (start + 1, start + 2):
                maps = block(maps, f"decoder.layers.{index}", 1)
        torch.testing.assert_close(features(pictures), maps, rtol=1e-3, atol=1e-4)
        expected = conv_transpose2d(maps, head.score.weight, head.score.bias, stride=2)
        torch.testing.assert_close(head(maps), expected)


def test_the_encoders_scores_are_enlarged_bilinearly() -> None:
    head = build("erfnet-encoder", num_classes=5).make_head()
    maps = torch.randn(1, 128, 3, 4)
    scores = conv2d(maps, head.score.weight, head.score.bias)
    expected = interpolate(scores, (24, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(maps), expected)


def test_dropout_is_of_whole_channels_and_as_strong_as_in_the_release() -> None:
    features = build("erfnet", num_classes=5).features
    drops = [layer.p for layer in features.modules() if isinstance(layer, nn.Dropout2d)]
    assert drops == 5 * [0.03] + 8 * [0.3] + 4 * [0.0]


def test_a_dynamic_network_is_trained_from_scratch() -> None:
    network = build("erfnet-encoder", num_classes=5, dynamic=DynamicSpec("combined", num_bases=2))
    # Three downsamplers, and four convolutions in each of 13 blocks.
    assert len(dynamic_names(network.features)) == 3 + 4 * 13
    assert_trains_dynamically(network.features, network.make_head(), images())


def test_the_targets_statistics_are_those_of_its_images() -> None:
    features = build("erfnet", num_classes=5).features
    split_by_domain(features, shared_affine=True)
    assert len(domain_norms(features)) == 3 + 2 * 13 + 2 + 2 * 4
    features.eval()
    target = 3 * images(4) + 1
    set_target_statistics(features, lambda: [target[:3], target[3:]], layers=2)
    first = features.encoder.initial_block
    both = torch.cat([first.conv(target), first.pool(target)], dim=1)
    torch.testing.assert_close(first.bn.target.running_mean, both.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.bn.target.running_var, both.var(dim=(0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
    second = features.encoder.layers[0].bn
    assert not torch.equal(second.target.running_var, second.source.running_var)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_python(name: str) -> None:
    network = build(name, num_classes=5)
    assert_exported(network.features, network.make_head())


@pytest.mark.parametrize("shape", [(2, 1, 32, 64), (2, 3, 32, 60), (2, 3, 30, 64), (3, 32, 64), (2, 3, 0, 64)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    features = build("erfnet-encoder", num_classes=5).features
    with pytest.raises(ValueError, match=r"H and W multiples of 8 for a ERFNetEncoder, got .*resize or pad"):
        features(torch.zeros(shape))

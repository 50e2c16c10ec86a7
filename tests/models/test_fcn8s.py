"""FCN-8s: its size, its values against the paper's transposed convolutions and crops, static and dynamic.

All but the counts are of a network of the same plan and a few channels: the real one takes two seconds to build.
"""

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
from torch.nn.functional import conv_transpose2d, max_pool2d, pad

from dynconv.models import DynamicSpec, build


def test_the_parameters_are_those_of_vgg16_and_three_scoring_layers() -> None:
    # 134 M in the paper's table 1.
    with torch.device("meta"):
        network = build("fcn8s", num_classes=21)
        dynamic = build("fcn8s", num_classes=21, dynamic=DynamicSpec()).features
    widths = (3, 64, 64, 128, 128, 256, 256, 256, *6 * (512,))
    convolutions = sum((9 * a + 1) * b for a, b in zip(widths, widths[1:], strict=False))
    linear = (49 * 512 + 1) * 4096 + (4096 + 1) * 4096
    assert parameters(network.features) == convolutions + linear == 134_260_544
    assert parameters(network.make_head()) == (257 + 513 + 4097) * 21
    assert network.features.out_features == 16 * 256 + 4 * 512 + 4096
    # The 3x3 and not the 7x7.
    assert dynamic_names(dynamic) == [f"vgg.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (128, 160)])
def test_the_scores_are_those_of_fixed_transposed_convolutions_and_crops(size: tuple[int, int]) -> None:
    network = build("fcn8s", num_classes=5)
    features, head = network.features.double().eval(), network.make_head().double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    pictures = images(2, *size).double()
    with torch.no_grad():
        maps, pools = pad(pictures, (99,) * 4), []
        for layer in features.vgg:
            if isinstance(layer, nn.MaxPool2d):
                # Caffe's, whose last window may be a half.
                pools.append(maps := max_pool2d(maps, 2, ceil_mode=True))
            else:
                maps = layer(maps)
        maps = features.fc7(features.fc6(maps).relu()).relu()
        scores = enlarged(head.score(maps), 2)
        # The scales of pool4 and pool3 are of "at once" training.
        scores = scores + cut(head.score_pool4(0.01 * pools[3]), scores, 5)
        scores = enlarged(scores, 2)
        scores = scores + cut(head.score_pool3(0.0001 * pools[2]), scores, 9)
        expected = cut(enlarged(scores, 8), pictures, 31)
        torch.testing.assert_close(head(features(pictures)), expected)


def enlarged(scores: Tensor, factor: int) -> Tensor:
    """A transposed convolution of each class with a tent of width 2 `factor`."""
    tent = 1 - (torch.arange(2 * factor).double() - factor + 0.5).abs() / factor
    kernel = (tent[:, None] * tent).expand(scores.shape[1], 1, -1, -1)
    return conv_transpose2d(scores, kernel, stride=factor, groups=scores.shape[1])


def cut(maps: Tensor, like: Tensor, offset: int) -> Tensor:
    return maps[..., offset : offset + like.shape[2], offset : offset + like.shape[3]]


@pytest.mark.usefixtures("narrow")
def test_every_pixel_is_labelled_and_the_skips_start_at_zero() -> None:
    network = build("fcn8s", num_classes=5)
    head = network.make_head()
    assert not any(
        parameter.any() for layer in (head.score_pool3, head.score_pool4) for parameter in layer.parameters()
    )
    # MCD's two heads must differ.
    assert not torch.equal(head.score.weight, network.make_head().score.weight)
    assert_labels_every_pixel(network.features, head, 5, images(2, 32, 64))
    assert head.low(network.features(images(1, 32, 64))).shape == (1, 5, 6, 10)
    assert network.features.dropout.p == 0.5


@pytest.mark.usefixtures("narrow")
def test_the_taps_are_the_poolings_and_the_last_two_convolutions() -> None:
    features = build("fcn8s", num_classes=5).features
    found = tapped(features, images(1, 32, 64))
    assert tuple(found) == features.taps
    # The margin of 99 makes 230 x 262 of 32 x 64, and the poolings round up.
    assert [tuple(output.shape[1:]) for output in found.values()] == [
        (6, 29, 33),
        (8, 15, 17),
        (8, 8, 9),
        (16, 2, 3),
        (16, 2, 3),
    ]


@pytest.mark.usefixtures("narrow")
def test_a_dynamic_network_is_trained_from_scratch() -> None:
    network = build("fcn8s", num_classes=5, dynamic=DynamicSpec("combined", num_bases=2))
    assert_trains_dynamically(network.features, network.make_head(), images(2, 32, 32))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_it_leaves_python() -> None:
    network = build("fcn8s", num_classes=5)
    assert_exported(network.features, network.make_head(), (32, 64))


@pytest.mark.usefixtures("narrow")
def test_images_of_another_size_are_refused() -> None:
    features = build("fcn8s", num_classes=5).features
    for shape in ((2, 3, 32, 40), (2, 3, 40, 64)):
        with pytest.raises(ValueError, match=r"H and W multiples of 32 for a FCN8s"):
            features(torch.zeros(shape))

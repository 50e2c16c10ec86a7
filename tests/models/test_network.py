"""What every backbone has in common: its input, bottleneck and heads, and what is refused."""

from __future__ import annotations

import pytest
import torch

from dynconv.models import NAMES, SEGMENTATION, DynamicSpec, NetworkInput, build, input_of


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("resnet101", *SEGMENTATION)])
@pytest.mark.parametrize("bottleneck", [0, 7])
def test_features_have_the_announced_size_and_width(name: str, bottleneck: int) -> None:
    network = build(name, num_classes=5, bottleneck=bottleneck, weights="none")
    assert NetworkInput(network.image_size, network.normalisation) == input_of(name, "none")
    assert network.features.image_size == network.image_size
    features = network.features.eval()(torch.randn(1, 3, network.image_size, network.image_size))
    assert features.shape == (1, network.features.out_features)
    assert not bottleneck or network.features.out_features == bottleneck
    assert network.make_head()(features).shape == (1, 5)
    assert network.pretrained == []


def test_the_bottleneck_is_cdans_and_stands_after_the_same_backbone() -> None:
    torch.manual_seed(0)
    plain = build("resnet-small", num_classes=5).features.eval()
    torch.manual_seed(0)
    narrow = build("resnet-small", num_classes=5, bottleneck=256).features.eval()
    layer = narrow.bottleneck
    assert (layer.in_features, layer.out_features) == (256, 256)
    assert layer.weight.std().item() == pytest.approx(0.005, rel=0.02)
    assert (layer.bias == 0.1).all()
    images = torch.randn(2, 3, 64, 64)
    features = narrow(images)
    torch.testing.assert_close(features, layer(plain(images)))
    assert (features < 0).any(), "nothing follows the linear layer"


def test_input_of_says_what_a_network_will_take() -> None:
    expected = {
        ("lenet-small", "auto"): (32, "half", "image", 1),
        ("lenet-m3sda", "some.pth"): (32, "half", "image", 1),
        ("resnet-small", "auto"): (64, "half", "image", 1),
        ("resnet50", "auto"): (224, "imagenet", "image", 1),
        ("resnet101", "imagenet"): (224, "imagenet", "image", 1),
        ("resnet101", "some.pth"): (224, "imagenet", "image", 1),
        ("resnet50", "none"): (224, "half", "image", 1),
        ("erfnet-encoder", "auto"): (0, "half", "pixel", 8),
        ("drn26", "some.pth"): (0, "imagenet", "pixel", 8),
        ("fcn8s", "none"): (0, "half", "pixel", 32),
    }
    assert {arguments: input_of(*arguments) for arguments in expected} == expected


def test_heads_start_apart() -> None:
    network = build("lenet-small", num_classes=10)
    assert not torch.equal(network.make_head().weight, network.make_head().weight)


def test_bad_names_and_numbers_are_refused() -> None:
    digits = "lenet-small, lenet-m3sda, lenet-gam, dtn"
    listed = f"{digits}, resnet-small, resnet50, resnet101, erfnet-encoder, erfnet, drn26, fcn8s"
    for call in (lambda: build("lenet", num_classes=10), lambda: input_of("lenet")):
        with pytest.raises(ValueError, match=f"backbone: expected one of {listed}, got 'lenet'"):
            call()
    with pytest.raises(ValueError, match="num_classes: expected at least 2, got 1"):
        build("lenet-small", num_classes=1)
    with pytest.raises(ValueError, match="norm: expected 'batch' or 'none', got 'group'"):
        build("lenet-small", num_classes=10, norm="group")
    able = f"{digits}, erfnet-encoder, erfnet, drn26, fcn8s"
    with pytest.raises(ValueError, match=f"norm: 'none' is for {able}; resnet-small is made for"):
        build("resnet-small", num_classes=10, norm="none")
    with pytest.raises(ValueError, match="bottleneck: expected the width of a layer, or 0 for none, got -1"):
        build("lenet-small", num_classes=10, bottleneck=-1)
    for name in SEGMENTATION:
        with pytest.raises(ValueError, match=f"bottleneck: .* {name} gives maps; give 0, got 256"):
            build(name, num_classes=10, bottleneck=256)
    for name in ("lenet-small", "resnet-small", "drn26"):
        with pytest.raises(ValueError, match=f"ImageNet weights of resnet50 and resnet101, not of {name}"):
            build(name, num_classes=10, weights="imagenet")
    for field, value in (("num_bases", 0), ("reduction", 0), ("temperature", 0.0), ("temperature", float("nan"))):
        with pytest.raises(ValueError, match=f"{field}: expected .*, got {value}"):
            DynamicSpec(**{field: value})

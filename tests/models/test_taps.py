"""Taps: every network announces its layers, and their activations are handed out as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynconv.models import NAMES, Features, build
from dynconv.models.taps import SCORES, layer_names, resolve_layer, tapped

SMALL = [name for name in NAMES if name not in ("resnet50", "resnet101", "fcn8s")]


@pytest.mark.parametrize("name", SMALL)
def test_every_network_names_its_layers_in_the_order_of_execution(name: str) -> None:
    features = build(name, num_classes=5, weights="none").features.eval()
    side = features.image_size or 16
    order: list[str] = []
    for tap in features.taps:
        features.get_submodule(tap).register_forward_hook(lambda *_, tap=tap: order.append(tap))
    with torch.no_grad(), tapped(features, features.taps) as found:
        output = features(torch.randn(2, 3, side, side))
    assert tuple(order) == features.taps == tuple(found) and len(features.taps) > 1
    assert all(len(activations) == 2 for activations in found.values())
    # The last one is what the network gives.
    torch.testing.assert_close(found[features.taps[-1]].reshape(output.shape), output)
    assert layer_names(features) == (*features.taps, SCORES)


def test_a_bottleneck_is_a_layer_too() -> None:
    features = build("lenet-small", num_classes=5, bottleneck=7).features
    assert features.taps[-2:] == ("trunk.linear.3", "bottleneck")


def test_the_erfnet_of_gam_has_17_layers() -> None:
    features = build("erfnet-encoder", num_classes=5).features
    assert len(layer_names(features)) == 17
    assert [resolve_layer(features, number) for number in ("1", "4", "8", "17")] == [
        "encoder.initial_block",
        "encoder.layers.2",
        "encoder.layers.6",
        SCORES,
    ]
    # Any other module may be named.
    assert resolve_layer(features, "encoder.layers.0.conv") == "encoder.layers.0.conv"
    for wrong in ("0", "18", "", "decoder", "-1"):
        with pytest.raises(ValueError, match=r"1 to 17"):
            resolve_layer(features, wrong)


class _InPlace(Features):
    image_size, out_features, taps = 4, 3, ("conv", "relu")

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace)
        self.wide = nn.Unflatten(1, (3, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.wide(self.relu(self.conv(images))).flatten(1)


def test_what_is_changed_in_place_or_is_no_map_is_refused() -> None:
    images = torch.randn(2, 3, 4, 4)
    with tapped(_InPlace(False), ("conv",)) as found:
        pass
    assert not found
    network = _InPlace(True)
    with pytest.raises(ValueError, match="what conv gives is changed in place by what comes behind it"):  # noqa: SIM117
        with tapped(network, ("conv",)):
            network(images)
    with tapped(network, ("relu",)) as found:
        network(images)
        with pytest.raises(ValueError, match="relu runs several times in a pass"):
            network(images)
    assert found["relu"].shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"wide gives \(2, 3, 1, 4, 4\)"), tapped(network, ("wide",)):
        network(images)
    # Nothing stays behind.
    network(images)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_two_names_of_one_output_are_refused() -> None:
    features = build("lenet-small", num_classes=5).features.eval()
    with pytest.raises(ValueError, match=r"linear gives the same as linear.3; name one of both"):  # noqa: SIM117
        with tapped(features, ("linear.3", "linear")):
            features(torch.zeros(1, 3, 32, 32))
    twice = build("erfnet-encoder", num_classes=5).features.eval()
    (name,) = [n for n, _ in twice.named_modules() if n == "encoder.layers.1.relu"] or ["encoder.layers.1"]
    with pytest.raises(ValueError, match="runs several times in a pass"), tapped(twice, (name,)):
        twice(torch.zeros(1, 3, 16, 16))

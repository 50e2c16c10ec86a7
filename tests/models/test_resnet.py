"""The ResNets: their sizes, the memory format, and dynamic convolutions in their blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynconv.models import DynamicSpec, build, dynamic_parameters
from dynconv.nn import DynamicConv2d


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


# torchvision's published counts less the classifier's 2,048 x 1,000 + 1,000.
@pytest.mark.parametrize(("name", "count"), [("resnet50", 25_557_032), ("resnet101", 44_549_160)])
def test_torchvisions_networks_come_without_their_classifier(name: str, count: int) -> None:
    features = build(name, num_classes=31, weights="none").features
    assert parameters(features) == count - 2_049_000
    assert features.out_features == 2048


def test_the_small_resnet_has_four_stages_and_costs_what_it_says() -> None:
    features = build("resnet-small", num_classes=31).features
    # Stem, then each stage's convolutions, projection and batch norms, by hand.
    assert parameters(features) == 928 + 18_560 + 57_728 + 230_144 + 919_040
    shapes: list[tuple[int, ...]] = []
    macs = []
    for layer in convolutions(features):
        layer.register_forward_hook(
            lambda module, inputs, output: macs.append(output[0].numel() * module.weight[0].numel())
        )
    for block in features.layers[4:8]:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    features(torch.randn(2, 3, 64, 64))
    assert shapes == [(2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]
    assert sum(macs) == pytest.approx(16.6e6, rel=0.01)


def test_the_small_resnet_learns_a_few_images_by_heart() -> None:
    torch.manual_seed(0)
    network = build("resnet-small", num_classes=4)
    model = nn.Sequential(network.features, network.make_head())
    images, labels = torch.randn(16, 3, 64, 64), torch.arange(16) % 4
    optimiser = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for _ in range(12):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    assert (model(images).argmax(dim=1) == labels).all()


@pytest.mark.parametrize("name", ["resnet-small", "resnet50"])
def test_the_3x3_of_the_blocks_become_dynamic_and_know_the_blocks_input(name: str) -> None:
    spec = DynamicSpec("combined", num_bases=2, reduction=8, temperature=3.0, scale_activation="hard")
    features = build(name, num_classes=4, dynamic=spec, weights="none").features
    dynamic = [layer for layer in convolutions(features) if isinstance(layer, DynamicConv2d)]
    static = [layer for layer in convolutions(features) if not isinstance(layer, DynamicConv2d)]
    assert len(dynamic) == {"resnet-small": 8, "resnet50": 16}[name]
    assert all(layer.kernel_size == (3, 3) and layer.num_bases == 2 for layer in dynamic)
    assert max(layer.kernel_size for layer in static) == ((3, 3) if name == "resnet-small" else (7, 7))
    # From scratch no basis starts at a pair that cancels.
    assert all(layer.basis[: layer.out_channels].add(layer.basis[layer.out_channels :]).any() for layer in dynamic)
    twin = build(name, num_classes=4, weights="none").features
    assert parameters(features) - sum(map(torch.Tensor.numel, dynamic_parameters(features))) == parameters(twin)
    features(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in features.parameters())


@pytest.mark.parametrize("name", ["resnet-small", "resnet50"])
def test_weights_and_activations_are_channels_last(name: str) -> None:
    features = build(name, num_classes=4, weights="none").features
    formats = []
    for layer in convolutions(features):
        layer.register_forward_hook(
            lambda module, inputs, output: formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    features(torch.randn(2, 3, 64, 64))
    assert len(formats) > 8 and all(formats)


@pytest.mark.parametrize("name", ["resnet-small", "resnet50"])
@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 64, 32), (3, 64, 64)])
def test_images_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    features = build(name, num_classes=4, weights="none").features
    with pytest.raises(ValueError, match=r"images: expected square colour images \(B, 3, S, S\), got"):
        features(torch.zeros(shape))

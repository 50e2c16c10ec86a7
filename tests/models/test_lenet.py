"""The LeNets: sizes as published, static and dynamic twins, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynconv.models import DynamicSpec, LeNet, build, dynamic_parameters
from dynconv.nn import DynamicConv2d

NAMES = ("lenet-small", "lenet-m3sda")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "features", "head"),
    [
        ("lenet-m3sda", 31_785_408, 2048 * 10 + 10),
        ("lenet-small", 263_840, 1290),
        # Caffe's LeNet has 431,080.
        ("lenet-gam", 431_080 - 5010, 5010),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, features: int, head: int) -> None:
    # 31.8 M is what M3SDA's digits network is known to have; the sum over its layers, by hand, is the first figure.
    network = build(name, num_classes=10)
    assert parameters(network.features) == features
    assert parameters(network.make_head()) == head


def test_gams_layers_see_the_luma_of_28_x_28_images() -> None:
    features = build("lenet-gam", num_classes=10).features.eval()
    shapes = [
        (layer.in_channels, layer.out_channels, layer.kernel_size, layer.padding) for layer in convolutions(features)
    ]
    assert shapes == [(1, 20, (5, 5), (0, 0)), (20, 50, (5, 5), (0, 0))]
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) for layer in features.modules())
    images = torch.rand(2, 3, 28, 28) * 2 - 1
    seen: list[torch.Tensor] = []
    first = features.get_submodule("convolutions.0")
    first.register_forward_hook(lambda _layer, given, _output: seen.append(given[0]))
    assert features(images).shape == (2, 500)
    red, green, blue = ((images + 1) / 2).unbind(dim=1)
    torch.testing.assert_close(seen[0], (0.2989 * red + 0.5870 * green + 0.1140 * blue)[:, None])
    with pytest.raises(ValueError, match=r"expected \(B, 3, 28, 28\), got \(2, 3, 32, 32\)"):
        features(torch.zeros(2, 3, 32, 32))


def test_m3sda_layers_are_those_of_the_method_sheet() -> None:
    features = build("lenet-m3sda", num_classes=10).features
    shapes = [
        (layer.in_channels, layer.out_channels, layer.kernel_size, layer.padding) for layer in convolutions(features)
    ]
    assert shapes == [(3, 64, (5, 5), (2, 2)), (64, 64, (5, 5), (2, 2)), (64, 128, (5, 5), (2, 2))]
    pools = [layer for layer in features.modules() if isinstance(layer, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [(3, 2, 1)] * 2
    order = [type(layer) for layer in features.linear]
    fully = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert order == [nn.Flatten, *fully, nn.Dropout, *fully]
    widths = [(layer.in_features, layer.out_features) for layer in features.linear if isinstance(layer, nn.Linear)]
    assert widths == [(8192, 3072), (3072, 2048)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dynamic", [None, DynamicSpec()])
def test_features_have_the_announced_width(name: str, dynamic: DynamicSpec | None) -> None:
    network = build(name, num_classes=7, dynamic=dynamic)
    features = network.features(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, network.features.out_features)
    assert network.make_head()(features).shape == (2, 7)


def test_heads_start_apart() -> None:
    network = build("lenet-small", num_classes=10)
    assert not torch.equal(network.make_head().weight, network.make_head().weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_network_has_no_static_convolution(name: str) -> None:
    layers = convolutions(build(name, num_classes=10, dynamic=DynamicSpec()).features)
    assert len(layers) == 3
    assert all(isinstance(layer, DynamicConv2d) for layer in layers)
    assert not any(isinstance(layer, DynamicConv2d) for layer in convolutions(build(name, num_classes=10).features))


@pytest.mark.parametrize("residual", ["subspace", "channel", "combined"])
def test_dynamic_parameters_are_those_the_static_twin_lacks(residual: str) -> None:
    dynamic = build("lenet-small", num_classes=10, dynamic=DynamicSpec(residual=residual, num_bases=2)).features
    added = dynamic_parameters(dynamic)
    assert parameters(dynamic) - sum(map(torch.Tensor.numel, added)) == 263_840
    branches = [(3, 4, 24), (24, 4, 48), (48, 4, 64)]
    expected = 0
    for cin, hidden, cout in branches:
        bases = 0 if residual == "channel" else 2
        scales = 0 if residual == "subspace" else cout
        expected += bases * cin * cout + hidden * (cin + bases + scales)
    assert sum(map(torch.Tensor.numel, added)) == expected


def test_a_dynamic_spec_reaches_every_convolution() -> None:
    spec = DynamicSpec(
        "combined", num_bases=3, basis_kernel_size=None, reduction=2, temperature=5.0, scale_activation="hard"
    )
    images = torch.randn(4, 3, 32, 32)
    for layer in convolutions(build("lenet-small", num_classes=10, dynamic=spec).features):
        reference = DynamicConv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding, residual="combined",
            num_bases=3, basis_kernel_size=None, reduction=2, temperature=5.0, scale_activation="hard",
        )  # fmt: skip
        # Before the weights are made the same, for a temperature is part of them.
        assert layer.state_dict()["branch.temperature"] == reference.state_dict()["branch.temperature"] == 5
        reference.load_state_dict(layer.state_dict())
        images = images[:, :1].expand(-1, layer.in_channels, -1, -1)
        torch.testing.assert_close(layer(images), reference(images))
        assert repr(layer) == repr(reference)


def test_a_dynamic_network_answers_to_the_sample() -> None:
    torch.manual_seed(0)
    features = build("lenet-small", num_classes=10, dynamic=DynamicSpec()).features.double()
    layer = convolutions(features)[0]
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    images[1] = 3 * images[0] + 1
    # With coefficients that are the same for every image a convolution without bias is linear; here it is not.
    with torch.no_grad():
        layer.bias.zero_()
        ones = torch.ones(1, 3, 32, 32, dtype=torch.float64)
        mixed = layer(images[1:])
        linear = 3 * layer(images[:1]) + layer(ones)
    assert (mixed - linear).abs().max() > 1e-4


def test_norm_none_leaves_no_batch_statistics() -> None:
    features = build("lenet-small", num_classes=10, norm="none").features
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in features.modules())
    assert features(torch.randn(1, 3, 32, 32)).shape == (1, features.out_features)


def test_weights_and_activations_are_channels_last() -> None:
    features = build("lenet-small", num_classes=10, dynamic=DynamicSpec()).features
    first, second, _ = convolutions(features)
    assert second.weight.is_contiguous(memory_format=torch.channels_last)
    formats = []
    for layer in (first, second):
        layer.register_forward_hook(
            lambda module, inputs, output: formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
    features(torch.randn(2, 3, 32, 32))
    assert formats == [True, True]


def test_memory_format_of_the_images_does_not_change_the_features() -> None:
    features = build("lenet-small", num_classes=10).features.double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(features(images), features(last), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    features = build("lenet-small", num_classes=10).features
    with pytest.raises(ValueError, match=r"images: expected \(B, 3, 32, 32\)"):
        features(torch.zeros(shape))


def test_dropout_stands_only_between_fully_connected_layers() -> None:
    features = LeNet((), (8, 8), dropout=0.5)
    assert [type(layer).__name__ for layer in features.linear if not isinstance(layer, nn.BatchNorm1d)] == [
        "Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU",
    ]  # fmt: skip

"""Weights of segmentation networks from files with our names and with those of published files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segmentation_networks import GROUPS, dynamic_names, images, make_narrow
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from dynconv.models import DynamicSpec, Network, build, dynamic_parameters


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    make_narrow(monkeypatch)


def filled(network: Network) -> Network:
    """With running statistics of its own."""
    for layer in network.features.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    return network


def saved(state: dict[str, Tensor], folder: Path) -> str:
    path = folder / "weights.pth"
    torch.save(state, path)
    return str(path)


def maps_of(network: Network) -> Tensor:
    with torch.no_grad():
        return network.features.eval()(images())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


ERFNETS = ("ours", "released", "encoder of ImageNet")


@pytest.mark.parametrize("kind", ERFNETS)
def test_erfnets_encoder_from_every_file(kind: str, tmp_path: Path) -> None:
    whole = filled(build("erfnet", num_classes=19)).features.state_dict()
    encoder = {name: value for name, value in whole.items() if name.startswith("encoder.")}
    scores = {"encoder.output_conv.weight": torch.zeros(19, 128, 1, 1), "encoder.output_conv.bias": torch.zeros(19)}
    made = {
        "ours": encoder,
        "released": prefixed(whole | scores | {"decoder.output_conv.bias": torch.zeros(19)}, "module."),
        "encoder of ImageNet": {
            **prefixed(encoder, "module.features."),
            "module.classifier.linear.weight": torch.zeros(1000, 128),
        },
    }
    loaded = build("erfnet-encoder", num_classes=5, weights=saved(made[kind], tmp_path))
    assert loaded.normalisation == "imagenet"
    # The decoder of the whole network has 104 tensors.
    left_out = {
        "ours": None,
        "released": "decoder.layers.0.conv.weight, ",
        "encoder of ImageNet": "classifier.linear.weight; the network's own scores are learnt anew",
    }
    assert loaded.notice is None if left_out[kind] is None else f"left out: {left_out[kind]}" in str(loaded.notice)
    assert len(loaded.pretrained) == len(list(loaded.features.parameters()))
    own = loaded.features.state_dict()
    assert own.keys() == encoder.keys() and all(torch.equal(own[name], encoder[name]) for name in own)


def test_the_whole_erfnet_from_its_own_file_and_from_an_encoders(tmp_path: Path) -> None:
    whole = filled(build("erfnet", num_classes=19))
    state = whole.features.state_dict()
    scores = {"decoder.output_conv.weight": torch.zeros(16, 19, 2, 2), "decoder.output_conv.bias": torch.zeros(19)}
    loaded = build("erfnet", num_classes=5, weights=saved(prefixed(state | scores, "module."), tmp_path))
    torch.testing.assert_close(maps_of(loaded), maps_of(whole))
    named = "left out: decoder.output_conv.weight, decoder.output_conv.bias; the network's own scores are learnt anew"
    assert loaded.notice == f"--weights {tmp_path / 'weights.pth'}: {named}"
    assert len(loaded.pretrained) == len(list(loaded.features.parameters()))
    encoder = {name: value for name, value in state.items() if name.startswith("encoder.")}
    path = saved(encoder, tmp_path)
    half = build("erfnet", num_classes=5, weights=path)
    assert half.notice == f"--weights {path}: the file holds the encoder alone; the decoder starts at random"
    assert {id(each) for each in half.pretrained} == {id(each) for each in half.features.encoder.parameters()}
    found = half.features.state_dict()
    assert all(torch.equal(found[name], value) for name, value in encoder.items())


@pytest.mark.parametrize("kind", ["ImageNet", "segmentation"])
def test_drn_26_from_published_names(kind: str, tmp_path: Path) -> None:
    own = filled(build("drn26", num_classes=19))
    state = own.features.state_dict()
    if kind == "ImageNet":
        path = saved(state | {"fc.weight": torch.zeros(1000, 40, 1, 1), "fc.bias": torch.zeros(1000)}, tmp_path)
    else:
        # The published module is a sequence of the network's children, the ReLU among them.
        children = ["conv1", "bn1", "relu", *(f"layer{level}" for level in range(1, 9))]
        numbered = {
            f"base.{children.index(name.partition('.')[0])}.{name.partition('.')[2]}": value
            for name, value in state.items()
        }
        scores = {"seg.weight": torch.zeros(19, 40, 1, 1), "seg.bias": torch.zeros(19)}
        path = saved(
            {"state_dict": prefixed(numbered | scores | {"up.weight": torch.zeros(19, 1, 16, 16)}, "module.")}, tmp_path
        )
    loaded = build("drn26", num_classes=5, weights=path)
    torch.testing.assert_close(maps_of(loaded), maps_of(own))
    left_out = {"ImageNet": "fc.weight, fc.bias", "segmentation": "seg.weight, seg.bias, up.weight"}[kind]
    assert loaded.notice == f"--weights {path}: left out: {left_out}; the network's own scores are learnt anew"


def test_fcn_8s_from_vgg16(tmp_path: Path) -> None:
    # torchvision's own layers, fewer channels.
    layers = make_layers([each for group in GROUPS for each in (*group, "M")])
    linear = nn.Sequential(
        *(nn.Linear(8 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 9))
    )
    published = prefixed(layers.state_dict(), "features.") | prefixed(linear.state_dict(), "classifier.")
    loaded = build("fcn8s", num_classes=5, weights=saved(published, tmp_path)).features.eval()
    pictures = images(2, 224, 224)
    with torch.no_grad():
        maps = loaded.vgg(pictures)
        torch.testing.assert_close(maps, layers(pictures))
        found = loaded.fc7(loaded.fc6(maps).relu())
        torch.testing.assert_close(found.flatten(1), linear[:4].eval()(maps.flatten(1)))
    # CyCADA's names, and ours.
    cycada = prefixed(layers.state_dict(), "vgg.") | {
        "vgg_head.0.weight": loaded.fc6.weight,
        "vgg_head.0.bias": loaded.fc6.bias,
        "vgg_head.3.weight": loaded.fc7.weight,
        "vgg_head.3.bias": loaded.fc7.bias,
        "vgg_head.6.weight": torch.zeros(19, 16, 1, 1),
        "score_pool4.weight": torch.zeros(19, 8, 1, 1),
        "upscore2.weight": torch.zeros(19, 19, 4, 4),
    }
    expected = loaded.state_dict()
    for state, left_out in ((cycada, "vgg_head.6.weight, score_pool4.weight, upscore2.weight"), (expected, "")):
        network = build("fcn8s", num_classes=5, weights=saved(state, tmp_path))
        again = network.features.state_dict()
        assert all(torch.equal(again[name], expected[name]) for name in expected)
        assert f"left out: {left_out};" in str(network.notice) if left_out else network.notice is None


@pytest.mark.parametrize("name", ["erfnet-encoder", "drn26"])
def test_a_dynamic_network_starts_exactly_at_the_weights(name: str, tmp_path: Path) -> None:
    own = filled(build(name, num_classes=19))
    path = saved(own.features.state_dict(), tmp_path)
    spec = DynamicSpec("combined", num_bases=2, scale_activation="hard")
    network = build(name, num_classes=19, dynamic=spec, weights=path)
    torch.testing.assert_close(maps_of(network), maps_of(own), rtol=1e-3, atol=1e-4)
    added = {id(parameter) for parameter in dynamic_parameters(network.features)}
    assert added and added.isdisjoint(map(id, network.pretrained))
    network.features(images()).square().mean().backward()
    for convolution in dynamic_names(network.features):
        halves = network.features.get_submodule(convolution).basis.grad.chunk(2)
        assert halves[0].any(), convolution


@pytest.mark.parametrize("name", ["erfnet-encoder", "drn26", "fcn8s"])
def test_a_file_of_another_network_is_refused_by_names(name: str, tmp_path: Path) -> None:
    path = saved({"body.0.weight": torch.zeros(1)}, tmp_path)
    first = {"erfnet-encoder": "encoder.initial_block.conv", "drn26": "conv1", "fcn8s": "vgg.0"}[name]
    with pytest.raises(
        ValueError, match=rf"weights.pth does not fit.*missing: {first}.weight.*unexpected: body.0.weight"
    ):
        build(name, num_classes=5, weights=path)


def test_dilated_networks_of_another_depth_are_refused(tmp_path: Path) -> None:
    state = build("drn26", num_classes=5).features.state_dict()
    state["layer3.2.conv1.weight"] = torch.zeros(24, 24, 3, 3)
    with pytest.raises(ValueError, match=r"unexpected: layer3.2.conv1.weight"):
        build("drn26", num_classes=5, weights=saved(state, tmp_path))

"""Weights from files of every common kind, and torchvision's from its cache or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from dynconv.models import DynamicSpec, build, dynamic_parameters


def short(weights: None = None) -> ResNet:
    """A block a stage: 8 million parameters instead of 26, under the same names."""
    return ResNet(Bottleneck, [1, 1, 1, 1])


@pytest.fixture(autouse=True)
def short_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "resnet50", short)


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """A network with random weights, statistics included: as good as published ones for every test here."""
    torch.manual_seed(0)
    model = short()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def expected(published: nn.Module) -> Tensor:
    """Features of `images()` by torchvision's own network."""
    trunk = nn.Sequential(*list(published.children())[:-1], nn.Flatten())
    with torch.no_grad():
        return trunk(images())


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def assert_features(found: Tensor, expected: Tensor) -> None:
    # Values up to 200 whose layers are summed in another order: channels_last here, torchvision's own there.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


def features_of(path: Path | str, **options: Any) -> nn.Module:
    return build("resnet50", num_classes=4, weights=str(path), **options).features.eval()


def without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("kind", ["plain", "no-fc", "other-fc", "wrapped", "parallel", "safetensors"])
def test_a_file_of_any_common_kind_gives_torchvisions_features(
    kind: str, published: nn.Module, expected: Tensor, tmp_path: Path
) -> None:
    state = published.state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        made: dict[str, Any] = {
            "plain": state,
            "no-fc": without_classifier(state),
            "other-fc": {**state, "fc.weight": torch.zeros(31, 2048)},
            "wrapped": {"epoch": 3, "state_dict": state},
            "parallel": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        }
        torch.save(made[kind], path)
    assert_features(features_of(path)(images()), expected)


def test_what_came_with_the_weights_is_named(published: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(published.state_dict(), path)
    spec = DynamicSpec(num_bases=2)
    network = build("resnet50", num_classes=4, weights=str(path), bottleneck=8, dynamic=spec)
    names = {id(parameter): name for name, parameter in network.features.named_parameters()}
    pretrained = {names.pop(id(parameter)).removeprefix("trunk.trunk.") for parameter in network.pretrained}
    assert pretrained == {name for name, _ in published.named_parameters() if not name.startswith("fc.")}
    new = {id(parameter) for parameter in dynamic_parameters(network.features)}
    assert {name for key, name in names.items() if key not in new} == {"bottleneck.weight", "bottleneck.bias"}
    assert new <= set(names)


def test_a_dynamic_network_starts_exactly_at_the_weights(
    published: nn.Module, expected: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(published.state_dict(), path)
    assert_features(features_of(path, dynamic=DynamicSpec())(images()), expected)
    with pytest.raises(ValueError, match="scale_activation='hard'"):
        features_of(path, dynamic=DynamicSpec("channel"))


@pytest.mark.parametrize("dynamic", [None, DynamicSpec(num_bases=2)])
def test_a_lenet_takes_a_file_too(dynamic: DynamicSpec | None, tmp_path: Path) -> None:
    first = build("lenet-small", num_classes=4).features.eval()
    path = tmp_path / "weights.pth"
    torch.save(first.state_dict(), path)
    second = build("lenet-small", num_classes=4, weights=str(path), dynamic=dynamic)
    shots = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(second.features.eval()(shots), first(shots))
    assert len(second.pretrained) == len(list(first.parameters()))


def test_what_does_not_fit_is_listed(published: nn.Module, tmp_path: Path) -> None:
    state = dict(published.state_dict())
    del state["layer1.0.conv1.weight"], state["bn1.num_batches_tracked"]
    state["head.weight"] = torch.zeros(3)
    state["conv1.weight"] = torch.zeros(8, 3, 7, 7)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(ValueError) as error:
        features_of(path)
    message = str(error.value)
    assert f"--weights {path} does not fit" in message
    assert "missing: layer1.0.conv1.weight;" in message, "a missing counter of batches is no fault"
    assert "unexpected: head.weight;" in message
    assert "other shapes: conv1.weight (8, 3, 7, 7) for (64, 3, 7, 7)" in message
    torch.save(build("lenet-small", num_classes=4).features.state_dict(), path)
    with pytest.raises(ValueError, match=r"missing: conv1.weight, .* and \d+ more; unexpected: convolutions.0.weight"):
        features_of(path)


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file; expected auto, none, imagenet or a file"):
        build("lenet-small", num_classes=4, weights=str(tmp_path / "none.pth"))
    path = tmp_path / "weights.pth"
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read .*; expected a state_dict"):
        build("lenet-small", num_classes=4, weights=str(path))
    for value, what in (([1], "a list"), ({"epoch": 1}, "a mapping with epoch"), ({}, "a mapping with nothing")):
        torch.save(value, path)
        with pytest.raises(ValueError, match=f"expected a state_dict .* the file holds {what}"):
            build("lenet-small", num_classes=4, weights=str(path))
    # A pickled module would run code of the file.
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="cannot be read"):
        build("lenet-small", num_classes=4, weights=str(path))


def test_imagenet_weights_come_from_torchvisions_cache(
    published: nn.Module, expected: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(published.state_dict(), cache / "resnet50-0676ba61.pth")
    for weights in ("auto", "imagenet"):
        network = build("resnet50", num_classes=4, weights=weights)
        assert_features(network.features.eval()(images()), expected)
        assert network.normalisation == "imagenet" and network.pretrained


def test_a_failed_download_says_where_the_file_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refused)
    with pytest.raises(ValueError) as error:
        build("resnet101", num_classes=4)
    message = str(error.value)
    file = tmp_path / "hub" / "checkpoints" / "resnet101-63fe2227.pth"
    for word in (str(file), "no network", "TORCH_HOME", "--weights FILE", "--weights none"):
        assert word in message

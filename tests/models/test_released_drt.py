"""Files with the names of released DRT's dynamic ResNet: what they give, and what they are refused for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet101
from torchvision.models.resnet import Bottleneck, ResNet

from dynconv.methods import SourceOnly, SourceOnlyConfig
from dynconv.models import DynamicSpec, Network, build, dynamic_parameters
from dynconv.models.released_drt import renamed
from dynconv.nn import to_dynamic

K = 4


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> ResNet:
    """A quarter of the width, one or two blocks a stage: what `resnet50` is for the test. Its own random weights."""
    small = functools.partial(ResNet, Bottleneck, [2, 1, 1, 1], width_per_group=16)
    monkeypatch.setattr("torchvision.models.resnet50", lambda weights: small())
    torch.manual_seed(0)
    model = small().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def released(model: ResNet, bases: int = K) -> dict[str, Tensor]:
    """The state of a static network and, of each block, a branch and bases, by the names of the release."""
    state = dict(model.state_dict())
    for name, block in model.named_modules():
        if isinstance(block, Bottleneck):
            inplanes, planes = block.conv1.in_channels, block.conv2.in_channels
            squeeze = max(inplanes // 16, 4)
            like = {"dtype": block.conv2.weight.dtype, "device": block.conv2.weight.device}
            state[f"{name}.fc.0.weight"] = torch.randn(squeeze, inplanes, **like)
            state[f"{name}.fc.2.weight"] = torch.randn(bases, squeeze, **like)
            for index in range(1, bases + 1):
                state[f"{name}.conv_s{index}.weight"] = torch.randn(planes, planes, 1, 1, **like) / planes**0.5
    return state


def four_convolutions(model: ResNet, state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Features as the release computes them: y = softmax(fc(mean of x)), conv2(h) + sum_k y_k conv_sk(h)."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    for name, block in model.named_modules():
        if isinstance(block, Bottleneck):
            hidden = F.relu(x.mean(dim=(2, 3)) @ state[f"{name}.fc.0.weight"].T)
            y = torch.softmax(hidden @ state[f"{name}.fc.2.weight"].T, dim=1)
            h = F.relu(block.bn1(block.conv1(x)))
            out = block.conv2(h)
            for index in range(K):
                own = F.conv2d(h, state[f"{name}.conv_s{index + 1}.weight"], stride=block.conv2.stride)
                out = out + y[:, index, None, None, None] * own
            out = block.bn3(block.conv3(F.relu(block.bn2(out))))
            x = F.relu(out + (x if block.downsample is None else block.downsample(x)))
    return x.mean(dim=(2, 3))


def network(state: dict[str, Tensor], folder: Path, **fields: Any) -> Network:
    file = folder / "released.pth"
    torch.save(state, file)
    given = {"dynamic": DynamicSpec()} | fields
    # Weights of float64 stay what they are.
    torch.set_default_dtype(torch.float64)
    try:
        return build("resnet50", num_classes=3, weights=str(file), **given)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("prefix", ["module.features.", "features.", "module.", ""])
def test_the_features_are_those_of_the_four_convolutions(prefix: str, reduced: ResNet, tmp_path: Path) -> None:
    state = released(reduced)
    classifier = prefix.removesuffix("features.") + ("classifier." if "features" in prefix else "fc.")
    named = {prefix + name: value for name, value in state.items() if not name.startswith("fc.")}
    made = network(named | {f"{classifier}weight": torch.zeros(1000, 2048)}, tmp_path)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    left_out = "classifier.weight" if "features" in prefix else "fc.weight"
    assert str(made.notice).endswith(f"came with the weights; its classifier is left out ({left_out})")
    expected = four_convolutions(reduced, state, images)
    static = nn.Sequential(*list(reduced.children())[:-1], nn.Flatten())(images)
    assert (expected - static).abs().max() > 0.1
    torch.testing.assert_close(made.features.eval()(images), expected, rtol=1e-10, atol=1e-10)


def test_bases_and_branches_came_with_the_file(reduced: ResNet, tmp_path: Path) -> None:
    made = network(released(reduced), tmp_path, bottleneck=8)
    pretrained = {id(parameter) for parameter in made.pretrained}
    assert {id(parameter) for parameter in dynamic_parameters(made.features)} <= pretrained
    assert {n for n, p in made.features.named_parameters() if id(p) not in pretrained} == {
        "bottleneck.weight",
        "bottleneck.bias",
    }


@pytest.mark.parametrize(("own", "factor"), [(True, 0.1), (False, 10.0)])
def test_what_the_file_has_learns_as_pretrained_and_what_it_lacks_ten_times_as_fast(
    own: bool, factor: float, reduced: ResNet, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(released(reduced) if own else reduced.state_dict(), file)
    fields = {"lr": 1.0, "pretrained_lr_factor": 0.1, "residual_lr_factor": 10.0, "bottleneck": 8}
    config = SourceOnlyConfig(backbone="resnet50", weights=str(file), residual="subspace", **fields)
    method = SourceOnly(config, 3)
    groups = method.optimisers()["features"].param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    residual = {id(parameter) for parameter in dynamic_parameters(method.features)}
    assert len(residual) == 15
    for name, parameter in method.features.named_parameters():
        wanted = factor if id(parameter) in residual else 1.0 if name.startswith("bottleneck") else 0.1
        assert rates[id(parameter)] == pytest.approx(wanted), name
    assert (method.notice is not None) is own


@pytest.mark.parametrize(
    ("dynamic", "given"),
    [
        (None, "residual 'none'"),
        (DynamicSpec(num_bases=2), "num_bases 2"),
        (DynamicSpec("combined", scale_activation="hard"), "residual 'combined'"),
        (DynamicSpec(basis_kernel_size=None, reduction=8), "basis_kernel_size None, reduction 8"),
        (DynamicSpec(temperature=0.1), "temperature 0.1"),
    ],
)
def test_another_network_is_refused(dynamic: DynamicSpec | None, given: str, reduced: ResNet, tmp_path: Path) -> None:
    options = "--residual subspace --num-bases 4 --basis-kernel-size 1 --reduction 16 --temperature 1.0"
    with pytest.raises(ValueError, match=rf"this one is another \({given}\); give {options}, or a file of a static"):
        network(released(reduced), tmp_path, dynamic=dynamic)


def test_the_number_of_bases_is_the_files(reduced: ResNet, tmp_path: Path) -> None:
    assert network(released(reduced, bases=2), tmp_path, dynamic=DynamicSpec(num_bases=2)).pretrained
    with pytest.raises(ValueError, match=r"another \(num_bases 4\); give --residual subspace --num-bases 2 "):
        network(released(reduced, bases=2), tmp_path)


def test_what_does_not_fit_is_listed(reduced: ResNet, tmp_path: Path) -> None:
    state = released(reduced)
    del state["layer1.1.conv_s3.weight"], state["layer2.0.fc.2.weight"]
    state["layer3.0.fc.0.weight"] = torch.zeros(4, 512)
    with pytest.raises(ValueError) as error:
        network(state, tmp_path)
    message = str(error.value)
    assert "missing: layer1.1.conv_s3.weight, layer2.0.fc.2.weight;" in message
    assert "other shapes: layer3.0.fc.0.weight (4, 512) for (32, 512)" in message
    # The rest is held against the names of a static network.
    state = released(reduced)
    state |= {"layer1.0.fc.0.bias": torch.zeros(4), "layer4.9.conv_s1.weight": torch.zeros(1)}
    del state["layer4.0.bn3.running_mean"]
    with pytest.raises(ValueError, match="missing: layer4.0.bn3.running_mean; unexpected: layer1.0.fc.0.bias, "):
        network(state, tmp_path)


@pytest.mark.parametrize("dynamic", [None, DynamicSpec()])
def test_branches_without_any_basis_are_a_damaged_file(
    dynamic: DynamicSpec | None, reduced: ResNet, tmp_path: Path
) -> None:
    state = {name: value for name, value in released(reduced).items() if "conv_s" not in name}
    with pytest.raises(ValueError, match=r"branches of released DRT.* \(layer1.0.fc.0.weight, .* and 4 more\) and none "
                       r"of its bases \(conv_s1 to conv_sK\): it is damaged; give the whole file"):  # fmt: skip
        network(state, tmp_path, dynamic=dynamic)


def test_a_resnet101_takes_every_name_of_the_release() -> None:
    with torch.device("meta"):
        state = released(resnet101(weights=None))
        trunk = to_dynamic(resnet101(weights=None), **DynamicSpec().options())
        # Of 33 blocks; released DRT-ResNet-101 has so many parameters more than torchvision's.
        assert len(dynamic_parameters(trunk)) == 99
        assert sum(parameter.numel() for parameter in dynamic_parameters(trunk)) == 11_603_664
        found = renamed(state, trunk, "file")
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in trunk.state_dict().items()}

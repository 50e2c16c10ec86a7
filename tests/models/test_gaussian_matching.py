"""Gaussian matching against loops over whole tensors, and what it must not touch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from processes import forked
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dynconv.models import (
    build,
    domain_norms,
    match_gaussian,
    matched_layers,
    moments,
    set_target_statistics,
    split_by_domain,
)
from dynconv.models.moments import Moments

MATCHED = ["1", "3", "5", "9"]


def network() -> nn.Sequential:
    """Layers of all kinds, each followed by a nonlinearity of its own kind, but for the last two."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 2, groups=2, dilation=2, bias=False),
        nn.LeakyReLU(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.GELU(),
        nn.Linear(5, 4),
        nn.Linear(4, 3),
    ).double()
    with torch.no_grad():
        for layer in (net[0], net[3], net[5], net[9], net[11], net[12]):
            layer.weight.mul_(3)
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    nn.init.uniform_(net[1].weight, 0.5, 2.0)
    return net.eval()


def images(seed: int, count: int = 12) -> Tensor:
    drawn = torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn if seed == 1 else (0.4 * drawn + 1).abs()


def in_chunks(values: Tensor, size: int = 5) -> Callable[[], Iterator[Tensor]]:
    return lambda: iter(values.split(size))


def by_channel(values: Tensor) -> list[tuple[float, float]]:
    """Mean and deviation of each channel of (B, C, ...), one number after the other."""
    found = []
    for channel in range(values.shape[1]):
        numbers = values[:, channel].flatten().tolist()
        mean = sum(numbers) / len(numbers)
        found.append((mean, (sum((number - mean) ** 2 for number in numbers) / len(numbers)) ** 0.5))
    return found


@torch.no_grad()
def naive(net: nn.Sequential, source: Tensor, target: Tensor, matched: list[str]) -> Tensor:
    """What the matched network gives of `target`: eq. 2 as an operation of its own behind every layer."""
    for name, layer in net.named_children():
        source, target = layer(source.clone()), layer(target.clone())
        if name in matched:
            pairs = zip(by_channel(source), by_channel(target), strict=True)
            for channel, ((mean_s, deviation_s), (mean_t, deviation_t)) in enumerate(pairs):
                target[:, channel] = deviation_s / deviation_t * (target[:, channel] - mean_t) + mean_s
    return target


@torch.no_grad()
def outputs(net: nn.Module, names: list[str], given: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _layer, _inputs, output, name=name: found.__setitem__(name, output.clone())
        )
        for name in names
    ]
    net(given)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("layers", ["hidden", "all"])
def test_it_is_eq_2_behind_every_layer_in_turn(layers: str) -> None:
    net, source, target = network(), images(1), images(2)
    names = MATCHED if layers == "hidden" else [*MATCHED, "11", "12"]
    wanted = naive(net, source, target, names)
    before = outputs(net, names, source)
    assert (net(target) - wanted).abs().max() > 0.1
    found = match_gaussian(net, None, in_chunks(source), in_chunks(target, 7), layers=layers)
    assert [layer.name for layer in found] == names
    torch.testing.assert_close(net(target), wanted, rtol=1e-10, atol=1e-10)
    # At the end every layer is matched at once, and the layers are those that there were.
    after = outputs(net, names, target)
    for layer in found:
        pairs = zip(by_channel(before[layer.name]), by_channel(after[layer.name]), strict=True)
        for of_source, of_target in pairs:
            assert of_target == pytest.approx(of_source, rel=1e-10, abs=1e-10)
    assert net.state_dict().keys() - network().state_dict().keys() == {"3.bias"}
    assert [type(layer) for layer in net] == [type(layer) for layer in network()]


def test_batches_do_not_matter_and_every_layer_of_the_target_has_a_pass_of_its_own() -> None:
    states, passes = [], []
    for size in (1, 5, 12):
        net = network()
        net[9].register_forward_hook(lambda *_: passes.append(1))
        match_gaussian(net, None, in_chunks(images(1), size), in_chunks(images(2), size), layers=MATCHED)
        states.append(net.state_dict())
    for other in states[1:]:
        for key, value in states[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-12, atol=1e-12)
    # Of the source all batches once, one image for the order, and of the target those for the layer itself alone.
    assert len(passes) == (12 + 1 + 12) + (3 + 1 + 3) + (1 + 1 + 1)


def match_a_share(rank: int, folder: Path) -> None:
    net = network()
    # Shares of different sizes: the mean of the two means is not the mean.
    shares = [(each[:3], each[3:])[rank] for each in (images(1), images(2))]
    match_gaussian(net, None, in_chunks(shares[0], 2), in_chunks(shares[1]))
    torch.save(net.state_dict(), folder / f"{rank}.pt")


def test_two_processes_match_as_one(tmp_path: Path) -> None:
    forked(match_a_share, tmp_path)
    net = network()
    match_gaussian(net, None, in_chunks(images(1)), in_chunks(images(2)))
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_a_channel_without_variance_in_the_target_is_shifted_alone_and_one_of_the_source_becomes_constant() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
    source, target = images(1).float(), images(2).float()
    # Of no exact sum in float32.
    target[:, 0], source[:, 1] = 0.1, 0.7
    weight, of_source = net[0].weight.clone(), net[0](source)
    first, _ = match_gaussian(net, None, in_chunks(source), in_chunks(target))
    assert first.unscaled == 1 and float(first.scale[0]) == 1.0 and float(first.scale[1]) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(net[0].weight[0], weight[0], rtol=0, atol=0)
    given = net[0](target)
    torch.testing.assert_close(given.mean((0, 2, 3)), of_source.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    assert float(given[:, 1].std()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        assert net(target).isfinite().all()


@torch.no_grad()
def test_with_the_sources_exact_statistics_it_is_adabn() -> None:
    torch.manual_seed(0)
    features = build("lenet-small", num_classes=3).features.double().eval()
    for layer in features.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.weight, -2.0, 2.0)
            nn.init.normal_(layer.bias)
            # The only difference: AdaBN adds it to the variance.
            layer.eps = 0.0
    source, target = (torch.randn(6, 3, 32, 32, dtype=torch.float64) for _ in range(2))
    target = (0.5 * target + 0.3) ** 2
    split_by_domain(features, shared_affine=True)
    set_target_statistics(features, in_chunks(source, 4))
    plain = build("lenet-small", num_classes=3).features.double().eval()
    state = {key.replace(".target", ""): value for key, value in features.state_dict().items() if ".source" not in key}
    plain.load_state_dict(state)
    norms = [layer for layer in plain.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.eps = 0.0
    set_target_statistics(features, in_chunks(target, 4))
    assert (
        len(domain_norms(features)) == len(match_gaussian(plain, None, in_chunks(source, 4), in_chunks(target, 4))) == 4
    )
    torch.testing.assert_close(plain(target), features(target), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_digits_in_a_network_without_normalisation_have_the_sources_moments_at_every_layer() -> None:
    torch.manual_seed(0)
    network = build("lenet-small", num_classes=10, norm="none")
    net = nn.Sequential(network.features, network.make_head()).double().eval()
    digits = torch.from_numpy(load_digits().images[:80]) / 8 - 1
    digits = F.interpolate(digits[:, None].expand(-1, 3, -1, -1), size=32, mode="bilinear")
    source, target = digits[:40], 0.5 - 0.4 * digits[40:]
    names = list(matched_layers(net, target, "all"))
    assert len(names) == 5
    wanted = outputs(net, names, source)
    match_gaussian(net, None, in_chunks(source, 16), in_chunks(target, 16), layers="all")
    found = outputs(net, names, target)
    for name in names:
        for one, other in ((wanted[name], found[name]), (found[name], wanted[name])):
            axes = [axis for axis in range(one.dim()) if axis != 1]
            torch.testing.assert_close(other.mean(axes), one.mean(axes), rtol=0, atol=1e-10)
            torch.testing.assert_close(other.std(axes, correction=0), one.std(axes, correction=0), rtol=0, atol=1e-10)


def test_of_two_networks_the_target_alone_changes_and_they_must_be_alike() -> None:
    source, target = network(), network()
    with torch.no_grad():
        target[3].weight.mul_(3.0)
    before = copy.deepcopy(source.state_dict())
    match_gaussian(source, target, in_chunks(images(1)), in_chunks(images(2)))
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())
    # The target's own scale does not matter: eq. 2 takes it away.
    alone = network()
    match_gaussian(alone, None, in_chunks(images(1)), in_chunks(images(2)))
    torch.testing.assert_close(target(images(2)), alone(images(2)), rtol=1e-9, atol=1e-9)
    other = network()
    other[3] = nn.Conv2d(4, 6, 2, dilation=2).double().eval()
    with pytest.raises(ValueError, match=r"target: its layer 3 is Conv2d\(4, 6.*the source's network has Conv2d\(4, 6"):
        match_gaussian(source, other, in_chunks(images(1)), in_chunks(images(2)))


class Residual(nn.Module):
    """Nonlinearities that are functions, a residual, a convolution behind a nonlinearity in place, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.third = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.scores, self.others, self.unused = nn.Conv2d(4, 2, 1), nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = self.norm(F.relu_(self.first(x)))
        x = x + self.third(F.silu(self.second(x)))
        return {"maps": F.interpolate(self.scores(F.elu(x)), scale_factor=2.0), "more": [self.others(x.mean((2, 3)))]}


def test_a_nonlinearity_is_found_wherever_it_is_and_outputs_of_any_form_are_looked_at() -> None:
    torch.manual_seed(0)
    net = Residual().double().eval()
    assert list(matched_layers(net, images(1))) == ["first", "norm", "second", "third"]
    assert list(matched_layers(net, images(1), "all")) == ["first", "norm", "second", "third", "scores", "others"]
    assert list(matched_layers(net, images(1), ("scores", "second"))) == ["second", "scores"]
    with pytest.raises(ValueError, match="layers: unused is none of the layers that can be matched: first, norm, oth"):
        matched_layers(net, images(1), ("second", "unused"))
    with pytest.raises(ValueError, match="layers: expected 'hidden', 'all' or names of layers, got 'last'"):
        matched_layers(net, images(1), "last")
    with pytest.raises(ValueError, match="the network has no layer to match"):
        matched_layers(nn.Sequential(nn.Conv2d(3, 2, 1)).double().eval(), images(1))


class Twice(nn.Module):
    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        if shared:
            self.two.weight = self.one.weight
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return F.relu((self.two if self.shared else self.one)(F.relu(self.one(x))))


def test_what_cannot_be_matched_is_refused() -> None:
    rows = torch.randn(3, 4)
    for shared, message in ((False, "one runs 2 times in a pass"), (True, "one shares its weights with another")):
        with pytest.raises(ValueError, match=message):
            match_gaussian(Twice(shared).eval(), None, in_chunks(rows), in_chunks(rows))
    net = network()
    with pytest.raises(ValueError, match="target_batches: expected at least one image in every process, got none"):
        match_gaussian(net, None, in_chunks(images(1)), lambda: iter(()))
    with pytest.raises(ValueError, match="source_batches: no image came to the layer 1 of the source's network"):
        match_gaussian(net, None, lambda: iter(()), in_chunks(images(2)))
    net[2].train()
    with pytest.raises(ValueError, match=r"source: the network is in training mode.*call eval\(\)"):
        match_gaussian(net, None, in_chunks(images(1)), in_chunks(images(2)))


@pytest.mark.slow
def test_a_compiled_network_is_matched_as_it_is_without() -> None:
    plain, compiled = network(), network()
    compiled.compile()
    for net in (plain, compiled):
        match_gaussian(net, None, in_chunks(images(1)), in_chunks(images(2)))
    for key, value in plain.state_dict().items():
        assert torch.equal(compiled.state_dict()[key], value), key


@torch.no_grad()
def test_in_low_precision_every_layer_sees_what_was_folded_into_those_before_it() -> None:
    net, source, target = network().float(), images(1).float(), images(2).float()
    wanted = copy.deepcopy(net)
    match_gaussian(wanted, None, in_chunks(source), in_chunks(target))
    with torch.autocast("cpu", torch.bfloat16):
        match_gaussian(net, None, in_chunks(source), in_chunks(target))
    torch.testing.assert_close(net(target), wanted(target), rtol=0.05, atol=0.05)


def test_moments_of_more_values_than_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = images(2).transpose(1, 2).float()
    whole = Moments()
    whole.add(values, channel=2)
    assert whole.mean.dtype == torch.float64
    monkeypatch.setattr(moments, "CHUNK", 100)
    parts = Moments()
    for part in values.split(5):
        parts.add(part, channel=2)
    for one, other in zip(whole.pooled(), parts.pooled(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.pooled()[1], values.double().var((0, 1, 3), correction=0), rtol=1e-12, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("lenet-small", "batch"),
        ("lenet-small", "none"),
        ("dtn", "none"),
        ("resnet-small", "batch"),
        ("erfnet-encoder", "batch"),
        ("erfnet-encoder", "none"),
    ],
)
def test_no_backbone_gets_parameters_that_it_had_none_of(name: str, norm: str) -> None:
    network = build(name, num_classes=3, norm=norm)
    net = nn.Sequential(network.features, network.make_head()).eval()
    size = network.image_size or 16
    found = matched_layers(net, torch.randn(1, 3, size, size), "all")
    # A state that a checkpoint holds has to fit the network as it is built.
    assert len(found) >= 5 and all(layer.bias is not None for layer in found.values())


def test_a_layer_that_does_not_reach_the_output_is_none_of_the_last() -> None:
    class WithAnotherHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores, self.others = nn.Linear(3, 2), nn.Linear(3, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            self.others(inputs)
            return self.scores(inputs)

    network = WithAnotherHead().eval()
    assert list(matched_layers(network, torch.ones(1, 3))) == ["others"]
    assert set(matched_layers(network, torch.ones(1, 3), "all")) == {"others", "scores"}

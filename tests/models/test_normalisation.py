"""Batch normalisation of two domains, on networks small enough for statistics by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from processes import forked
from torch import Tensor, nn

from dynconv.models import (
    DomainBatchNorm,
    build,
    domain_norms,
    normalised_as,
    set_target_statistics,
    split_by_domain,
    statistics_held,
)
from dynconv.models.weights import weights_left_out


def two_layers(shared_affine: bool = True) -> nn.Sequential:
    """Two normalisations with a nonlinear layer between them, so that the order of their statistics matters."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2)).double()
    for layer in (net[1], net[4]):
        nn.init.uniform_(layer.weight, 0.5, 2.0)
        nn.init.normal_(layer.bias)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    split_by_domain(net, shared_affine=shared_affine)
    return net.eval()


def data(count: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(count, 3, dtype=torch.float64, generator=generator) + 1


def in_chunks(values: Tensor, size: int) -> Callable[[], Iterator[Tensor]]:
    return lambda: iter(values.split(size))


def test_each_domain_has_its_own_layer_and_the_target_is_the_default() -> None:
    net = two_layers(shared_affine=False)
    with torch.no_grad():
        net[1].target.bias += 5
    x = data()
    default = net(x)
    with normalised_as(net, "source"):
        of_source = net(x)
        with normalised_as(net, "target"):
            assert torch.equal(net(x), default)
        assert torch.equal(net(x), of_source)
    assert torch.equal(net(x), default)
    assert (of_source - default).abs().max() > 0.1
    with (
        pytest.raises(ValueError, match="domain: expected 'source' or 'target', got 'usps'"),
        normalised_as(net, "usps"),
    ):
        pass


def test_the_domain_is_restored_after_an_error() -> None:
    net = two_layers()
    with pytest.raises(RuntimeError), normalised_as(net, "source"):
        raise RuntimeError
    assert [layer.domain for layer in domain_norms(net)] == ["target", "target"]


def test_a_split_network_computes_what_it_did_before() -> None:
    for name in ("lenet-small", "resnet-small"):
        features = build(name, num_classes=3).features.double().eval()
        images = torch.randn(2, 3, features.image_size, features.image_size, dtype=torch.float64)
        for norm in features.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.running_mean.normal_()
        wanted = features(images)
        for shared in (True, False):
            split = copy.deepcopy(features)
            split_by_domain(split, shared_affine=shared)
            assert len(domain_norms(split)) == sum("BatchNorm" in type(layer).__name__ for layer in features.modules())
            for domain in ("source", "target"):
                with normalised_as(split, domain):
                    torch.testing.assert_close(split(images), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_affine_parameters_are_shared_or_not_and_stay_so(shared: bool) -> None:
    net = two_layers(shared)
    linear = 2 * 2
    assert len(list(net.parameters())) == linear + (4 if shared else 8)
    copied = copy.deepcopy(net)
    restored = two_layers(shared)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    restored.load_state_dict(net.state_dict())
    for made in (net.float(), copied, restored):
        for layer in domain_norms(made):
            assert (layer.source.weight is layer.target.weight) is shared
            assert (layer.source.bias is layer.target.bias) is shared
            assert layer.source.running_mean is not layer.target.running_mean
    for key, value in net.double().state_dict().items():
        torch.testing.assert_close(restored.state_dict()[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_conversion_to_synchronised_statistics_finds_every_layer(shared: bool) -> None:
    net = two_layers(shared)
    wanted = {domain: None for domain in ("source", "target")}
    for domain in wanted:
        with normalised_as(net, domain):
            wanted[domain] = net(data())
    parameters = {id(parameter) for parameter in net.parameters()}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for layer in domain_norms(converted):
        assert isinstance(layer.source, nn.SyncBatchNorm) and isinstance(layer.target, nn.SyncBatchNorm)
        assert (layer.source.weight is layer.target.weight) is shared
    assert len(domain_norms(converted)) == 2
    # Optimisers that were made before still hold what is trained.
    assert {id(parameter) for parameter in converted.parameters()} == parameters
    for domain, value in wanted.items():
        with normalised_as(converted, domain):
            assert torch.equal(converted(data()), value)


def test_held_statistics_are_used_and_kept_and_gradients_flow() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).double().train()
    net[0].running_mean.copy_(torch.tensor([1.0, -1.0]))
    net[0].running_var.copy_(torch.tensor([4.0, 9.0]))
    before = copy.deepcopy(net.state_dict())
    x = torch.tensor([[3.0, 2.0], [5.0, 5.0]], dtype=torch.float64)
    with statistics_held(net):
        assert net[1].training
        out = net[0](x)
    # (x - mean) / deviation, but for eps = 1e-5.
    torch.testing.assert_close(out, torch.tensor([[1.0, 1.0], [2.0, 2.0]]).double(), rtol=1e-5, atol=0)
    out.sum().backward()
    assert (net[0].weight.grad != 0).all() and (net[0].bias.grad == 2).all()
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert net[0].training
    net[0](x)
    assert net[0].num_batches_tracked == 1
    with statistics_held(net.eval()):
        pass
    assert not net[0].training


def test_target_statistics_are_those_of_the_population_at_every_layer() -> None:
    net, x = two_layers(), data()
    calls: list[int] = []
    net[3].register_forward_hook(lambda *_: calls.append(1))
    of_source = {key: value.clone() for key, value in net.state_dict().items() if ".target.running" not in key}
    set_target_statistics(net, in_chunks(x, 7))
    # Once to find the order, and for the second layer in each of the 8 chunks: a pass ends at the layer it is for.
    assert len(calls) == 9

    def normalised(values: Tensor, layer: DomainBatchNorm) -> Tensor:
        scaled = (values - values.mean(0)) / (values.var(0, correction=0) + layer.target.eps).sqrt()
        return scaled * layer.source.weight + layer.source.bias

    first = net[0](x)
    second = net[3](normalised(first, net[1]).relu())
    for values, layer in ((first, net[1]), (second, net[4])):
        torch.testing.assert_close(layer.target.running_mean, values.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.target.running_var, values.var(0, correction=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(x), normalised(second, net[4]), rtol=1e-12, atol=1e-12)
    for key, value in of_source.items():
        assert torch.equal(net.state_dict()[key], value), key


def test_target_statistics_do_not_depend_on_batches_or_on_what_was_there() -> None:
    x, found = data(), []
    for size, start in ((1, 0.0), (7, 100.0), (50, -3.0)):
        net = two_layers()
        for layer in domain_norms(net):
            layer.target.running_mean.fill_(start)
        set_target_statistics(net, in_chunks(x, size))
        set_target_statistics(net, in_chunks(x, size))
        found.append(net.state_dict())
    for other in found[1:]:
        for key, value in found[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["lenet-small", "resnet-small"])
def test_target_statistics_of_a_backbone_are_those_of_one_large_batch(name: str) -> None:
    torch.manual_seed(0)
    features = build(name, num_classes=3).features.double().eval()
    split_by_domain(features, shared_affine=True)
    images = torch.randn(6, 3, features.image_size, features.image_size, dtype=torch.float64)
    set_target_statistics(features, in_chunks(images, 4))
    adapted = features(images)
    # In training mode one batch of everything is normalised by exactly its own mean and variance.
    with normalised_as(features, "source"):
        torch.testing.assert_close(features.train()(images), adapted, rtol=1e-9, atol=1e-9)


def adapt_a_share(rank: int, folder: Path) -> None:
    net = two_layers()
    # Shares of different sizes: the mean of the two means is not the mean.
    share = data()[:11] if rank == 0 else data()[11:]
    set_target_statistics(net, in_chunks(share, 5))
    torch.save(net.state_dict(), folder / f"{rank}.pt")


def test_target_statistics_are_those_of_all_processes_together(tmp_path: Path) -> None:
    forked(adapt_a_share, tmp_path)
    net = two_layers()
    set_target_statistics(net, in_chunks(data(), 50))
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-12, atol=1e-12)


def test_target_statistics_want_an_image() -> None:
    with pytest.raises(ValueError, match="batches: expected at least one target image in every process, got none"):
        set_target_statistics(two_layers(), lambda: iter(()))


def test_weights_are_left_out_within_the_context_alone(tmp_path: Path) -> None:
    missing = str(tmp_path / "deleted.pt")
    with weights_left_out():
        network = build("lenet-small", num_classes=3, weights=missing)
    # Whatever replaces them came with weights too.
    assert len(network.pretrained) == len(list(network.features.parameters()))
    with pytest.raises(ValueError, match="there is no such file"):
        build("lenet-small", num_classes=3, weights=missing)

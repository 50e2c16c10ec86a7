"""AdaBN: the target's own statistics in as many layers as asked, and nothing else than source-only training."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from processes import forked
from sklearn.datasets import load_digits
from torch import Tensor

from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.methods import AdaBN, AdaBNConfig, SourceOnly, SourceOnlyConfig
from dynconv.models import domain_norms, network
from dynconv.models.lenet import Stage


def make(**fields: object) -> AdaBN:
    torch.manual_seed(0)
    return AdaBN(AdaBNConfig(**fields), 3).double()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalisation_policy": "separate"}, "normalisation_policy: 'separate' is not AdaBN|normalises target"),
        ({"normalisation_policy": "source-only"}, "'source-only' is not AdaBN.* choose the method source-only"),
        ({"norm": "none"}, "norm: 'none' leaves AdaBN nothing to adapt; choose norm 'batch'"),
        ({"statistics_images": -1}, "statistics_images: expected at least 0, got -1"),
        ({"adapted_layers": -1}, "adapted_layers: expected at least 0, got -1"),
    ],
)
def test_what_is_not_adabn_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaBNConfig(**fields)


def test_more_layers_than_there_are_are_refused() -> None:
    number = len(domain_norms(make().features))
    make(adapted_layers=number)
    words = f"adapted_layers: lenet-small has {number} batch normalisations, got {number + 1}; 0 adapts all"
    with pytest.raises(ValueError, match=re.escape(words)):
        make(adapted_layers=number + 1)


def test_it_trains_as_source_only_does(batch: Batch, train: Callable) -> None:
    torch.manual_seed(0)
    plain = SourceOnly(SourceOnlyConfig(), 3).double()
    losses = [[float(update.loss.detach()) for update in train(method, [batch] * 3, 3)] for method in (make(), plain)]
    assert losses[0] == losses[1]


@torch.no_grad()
@pytest.mark.parametrize("adapted", [1, 2, 0])
def test_statistics_are_those_of_what_reaches_each_adapted_layer(adapted: int, batch: Batch) -> None:
    method = make(adapted_layers=adapted).train()
    # So that the source's statistics are not those that a network starts with.
    list(method.updates(batch))
    images = batch.target.images
    naive = make(adapted_layers=adapted)
    naive.load_state_dict(method.state_dict())
    norms = domain_norms(naive.eval().features)
    for norm in norms:
        for name in ("running_mean", "running_var"):
            norm.target.get_buffer(name).copy_(norm.source.get_buffer(name))
    for norm in norms[: adapted or len(norms)]:
        seen: list[Tensor] = []
        handle = norm.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].clone()))
        naive.features(images)
        handle.remove()
        for channel in range(seen[0].shape[1]):
            values = [float(value) for value in seen[0][:, channel].flatten()]
            mean = sum(values) / len(values)
            norm.target.running_mean[channel] = mean
            norm.target.running_var[channel] = sum((value - mean) ** 2 for value in values) / len(values)
    method.eval().observe_target(lambda: iter(images.split(4)))
    for found, wanted in zip(domain_norms(method.features), norms, strict=True):
        torch.testing.assert_close(found.target.running_mean, wanted.target.running_mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.target.running_var, wanted.target.running_var, rtol=1e-9, atol=1e-9)


def observe_a_share(rank: int, folder: Path) -> None:
    for adapted in (0, 2):
        method = make(adapted_layers=adapted).eval()
        # Shares of different sizes: the mean of the two means is not the mean.
        share = observed()[:5] if rank == 0 else observed()[5:]
        method.observe_target(lambda share=share: iter(share.split(2)))
        torch.save(method.state_dict(), folder / f"{rank}-{adapted}.pt")


def observed() -> Tensor:
    return torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_two_processes_find_the_statistics_of_one(tmp_path: Path) -> None:
    forked(observe_a_share, tmp_path)
    for adapted in (0, 2):
        method = make(adapted_layers=adapted).eval()
        before = {name: value.clone() for name, value in method.state_dict().items()}
        method.observe_target(lambda: iter(observed().split(8)))
        wanted = method.state_dict()
        assert any(not torch.equal(value, before[name]) for name, value in wanted.items())
        for rank in range(2):
            found = torch.load(tmp_path / f"{rank}-{adapted}.pt")
            for name, value in wanted.items():
                torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_the_target_is_not_observed_in_training() -> None:
    for fields in ({}, {"adapted_layers": 1}):
        with pytest.raises(ValueError, match=r"observe_target: the method is in training mode; call eval\(\) first"):
            make(**fields).train().observe_target(lambda: iter([torch.zeros(2, 3, 32, 32, dtype=torch.float64)]))


def test_it_brings_the_domains_features_together_and_the_target_to_its_classes(
    train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A LeNet of one convolution: a step takes a few milliseconds.
    monkeypatch.setitem(network._LENETS, "lenet-small", network._Layout((Stage(8, 5, 0, (4, 4, 0)),), (32,)))
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    target, labels = 0.2 * images + 0.6, torch.from_numpy(data.target)
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(1200, (60, 32), generator=generator)
    drawn = [Batch(SourceBatch(images[p], labels[p], 0 * p), TargetBatch(target[p], p)) for p in picks]
    torch.manual_seed(0)
    method = AdaBN(AdaBNConfig(lr=3e-3), 10)
    train(method, drawn, 60)
    method.eval()

    @torch.no_grad()
    def shift_and_accuracy() -> tuple[float, float]:
        with method.evaluating_domain("source"):
            source = method.features(images[1200:])
        features = method.features(target[1200:])
        shift = (features.mean(dim=0) - source.mean(dim=0)).norm() / source.std(dim=0).norm()
        right = method.scores(features).argmax(dim=1) == labels[1200:]
        return float(shift), right.double().mean().item()

    for norm in domain_norms(method.features):
        norm.target.load_state_dict(norm.source.state_dict())
    before, poor = shift_and_accuracy()
    method.observe_target(lambda: target[:1200].split(400))
    after, good = shift_and_accuracy()
    # Seen: 0.67 and 0.17, accuracies of 0.10 and 0.93.
    assert after < 0.5 * before
    assert good > poor + 0.1

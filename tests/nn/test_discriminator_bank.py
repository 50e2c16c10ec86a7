from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from dynconv import reference
from dynconv.nn import DiscriminatorBank

SHAPES = {
    "three layers": {"num_layers": 3},
    "two layers": {"num_layers": 2},
    "linear": {"num_layers": 1},
    "leaky": {"activation": "leaky_relu", "negative_slope": 0.2},
    "gelu": {"activation": nn.GELU()},
    "shared trunk": {"shared_layers": 2},
    "shared layer": {"shared_layers": 1},
    "one": {"num": 1},
}


def bank(num: int = 4, dropout: float = 0.5, device: str = "cpu", **options: object) -> DiscriminatorBank:
    torch.manual_seed(0)
    return DiscriminatorBank(num, 6, 9, dropout=dropout, **options).double().to(device)


def batch(num: int = 4, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features, p = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((7, 6), (7, num)))
    features, p = features.to(device), p.to(device)
    return features.sub(0.5).requires_grad_(), (torch.arange(7, device=device) < 3).float(), p * (p > 0.3)


@pytest.mark.parametrize("name", SHAPES)
def test_a_bank_is_its_discriminators(name: str, device: str) -> None:
    bank_ = bank(device=device, **SHAPES[name]).eval()
    features, targets, p = batch(bank_.num, device)
    logits = bank_(features)
    single = [bank_.discriminator(index) for index in range(bank_.num)]
    assert logits.shape == (7, bank_.num)
    torch.testing.assert_close(logits, torch.cat([module(features) for module in single], dim=1))
    found = bank_.gradient_norms(features, targets, p)
    torch.testing.assert_close(found.logits, logits)
    for m, module in enumerate(single):
        z = module(features)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(z, targets.double(), p[:, m], reduction="sum")
        torch.testing.assert_close(found.losses[m], loss)
        torch.testing.assert_close(found.norms[:, m], torch.autograd.grad(loss, features)[0].norm(dim=1))


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_those_of_the_oracle(name: str, device: str) -> None:
    bank_ = bank(device=device, **SHAPES[name]).eval()
    features, targets, p = batch(bank_.num, device)
    activation = bank_.activation
    arguments = (features, bank_.weights, bank_.biases, targets, p)
    theirs = reference.feature_gradient_norms(*arguments, activation=activation)
    leaves = [features, *bank_.parameters()]
    expected = torch.autograd.grad(theirs[0].square().sum() + theirs[2].sum(), leaves, retain_graph=True)
    ours = bank_.gradient_norms(features, targets, p)
    for a, b in zip(torch.autograd.grad(ours.norms.square().sum() + ours.losses.sum(), leaves), expected, strict=True):
        torch.testing.assert_close(a, b)
    # The gradients of plain logits, which take another way.
    through_bank = torch.autograd.grad(bank_(features).square().sum(), leaves)
    for a, b in zip(through_bank, torch.autograd.grad(theirs[1].square().sum(), leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_each_discriminator_starts_as_nn_linear_does() -> None:
    torch.manual_seed(0)
    bank_ = DiscriminatorBank(50, 16, 64)
    linears = [nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 1)]
    for weight, bias, linear in zip(bank_.weights, bank_.biases, linears, strict=True):
        assert weight.shape[1:] == linear.weight.shape and bias.shape[1:] == linear.bias.shape
        bound = linear.in_features**-0.5
        for parameter in (weight, bias):
            assert parameter.abs().max() <= bound and parameter.abs().max() > 0.9 * bound
            assert abs(parameter.std().item() - bound / 3**0.5) < 0.15 * bound
    assert not torch.equal(bank_.weights[0][0], bank_.weights[0][1])
    assert sum(p.numel() for p in DiscriminatorBank(1, 2048).parameters()) == 1024 * 2048 + 1_051_649


def test_dropout_is_drawn_in_training_alone_once_per_call(device: str) -> None:
    bank_ = bank(num=8, device=device)
    features, targets, p = batch(8, device)
    torch.manual_seed(3)
    first = bank_.gradient_norms(features, targets, p)
    torch.manual_seed(3)
    masks = bank_.draw_masks(features)
    given = bank_.gradient_norms(features, targets, p, dropout_masks=masks)
    for a, b in zip(first, given, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(bank_.gradient_norms(features, targets, p).logits, first.logits)
    assert not torch.equal(bank_(features), bank_(features))
    assert [tuple(mask.shape) for mask in masks] == [(8, 7, 9)] * 2
    assert all(set(mask.unique().tolist()) == {0.0, 2.0} for mask in masks)
    assert abs(torch.cat(masks).mean().item() - 1) < 0.1
    bank_.eval()
    torch.testing.assert_close(bank_.gradient_norms(features, targets, p).logits, bank_(features))
    shared = bank(device=device, shared_layers=1)
    assert [tuple(mask.shape) for mask in shared.draw_masks(features)] == [(1, 7, 9), (4, 7, 9)]
    with torch.autocast(device, dtype=torch.bfloat16):
        assert all(mask.dtype == torch.bfloat16 for mask in bank(num=8, device=device).draw_masks(features.float()))


@pytest.mark.parametrize("rate", [1e-9, 0.1, 0.3, 0.5, 0.9, 0.99999999])
def test_masks_have_the_rate_and_mean_one(rate: float, device: str) -> None:
    torch.manual_seed(0)
    (mask,) = DiscriminatorBank(3, 5, 101, 2, dropout=rate).draw_masks(torch.zeros(333, 5, device=device))
    values = mask.unique()
    assert len(values) <= 2 and (values >= 0).all()
    if 0.01 < rate < 0.99:
        assert len(values) == 2 and abs((mask == 0).float().mean().item() - rate) < 0.005
        assert abs(mask.mean().item() - 1) < 0.02
        torch.testing.assert_close(values[1].item(), 1 / (1 - rate), rtol=1e-4, atol=0)
        # Neighbours, which may share a random word, are independent.
        kept = (mask.flatten() != 0).float()
        for lag in (1, 2, 3, 4):
            assert abs((kept[lag:] * kept[:-lag]).mean().item() - (1 - rate) ** 2) < 0.005


def test_dropout_of_the_logits_has_the_bank_rate(device: str) -> None:
    bank_ = bank(num=64, num_layers=2, dropout=0.25, device=device)
    with torch.no_grad():
        for parameter in bank_.parameters():
            parameter.fill_(0)
        bank_.bias_0.fill_(1)
        bank_.weight_1.fill_(1)
    logits = bank_(torch.zeros(100, 6, dtype=torch.float64, device=device))
    # Nine units of 0 or 4/3 each.
    assert abs(logits.mean().item() / 9 - 1) < 0.02
    assert logits.std() > 0


def test_a_discriminator_is_written_back(device: str) -> None:
    source, target = bank(device=device), bank(device=device)
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    module = source.discriminator(2)
    target.load_discriminator(1, module)
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(b[1], a[2], rtol=0, atol=0)
        assert (b[[0, 2, 3]] == 0).all()
    # A copy, not a view; and dropout does not matter.
    module[0].weight.data.zero_()
    assert (source.weights[0][2] != 0).any()
    plain = nn.Sequential(*(layer for layer in source.discriminator(0) if not isinstance(layer, nn.Dropout)))
    target.load_discriminator(0, plain)
    torch.testing.assert_close(target.weights[2][0], source.weights[2][0])
    assert module.training and not source.eval().discriminator(0).training


def test_what_cannot_be_written_back_is_refused_in_words() -> None:
    bank_ = bank()
    before = copy.deepcopy(bank_.state_dict())
    relu = r"module must be a sequence of Linear\(6, 9\), ReLU\(\), Linear\(9, 9\), ReLU\(\), Linear\(9, 1\)"
    for module, message in (
        (bank(num_layers=2).discriminator(0), relu),
        (bank(activation="leaky_relu").discriminator(0), r"LeakyReLU\(negative_slope=0.01\)"),
        (nn.Linear(6, 1), "got Linear"),
        (nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU()), r"Linear\(6, 9, without bias\)"),
    ):
        with pytest.raises(ValueError, match=message):
            bank_.load_discriminator(0, module)
    for index in (-1, 4):
        with pytest.raises(IndexError, match="index must be 0 to 3, for there are 4 discriminators"):
            bank_.discriminator(index)
    shared, other = bank(shared_layers=1), bank(shared_layers=1)
    shared.load_discriminator(0, shared.discriminator(3))
    nn.init.zeros_(other.weight_0)
    with pytest.raises(ValueError, match="linear layer 0 has other values than the bank's, which all 4"):
        shared.load_discriminator(0, other.discriminator(0))
    for name, tensor in before.items():
        torch.testing.assert_close(bank_.state_dict()[name], tensor, rtol=0, atol=0)


def test_state_copies_and_pickles(device: str) -> None:
    bank_ = bank(device=device, shared_layers=1).eval()
    assert list(bank_.state_dict()) == ["weight_0", "bias_0", "weight_1", "bias_1", "weight_2", "bias_2"]
    features, _, _ = batch(device=device)
    fresh = bank(device=device, shared_layers=1).eval()
    nn.init.zeros_(fresh.weight_1)
    fresh.load_state_dict(bank_.state_dict())
    for other in (fresh, copy.deepcopy(bank_), pickle.loads(pickle.dumps(bank_))):
        torch.testing.assert_close(other(features), bank_(features), rtol=0, atol=0)
    assert "4, in_features=6, hidden_features=9, num_layers=3, dropout=0.5, shared_layers=1" in repr(bank_)


def test_autocast_gives_norms_in_float32(device: str) -> None:
    bank_ = bank(device=device).float()
    features, targets, p = batch(device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = bank_.gradient_norms(features.float(), targets, p)
        assert bank_(features.float()).dtype == torch.bfloat16
    assert {t.dtype for t in found} == {torch.float32}
    (found.norms.sum() + found.losses.sum()).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in bank_.parameters())


def test_a_subclass_of_relu_is_taken_for_what_it_computes() -> None:
    class Doubled(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    bank_ = bank(activation=Doubled()).eval()
    features, targets, p = batch()
    torch.testing.assert_close(bank_.gradient_norms(features, targets, p).logits, bank_(features))


def test_functional_call_puts_other_parameters_in() -> None:
    bank_ = bank().eval()
    features, _, _ = batch()
    halved = {name: parameter / 2 for name, parameter in bank_.named_parameters()}
    found = torch.func.functional_call(bank_, halved, features)
    other = copy.deepcopy(bank_)
    other.load_state_dict(halved)
    torch.testing.assert_close(found, other(features))
    assert not torch.equal(found, bank_(features))


@pytest.mark.parametrize("rate", [0, 0.0])
def test_no_dropout_draws_masks_of_ones(rate: float) -> None:
    features, _, _ = batch()
    masks = bank(dropout=rate).train().draw_masks(features)
    assert all((mask == 1).all() for mask in masks)


def test_each_discriminator_may_have_features_of_its_own(device: str) -> None:
    features, _, _ = batch(device=device)
    for shared in (0, 2):
        bank_ = bank(device=device, shared_layers=shared).eval()
        own = torch.stack([features * (index + 1) for index in range(bank_.num)])
        found = bank_(own)
        for index in range(bank_.num):
            torch.testing.assert_close(found[:, index], bank_.discriminator(index)(own[index])[:, 0])


def test_a_compiled_step_has_no_graph_break(device: str) -> None:
    bank_ = bank(device=device)
    features, targets, p = batch(device=device)

    def step(features: Tensor) -> Tensor:
        found = bank_.gradient_norms(features, targets, p)
        return found.norms.sum() + found.losses.sum() + bank_(features).sum()

    for training in (True, False):
        bank_.train(training)
        assert torch.compile(step, fullgraph=True, backend="aot_eager")(features).isfinite()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features), step(features))
    torch._dynamo.reset()


BAD = {
    "num": ({"num": 0}, ValueError, "num must be at least 1; got 0"),
    "hidden": ({"hidden_features": 0}, ValueError, "hidden_features must be at least 1; got 0"),
    "layers": ({"num_layers": 0}, ValueError, "num_layers must be at least 1; got 0"),
    "dropout": ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and less than 1; got 1.0"),
    "shared": ({"shared_layers": 3}, ValueError, "shared_layers must be at least 0 and less than num_layers = 3"),
    "activation": ({"activation": "gelu"}, ValueError, "activation must be relu, leaky_relu or a module; got 'gelu'"),
    "function": ({"activation": torch.tanh}, TypeError, "activation must be relu, leaky_relu or a module"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_by_name(name: str) -> None:
    changes, error, message = BAD[name]
    with pytest.raises(error, match=message):
        DiscriminatorBank(**({"num": 4, "in_features": 6} | changes))

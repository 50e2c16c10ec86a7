from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynconv.nn import DynamicConv2d, collect_coefficients, to_dynamic


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # Registered in another order than run: vectors are in module order.
        self.second = DynamicConv2d(6, 5, 3, num_bases=2)
        self.first = DynamicConv2d(4, 6, 3, residual="combined", num_bases=3)
        self.scaled = DynamicConv2d(5, 5, 1, residual="channel")

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.second(self.first(x)))


def two_layers() -> TwoLayers:
    torch.manual_seed(0)
    model = TwoLayers().double()
    for module in (model.first, model.second):
        nn.init.normal_(module.branch.w1, std=4.0)
        nn.init.normal_(module.branch.w2, std=2.0)
    return model


def images(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number_of_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def test_vectors_hold_the_coefficients_of_each_sample_in_module_order() -> None:
    model, x = two_layers(), images(5)
    first, s = model.first.branch(x)
    second, _ = model.second.branch(model.first(x, coefficients=(first, s)))
    with collect_coefficients(model) as collected:
        model(x[:2])
        model(x[2:])
    vectors = collected.vectors()
    torch.testing.assert_close(vectors, torch.cat([second, first], 1))
    assert collected.dimensions == {"second": 2, "first": 3}
    assert (vectors.max(0).values - vectors.min(0).values).max() > 0.01


def test_vectors_carry_no_gradient_and_the_hooks_are_gone_afterwards() -> None:
    model = two_layers()
    with collect_coefficients(model) as collected:
        model(images(2)).sum().backward()
        assert number_of_hooks(model) > 0
    assert not collected.vectors().requires_grad
    assert number_of_hooks(model) == 0
    model(images(3))
    assert len(collected.vectors()) == 2
    with pytest.raises(KeyError), collect_coefficients(model):
        raise KeyError
    assert number_of_hooks(model) == 0


@torch.no_grad()
def test_a_pass_that_raises_is_left_out() -> None:
    model = two_layers()
    with collect_coefficients(model) as collected:
        with pytest.raises(ValueError, match="x"):
            model(torch.randn(3, 4, 3, 3, dtype=torch.float64))  # too small for the second layer
        model(images(2))
    assert collected.vectors().shape == (2, 5)


@torch.no_grad()
@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("positional", [False, True])
def test_coefficients_given_from_outside_are_collected(as_tuple: bool, positional: bool) -> None:
    layer, pi = DynamicConv2d(4, 6, 3).double(), torch.softmax(images(2)[:, :, 0, 0], 1)
    given = (pi, None) if as_tuple else pi
    with collect_coefficients(layer) as collected:
        layer(images(2), None, given) if positional else layer(images(2), coefficients=given)
    expected = pi.clone()
    pi.zero_()  # a buffer that the caller uses again
    torch.testing.assert_close(collected.vectors(), expected)


@torch.no_grad()
def test_a_layer_run_twice_in_a_pass_counts_twice() -> None:
    shared = DynamicConv2d(4, 4, 3).double()
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with collect_coefficients(model) as collected:
        model(images(2))
    inner = shared(images(2)).relu()
    expected = torch.cat([shared.branch(images(2))[0], shared.branch(inner)[0]], 1)
    torch.testing.assert_close(collected.vectors(), expected)
    assert collected.dimensions == {"0": 8}


@torch.no_grad()
def test_a_resnet_of_101_layers_gives_vectors_of_132_entries() -> None:
    resnet = pytest.importorskip("torchvision.models.resnet", reason="ResNet-101")
    model = to_dynamic(resnet.ResNet(resnet.Bottleneck, [3, 4, 23, 3], width_per_group=4)).eval()
    with collect_coefficients(model) as collected:
        model(torch.randn(3, 3, 32, 32))
    assert collected.vectors().shape == (3, 33 * 4)
    assert list(collected.dimensions)[:2] == ["layer1.0.conv2", "layer1.1.conv2"]


@torch.no_grad()
def test_misuse_is_told_in_words() -> None:
    with (
        pytest.raises(ValueError, match="no DynamicConv2d with a basis"),
        collect_coefficients(DynamicConv2d(4, 6, 3, residual="channel")),
    ):
        pass
    model = two_layers()
    with collect_coefficients(model) as collected:
        pass
    with pytest.raises(RuntimeError, match="no forward pass was seen"):
        collected.vectors()
    with pytest.raises(RuntimeError, match="'first' ran outside a forward pass"), collect_coefficients(model):
        model.first(images(1))


@torch.no_grad()
def test_passes_through_different_layers_are_refused() -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = DynamicConv2d(4, 4, 3), DynamicConv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if len(x) == 1 else self.b(x)

    model = Switch().double()
    with collect_coefficients(model) as collected:
        model(images(1))
        model(images(2))
    with pytest.raises(RuntimeError, match="ran different layers.*'a': 1.*in pass 1: .*'b': 1"):
        collected.vectors()

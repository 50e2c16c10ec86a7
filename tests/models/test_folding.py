"""Scale and shift folded into a layer's own parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dynconv.models.folding import channel_axis, check_foldable, fold
from dynconv.nn import CondConv2d, DynamicConv2d

LAYERS = {
    "conv": (lambda: nn.Conv2d(6, 4, 3, padding=1), (2, 6, 5, 5)),
    "without bias": (lambda: nn.Conv2d(6, 4, 3, bias=False), (2, 6, 5, 5)),
    "grouped, dilated": (lambda: nn.Conv2d(6, 4, 2, groups=2, dilation=2, stride=2), (2, 6, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 5, 5)),
    "reflecting": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 5)),
    "one dimension": (lambda: nn.Conv1d(6, 4, 3), (2, 6, 5)),
    "three dimensions": (lambda: nn.Conv3d(6, 4, 3), (2, 6, 5, 5, 5)),
    "an image alone": (lambda: nn.Conv2d(6, 4, 3), (6, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1), (2, 6, 5, 5)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False), (2, 6, 5, 5)),
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear of rows, without bias": (lambda: nn.Linear(6, 4, bias=False), (2, 5, 6)),
    "norm": (lambda: nn.BatchNorm2d(6), (2, 6, 5, 5)),
    "norm without weights": (lambda: nn.BatchNorm1d(6, affine=False), (5, 6)),
    "subspace": (lambda: DynamicConv2d(6, 4, 3, num_bases=3), (2, 6, 5, 5)),
    "full bases": (lambda: DynamicConv2d(6, 4, 3, num_bases=2, basis_kernel_size=None, bias=False), (2, 6, 5, 5)),
    "channel": (lambda: DynamicConv2d(6, 4, 3, residual="channel"), (2, 6, 5, 5)),
    "combined": (lambda: DynamicConv2d(6, 4, 3, residual="combined", groups=2), (2, 6, 5, 5)),
}


def drawn(name: str) -> tuple[nn.Module, Tensor]:
    """A layer with parameters and statistics of its own in evaluation mode, and an input."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double().eval()
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer, torch.randn(shape, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_gives_is_scaled_and_shifted(name: str) -> None:
    layer, x = drawn(name)
    check_foldable(layer, name)
    before = layer(x)
    axis = channel_axis(layer, before)
    assert before.shape[axis] == (6 if "norm" in name or name == "depthwise" else 4)
    scale = torch.linspace(0.0, 2.0, before.shape[axis], dtype=torch.float64)
    shift = torch.linspace(-1.0, 3.0, before.shape[axis], dtype=torch.float64)
    parameters = dict(layer.named_parameters())
    fold(layer, scale, shift)
    along = [1] * before.dim()
    along[axis] = -1
    torch.testing.assert_close(layer(x), scale.view(along) * before + shift.view(along), rtol=1e-12, atol=1e-12)
    # Optimisers and whoever else holds a parameter hold it still; new are weights and biases that there were none of.
    now = dict(layer.named_parameters())
    assert all(now[key] is value for key, value in parameters.items())
    assert now.keys() - parameters.keys() <= {"weight", "bias"} and "bias" in now


@torch.no_grad()
def test_weights_keep_their_precision_and_their_order_in_memory() -> None:
    layer = nn.Conv2d(8, 4, 3, bias=False).to(torch.bfloat16, memory_format=torch.channels_last)
    layer.weight.requires_grad_(False)
    fold(layer, torch.full((4,), 2.0), torch.ones(4))
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert layer.bias.dtype == torch.bfloat16 and not layer.bias.requires_grad and (layer.bias == 1).all()


class Standardised(nn.Conv2d):
    """A convolution that takes any scale of its weight away again."""


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Standardised(3, 4, 3), "layers: net.0 is a Standardised, in whose weights .* so leave it out"),
        (CondConv2d(3, 4, 3), "is a CondConv2d"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), "is a ParametrizedLinear"),
        (nn.BatchNorm2d(3, track_running_stats=False), "net.0 has no running statistics"),
    ],
)
def test_what_cannot_be_folded_is_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_foldable(layer, "net.0")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_that_is_made_anew_at_every_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="the weight of net.0 is no parameter of its own"):
        check_foldable(nn.utils.weight_norm(nn.Linear(3, 4)), "net.0")
    check_foldable(copy.deepcopy(nn.Linear(3, 4)), "net.0")

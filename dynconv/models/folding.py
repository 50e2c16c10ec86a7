"""Scale and shift what a layer gives by changing its own parameters, so that nothing is added to the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynconv.nn import DynamicConv2d

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, DynamicConv2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FOLDABLE: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *NORMS)


def check_foldable(layer: nn.Module, name: str) -> None:
    """Raise a ValueError, which calls the layer `name`, unless `fold` is exact for it.

    A subclass may compute something else than its base (a standardised weight takes any scale away again), and a
    parametrised weight is made anew at every pass.
    """
    if type(layer) not in FOLDABLE:
        able = ", ".join(kind.__name__ for kind in FOLDABLE)
        raise ValueError(
            f"layers: {name} is a {type(layer).__name__}, in whose weights no scale and shift can be folded for "
            f"certain; expected exactly one of {able} (without parametrisations), so leave it out"
        )
    if isinstance(layer, _BatchNorm):
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(
                f"layers: {name} has no running statistics, so that what it gives depends on the batch; leave it out"
            )
    elif "weight" not in dict(layer.named_parameters(recurse=False)):
        raise ValueError(
            f"layers: the weight of {name} is no parameter of its own (weight or spectral normalisation?); make it one "
            "(remove_weight_norm, remove_parametrizations), or leave it out"
        )


def channel_axis(layer: nn.Module, output: Tensor) -> int:
    """The axis of a foldable layer's output that counts its channels: the last of linear layers; else 1, or 0 of an
    image without a batch."""
    if isinstance(layer, nn.Linear):
        return output.dim() - 1
    if isinstance(layer, NORMS):
        return 1
    if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        return output.dim() - 1 - len(layer.kernel_size)
    raise TypeError(f"layer: expected a convolution, a linear layer or a batch normalisation, got {layer}")


@torch.no_grad()
def fold(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Make `layer` give scale * y + shift, channel by channel, where it gave y; exactly, but for rounding.

    A convolution or linear layer without a bias gets one, and a batch normalisation without weight and bias gets both,
    as parameters. Computed in float64.

    Args:
        layer: One that `check_foldable` lets pass; a batch normalisation in evaluation mode.
        scale, shift: (C,), of its output channels.
    """
    if isinstance(layer, _BatchNorm) and not layer.affine:
        layer.register_parameter("weight", nn.Parameter(torch.ones_like(layer.get_buffer("running_mean"))))
        layer.affine = True
    weight = layer.get_parameter("weight")
    if "bias" not in dict(layer.named_parameters(recurse=False)):
        bias = torch.zeros(len(scale), dtype=weight.dtype, device=weight.device)
        layer.register_parameter("bias", nn.Parameter(bias, requires_grad=weight.requires_grad))
    scale, shift = (each.to(weight.device, torch.float64) for each in (scale, shift))
    if isinstance(layer, TRANSPOSED):
        # (Cin, Cout / groups, ...): the input channels of a group give the output channels of that group.
        by_group = weight.double().unflatten(0, (layer.groups, -1))
        factor = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        weight.copy_((by_group * factor).flatten(0, 1))
    else:
        _scale_rows(weight, scale)
    if isinstance(layer, DynamicConv2d) and layer.basis is not None:
        # y = s * conv(x, W0) + conv(x, sum pi_i Phi_i) + bias: pi and s depend on the input alone.
        _scale_rows(layer.basis, scale.repeat(layer.num_bases))
    bias = layer.get_parameter("bias")
    bias.copy_(bias.double() * scale + shift)


def _scale_rows(weight: Tensor, scale: Tensor) -> None:
    weight.copy_(weight.double() * scale.view(-1, *[1] * (weight.dim() - 1)))

"""Oracle of ``dynamic_conv2d``: form every sample's kernel, then convolve each sample with its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dynamic_conv2d(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    basis: Tensor | None = None,
    coefficients: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """W_b = diag(s_b) W0 + sum_i pi_bi Phi_i (DRT, eq. 2 and 5 with s = 1 + Lambda), y_b = conv(x_b, W_b) + bias.

    Args:
        x, weight, bias, scale, basis, coefficients, groups: As in :func:`dynconv.functional.dynamic_conv2d`, of one
            floating dtype, float64 too. A 1x1 basis stands at the centre tap of the kernel.
        stride, padding, dilation: A number for the height and one for the width.

    Returns:
        (B, Cout, Hout, Wout), differentiable any number of times.

    Raises:
        ValueError: Neither ``weight`` nor ``basis`` is given; nothing else is checked.
    """
    batch, static = x.shape[0], weight if weight is not None else basis
    if static is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    kernels = torch.zeros((), dtype=x.dtype, device=x.device)
    if weight is not None:
        kernels = kernels + weight.expand(batch, -1, -1, -1, -1)
        if scale is not None:
            kernels = kernels * scale[:, :, None, None, None]
    if basis is not None and coefficients is not None:
        phi = basis.unflatten(0, (coefficients.shape[1], -1))
        residual = torch.einsum("bk,koihw->boihw", coefficients, phi)
        (height, width), (high, wide) = static.shape[2:], phi.shape[3:]
        top, left = (height - high) // 2, (width - wide) // 2
        kernels = kernels + F.pad(residual, (left, width - wide - left, top, height - high - top))
    geometry = (stride, padding, dilation, groups)
    if batch == 0:
        return F.conv2d(x, kernels.sum(0), bias, *geometry)
    return torch.cat([F.conv2d(x[b : b + 1], kernels[b], bias, *geometry) for b in range(batch)])

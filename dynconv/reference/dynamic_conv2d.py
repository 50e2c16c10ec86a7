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

    Shapes as in :func:`dynconv.functional.dynamic_conv2d`. A 1x1 basis stands at the centre tap of the kernel.
    """
    batch = x.shape[0]
    static = weight if weight is not None else basis
    if static is None:
        raise ValueError("dynamic_conv2d needs weight, basis or both; got neither.")
    kernel = static.shape[2:]
    per_sample: Tensor | None = None
    if weight is not None:
        per_sample = weight.unsqueeze(0).expand(batch, -1, -1, -1, -1)
        if scale is not None:
            per_sample = per_sample * scale[:, :, None, None, None]
    if basis is not None and coefficients is not None:
        num_bases = coefficients.shape[1]
        phi = basis.unflatten(0, (num_bases, -1))
        residual = torch.einsum("bk,koihw->boihw", coefficients, phi)
        if phi.shape[-2:] != kernel:
            top, left = (kernel[0] - 1) // 2, (kernel[1] - 1) // 2
            residual = F.pad(residual, (left, kernel[1] - 1 - left, top, kernel[0] - 1 - top))
        per_sample = residual if per_sample is None else per_sample + residual
    rows = [
        F.conv2d(x[b : b + 1], per_sample[b], bias, stride, padding, dilation, groups) for b in range(batch)
    ]
    if not rows:
        return F.conv2d(x, per_sample.sum(0), bias, stride, padding, dilation, groups)
    return torch.cat(rows)

"""Oracle of ``coefficients``: the attention branch of DRT (section 3.3, figure 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def coefficients(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    *,
    num_bases: int,
    num_scales: int,
    temperature: float | Tensor = 1.0,
    scale_activation: str = "sigmoid",
) -> tuple[Tensor | None, Tensor | None]:
    """z = W2 relu(W1 mean_hw(x)); pi = softmax(z[:K] / temperature), s = 1 + sigmoid(z[K:]) or relu6(z[K:] + 3) / 3.

    Args:
        x, w1, w2, num_bases, num_scales, temperature, scale_activation: As in :func:`dynconv.functional.coefficients`,
            of one floating dtype, float64 too, and not checked.

    Returns:
        (pi, s): (B, K) or None where ``num_bases`` is 0, and (B, num_scales) or None where ``num_scales`` is 0.
    """
    z = F.linear(F.relu(F.linear(x.mean(dim=(2, 3)), w1)), w2)
    logits, gates = z.split([num_bases, num_scales], dim=1)
    pi = torch.softmax(logits / temperature, dim=1) if num_bases else None
    if not num_scales:
        return pi, None
    return pi, 1 + torch.sigmoid(gates) if scale_activation == "sigmoid" else F.relu6(gates + 3) / 3

"""The losses of the Calibrator's game (Ye et al., CVPR 2020, eq. 5 to 7), written out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# The group of each kind of images (section 3.2); of two groups G_2 is not shown.
GROUPS = {4: (0, 1, 2, 3), 2: (0, None, 1, 1)}


def written_out(
    logits: Iterable[Sequence[Tensor]], groups: int, *, source_weight: float, target_weight: float
) -> tuple[Tensor, Tensor]:
    """What the discriminators and what the calibrator minimise.

    Args:
        logits: Of each discriminator those (N_i, groups) of the kinds G_1 to G_4.
        groups: 4 or 2.
        source_weight, target_weight: Of the calibrator's terms.
    """
    told, fooled = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for of_kind in logits:
        for group, own in zip(GROUPS[groups], of_kind, strict=True):
            if group is not None:
                told = told - own.log_softmax(dim=1)[:, group].mean()
        fooled = fooled - source_weight * of_kind[2].log_softmax(dim=1)[:, 0].mean()
        fooled = fooled - target_weight * of_kind[3].log_softmax(dim=1)[:, 0].mean()
    return told, fooled

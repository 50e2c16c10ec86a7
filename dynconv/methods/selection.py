"""Which target images have a pseudo label to be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynconv.data import TargetSelection
from dynconv.losses import probabilities
from dynconv.methods.records import Refresh


def select_confident(scores: Tensor, confidence: float, share: float) -> Refresh:
    """The images whose most probable class has at least `confidence` (GSDA section 3.1, which states no threshold).

    A predicted class that no image passes for gives the most confident `share` of its images instead, at least one, so
    that no class the network sees in the target is lost from the training.

    Args:
        scores: (N, C), of all target training images.
        confidence: Least probability of the predicted class.
        share: Of a class without confident images, 0 < share <= 1.

    Returns:
        The selection with its pseudo labels, and what to log of it.
    """
    probability, label = probabilities(scores).max(dim=1)
    taken = probability >= confidence
    lacking = torch.bincount(label[taken], minlength=scores.shape[1])[label] == 0
    surest = surest_of_each_class(probability, label, share)
    taken[surest[lacking[surest]]] = True
    filled = torch.unique(label[lacking])
    chosen = torch.nonzero(taken).flatten()
    classes = len(torch.unique(label[chosen]))
    logs = {"selected/share": len(chosen) / max(1, len(scores)), "selected/classes": float(classes)}
    message = None
    if len(filled):
        message = (
            f"pseudo labels: {len(chosen)} of {len(scores)} target images; {len(filled)} of {classes} predicted "
            f"classes have none of at least {confidence:g}, and give their {100 * share:g} % most confident images"
        )
    return Refresh(True, TargetSelection(chosen.cpu(), label[chosen].cpu()), logs, message)


def surest_of_each_class(probability: Tensor, label: Tensor, share: float) -> Tensor:
    """Places, ascending, of the `share` of each predicted class with the highest probability, at least one of each.

    Args:
        probability: (N,), of the predicted class.
        label: int64 (N,), the predicted class.
        share: 0 < share <= 1.
    """
    taken = torch.zeros_like(label, dtype=torch.bool)
    for index in torch.unique(label).tolist():
        members = torch.nonzero(label == index).flatten()
        best = probability[members].argsort(descending=True, stable=True)
        taken[members[best[: math.ceil(share * len(members))]]] = True
    return torch.nonzero(taken).flatten()

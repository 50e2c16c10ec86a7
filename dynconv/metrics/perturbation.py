"""Perturbations of images within an L-infinity bound, and how large they are (Calibrator, section 5.2).

Images are in [0, 1], from black to white, and so are all sizes. A perturbed image is clamped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Classifier = Callable[[Tensor], Tensor]


class Sizes(NamedTuple):
    """The norms of B perturbations."""

    largest: Tensor
    """float64 (B,): L-infinity, the largest change of a value."""
    length: Tensor
    """float64 (B,): L2, over all values of the image."""


def sizes(before: Tensor, after: Tensor) -> Sizes:
    """How far images (B, C, H, W) were moved.

    Raises:
        ValueError: Two shapes.
    """
    if before.shape != after.shape:
        raise ValueError(f"after: expected the shape of before, {tuple(before.shape)}, got {tuple(after.shape)}")
    moved = (after.double() - before.double()).flatten(1)
    return Sizes(moved.abs().amax(dim=1), moved.norm(dim=1))


def loss_gradient_signs(classifier: Classifier, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """sign(dL/dx) of the cross entropy L of a classifier: where each value of an image must go for L to rise.

    `moved(images, signs, size)` is the fast gradient sign method (Goodfellow, Shlens and Szegedy, ICLR 2015, section
    4); with the labels left out it is that of Kurakin, Goodfellow and Bengio (ICLR 2017, section 2), whose labels are
    the classifier's own predictions.

    Args:
        classifier: Images (B, C, H, W) to scores (B, K), of each image by itself: batch statistics would mix them.
        images: In [0, 1].
        labels: int64 (B,); None for the classifier's own predictions, so that no label is looked at.

    Returns:
        (B, C, H, W) of -1, 0 and 1. No parameter gets a gradient.
    """
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        scores = classifier(inputs)
        chosen = (scores.argmax(dim=1) if labels is None else labels)[:, None]
        # The cross entropy is log(1 + exp(this)), so that both rise in the same directions. Of a sure prediction its
        # own gradient would be lost in float32: a part of it beyond a margin of 17, all of it beyond 104.
        margin = scores.scatter(1, chosen, -torch.inf).logsumexp(dim=1) - scores.gather(1, chosen)[:, 0]
        (gradient,) = torch.autograd.grad(margin.sum(), inputs)
    return gradient.sign()


def random_signs(images: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1 with equal chances for each value of `images`."""
    # Drawn where the generator is: the same on every device.
    drawn = torch.randint(0, 2, images.shape, generator=generator, device=generator.device)
    return (2 * drawn - 1).to(images)


def moved(images: Tensor, signs: Tensor, size: Tensor | float) -> Tensor:
    """clamp(x + size * signs, 0, 1).

    Args:
        images: (B, C, H, W) in [0, 1].
        signs: Of their shape; a negative `size` goes the other way.
        size: One for all, or (B,), one for each image.
    """
    if isinstance(size, Tensor):
        size = size.to(images).view(-1, 1, 1, 1)
    return (images + size * signs).clamp(0, 1)

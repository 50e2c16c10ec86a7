"""The game Source-or-Not (GAM: Huang, Huang and Kraehenbuehl, ECCV 2018, section 5.1): are two images of one domain, or
of two? Nothing else is known of them than the activations of a single unit over all places of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

# A distribution is kept as its quantiles at 0, 1/32, ..., 1; a player is shown every fourth.
LEVELS = 33
SHOWN = 4
# Who compares learns from so many ways to pair the images.
PAIRINGS = 5
# Images of a side, to learn from and to be judged on, below which there is no game.
FEWEST = 8


class Distributions(NamedTuple):
    """The activations of U units on each of N images over its `places`, in short; on the CPU."""

    quantiles: Tensor
    """float32 (N, U, LEVELS): from the smallest to the largest value, linear between two of them."""
    mean: Tensor
    """float32 (N, U)."""
    deviation: Tensor
    """float32 (N, U): the standard deviation over the places."""
    places: int
    """The fewest of any image; 1 in a layer without places, whose units have a single value on an image."""

    def of_unit(self, unit: int) -> Distributions:
        """Those of one unit, by its place: (N, LEVELS) and (N,)."""
        return Distributions(self.quantiles[:, unit], self.mean[:, unit], self.deviation[:, unit], self.places)

    def constant(self) -> Tensor:
        """bool (U,): units with one and the same value at all places of all images, such as a ReLU that is never on."""
        low, high = self.quantiles.amin(dim=(0, 2)), self.quantiles.amax(dim=(0, 2))
        return low == high


def distributions(activations: Tensor) -> Distributions:
    """The `Distributions` of activations (B, U, P) over P places."""
    # torch.quantile refuses more than 16 million values.
    ordered = activations.float().sort(dim=2).values
    at = torch.linspace(0, ordered.shape[2] - 1, LEVELS, dtype=torch.float64)
    below = at.floor().long().to(ordered.device)
    above = at.ceil().long().to(ordered.device)
    quantiles = torch.lerp(ordered[..., below], ordered[..., above], (at - at.floor()).to(ordered))
    exact = ordered.double()
    mean, deviation = (each.float().cpu() for each in (exact.mean(dim=2), exact.std(dim=2, correction=0)))
    return Distributions(quantiles.cpu(), mean, deviation, ordered.shape[2])


def joined(parts: Sequence[Distributions]) -> Distributions:
    """Those of all images, in order."""
    quantiles, mean, deviation, places = zip(*parts, strict=True)
    return Distributions(torch.cat(quantiles), torch.cat(mean), torch.cat(deviation), min(places))


class Pairs(NamedTuple):
    """P pairs of images, as many of one domain as of two."""

    first: Tensor
    """int64 (P,): places of images, the source's before the target's."""
    second: Tensor
    same: Tensor
    """bool (P,): whether both are of one domain."""

    def images(self) -> Tensor:
        """int64: places of all that are in a pair, ascending."""
        return torch.cat([self.first, self.second]).unique()


def disjoint_pairs(sources: int, targets: int, generator: torch.Generator) -> Pairs:
    """Pairs in which no image is twice, so that they are as independent as the images: with m the smaller number of
    images, down to a multiple of 4, m/4 pairs of two source images, m/4 of two target images, and m/2 of one each, in
    random order.

    Args:
        sources, targets: Images of each side, at least 4.

    Raises:
        ValueError: There are fewer.
    """
    quarter = min(sources, targets) // 4
    if quarter < 1:
        raise ValueError(f"images: expected at least 4 of the source and of the target, got {sources} and {targets}")
    source = torch.randperm(sources, generator=generator)[: 4 * quarter].split(quarter)
    target = (torch.randperm(targets, generator=generator)[: 4 * quarter] + sources).split(quarter)
    # Of two domains either may come first.
    first = torch.cat([source[0], target[0], source[2], target[3]])
    second = torch.cat([source[1], target[1], target[2], source[3]])
    same = torch.arange(4 * quarter) < 2 * quarter
    order = torch.randperm(4 * quarter, generator=generator)
    return Pairs(first[order], second[order], same[order])


def several_pairings(sources: int, targets: int, generator: torch.Generator) -> Pairs:
    """`PAIRINGS` times `disjoint_pairs`, one after another, to learn from."""
    drawn = [disjoint_pairs(sources, targets, generator) for _ in range(PAIRINGS)]
    return Pairs(*(torch.cat(column) for column in zip(*drawn, strict=True)))


def differences(of: Distributions, pairs: Pairs, centre: float) -> Array:
    """What is seen of each pair by who compares, float64 (P, F): the absolute differences of both `descriptions`, and
    where these are of many places the Wasserstein-1 distance."""
    seen = descriptions(of, centre)
    apart = np.abs(seen[pairs.first.numpy()] - seen[pairs.second.numpy()])
    if of.places == 1:
        return apart
    # The integral of |difference| of both quantile functions.
    quantiles = (of.quantiles[pairs.first] - of.quantiles[pairs.second]).abs()
    distance = torch.trapezoid(quantiles, dx=1 / (LEVELS - 1), dim=1)
    return np.column_stack([apart, distance.double().numpy()])


def descriptions(of: Distributions, centre: float) -> Array:
    """What is seen of each image, float64 (N, F): nine quantiles (0, 1/8, ..., 1), mean and standard deviation of one
    unit's activations over the places. Of a layer without places, where the unit has a single value x on an image,
    x - centre, its magnitude and its square: of x alone a linear classifier makes one threshold, which is blind to
    domains that differ in their spread.

    Args:
        of: Of one unit, (N, LEVELS) and (N,) as from `of_unit`.
        centre: The median of the unit's values on the images to learn from; used without places.
    """
    if of.places == 1:
        value = of.mean.double().numpy() - centre
        return np.column_stack([value, np.abs(value), value**2])
    columns = [of.quantiles[:, ::SHOWN], of.mean[:, None], of.deviation[:, None]]
    return torch.cat(columns, dim=1).double().numpy()


def _centre(learnt: Distributions) -> float:
    return float(np.median(learnt.mean.double().numpy()))


def call_domains(learnt: Distributions, sources: int, judged: Distributions) -> Tensor:
    """Call the domain of single images from one unit: logistic regression on `descriptions`.

    Args:
        learnt: Of the unit, (N, LEVELS) and (N,) as from `of_unit`, on the images to learn from.
        sources: How many of these, the first ones, are the source's.
        judged: Of M other images.

    Returns:
        bool (M,): which of them are called the source's.
    """
    known = torch.arange(len(learnt.mean)) < sources
    centre = _centre(learnt)
    return _answers(descriptions(learnt, centre), known, descriptions(judged, centre))


def compare(learnt: Distributions, learnt_pairs: Pairs, judged: Distributions, judged_pairs: Pairs) -> Tensor:
    """Play by comparing: logistic regression on `differences`, which never learns what either domain looks like.

    Args:
        learnt, judged: As in `call_domains`.
        learnt_pairs, judged_pairs: Pairs of the one and of the other.

    Returns:
        bool (P,): which of `judged_pairs` are called pairs of one domain.
    """
    centre = _centre(learnt)
    seen = differences(learnt, learnt_pairs, centre), differences(judged, judged_pairs, centre)
    return _answers(seen[0], learnt_pairs.same, seen[1])


def _answers(columns: Array, truth: Tensor, others: Array) -> Tensor:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Balanced: of a side with more images no answer is likelier for it.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    classifier.fit(columns, truth.numpy())
    return torch.from_numpy(classifier.predict(others)).bool()


class Share(NamedTuple):
    """A share of right answers, of 1, with an interval of 95 % for other images, of the same units."""

    mean: float
    low: float
    high: float


def share_right(right: Tensor) -> Share:
    """The mean over units and questions of bool (U, Q), with Wilson's score interval of Q questions, which leaves room
    where all answers are right. Units see the same images and are not independent: a question counts once, however many
    units answer it. That is as wide as for a single unit; of the mean of several it is wide rather than narrow.

    Raises:
        ValueError: No unit or no question.
    """
    if not right.numel():
        raise ValueError(f"right: expected units and questions, got {tuple(right.shape)}")
    mean, questions = right.double().mean().item(), right.shape[1]
    # Of 95 %.
    square = 1.96**2
    middle = (mean + square / (2 * questions)) / (1 + square / questions)
    half = math.sqrt(square * (mean * (1 - mean) / questions + square / (4 * questions**2))) / (1 + square / questions)
    # Of a share of 0 or 1 the end is it but for the rounding.
    return Share(mean, min(max(middle - half, 0.0), mean), max(min(middle + half, 1.0), mean))


def shared_histogram(values: tuple[Array, Array], bins: int) -> tuple[Array, Array]:
    """Histograms of two images' activations over the same bins.

    Args:
        values: (P,) of each image.
        bins: How many, from the smallest to the largest value of both.

    Returns:
        Edges float64 (bins + 1,), and shares of the places float64 (2, bins); each row sums to 1.
    """
    low = float(min(each.min() for each in values))
    high = float(max(each.max() for each in values))
    # Of one and the same value, and of values that lie closer than their rounding, a bin would have no width.
    if high - low <= bins * np.spacing(max(abs(low), abs(high), np.finfo(np.float64).tiny)):
        margin = max(abs(low), 1.0) / 2
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, bins + 1)
    # A rounding must not lose the outermost value.
    counts = np.stack([np.histogram(np.clip(each.astype(np.float64), low, high), edges)[0] for each in values])
    return edges, counts / counts.sum(axis=1, keepdims=True)

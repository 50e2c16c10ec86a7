"""Two domains' images for Source-or-Not: some to learn from, others to be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dynconv.engine.loaded_run import source_images
from dynconv.metrics.source_or_not import FEWEST
from dynconv.report.page.analysis import evenly

if TYPE_CHECKING:
    from dynconv.data import Protocol, Split
    from dynconv.models import DomainName


@dataclass(frozen=True)
class Side:
    """The images of one domain; of several sources all, as of one."""

    name: str
    domain: DomainName
    learnt: tuple[Split, ...]
    """Training images, of whose labels no use is made."""
    judged: tuple[Split, ...]
    """Test images; no image of `learnt` is among them."""


def two_sides(protocol: Protocol, held_out: Sequence[Split], most: int) -> tuple[Side, Side]:
    """The source's images and the target's, `most` at most to learn from and as many to be judged by, evenly spread.

    Args:
        protocol, held_out: As `LoadedRun.domains` gives them.
        most: Of each side.

    Raises:
        ValueError: A side with too few images.
    """
    target = protocol.target
    # Without labels nothing was set apart for tests.
    learnt, judged = _apart(target.train, target.train if target.test is None else target.test, most)
    tested = [split for _, split in source_images(protocol, held_out)]
    sources = Side(
        " + ".join(source.name for source in protocol.sources),
        "source",
        _evenly([source.train for source in protocol.sources], most),
        _evenly(tested, most),
    )
    sides = sources, Side(target.name, "target", (learnt,), (judged,))
    for side in sides:
        if min(count_of(side.learnt), count_of(side.judged)) < FEWEST:
            raise ValueError(
                f"{side.name}: Source-or-Not needs at least {FEWEST} images to learn from and as many others to be "
                f"judged by, there are {count_of(side.learnt)} and {count_of(side.judged)}"
            )
    return sides


def _apart(train: Split, test: Split, most: int) -> tuple[Split, Split]:
    """At most `most` of the target's training images, and of its test images, none of which is among the others: a
    target without a published test split has the same images in both."""
    if train is test:
        learnt, judged = (test.subset(torch.arange(first, len(test), 2)) for first in (0, 1))
        return learnt.subset(evenly(len(learnt), most)), judged.subset(evenly(len(judged), most))
    judged = test.subset(evenly(len(test), most))
    # Twice as many, for those of a limited training split may be among the test images.
    candidates = train.subset(evenly(len(train), 2 * most))
    known = set(_identities(judged))
    places = [place for place, each in enumerate(_identities(candidates)) if each not in known]
    others = candidates.subset(torch.tensor(places, dtype=torch.int64))
    return others.subset(evenly(len(others), most)), judged


def _identities(split: Split) -> list[object]:
    """What tells one image of a split from another: its pixels, or its file where it is still there."""
    if isinstance(split.images, torch.Tensor):
        return [image.numpy().tobytes() for image in split.images]
    return list(split.images.paths)


def _evenly(splits: Sequence[Split], most: int) -> tuple[Split, ...]:
    """`most` images in all at most, of each split as many, evenly spread."""
    shares = [most // len(splits) + (place < most % len(splits)) for place in range(len(splits))]
    return tuple(
        split.subset(evenly(len(split), share)) for split, share in zip(splits, shares, strict=True) if share > 0
    )


def count_of(splits: Sequence[Split]) -> int:
    """How many images they have in all."""
    return sum(map(len, splits))

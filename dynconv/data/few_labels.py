"""A few labelled images of a target: how many is an adaptation worth (GAM, section 5.4)?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from dynconv.data.base import Protocol, Split
from dynconv.data.draws import HOLD_OUT, stratified_draw, stratified_hold_out
from dynconv.data.errors import DataError
from dynconv.data.variants import DRAW_SEED


def few_labelled(protocol: Protocol, count: int, seed: int) -> tuple[Protocol, tuple[Split, ...]]:
    """`protocol`, arranged by `supervised_by_target`, with `count` training images in its source, and others of them
    held out for `source-val`: as many as `source_validation_split` holds out of all, or as there are.

    No seed decides which are trained on: classes keep their shares, scenes, which have none, are drawn from all alike,
    and a smaller count's are among a greater one's. The target keeps all its training images, unlabelled.

    Args:
        protocol: Its only source is the labelled target.
        count: Images trained on; of one that is there more than once, one.
        seed: Of the division of the others into those held out and those that nobody looks at.

    Returns:
        As `source_validation_split`.

    Raises:
        DataError: fewer images than classes, or so many that nothing is left to be held out.
    """
    (source,) = protocol.sources
    images = source.train
    if images.origins is not None:
        first = np.unique(images.origins.numpy(), return_index=True)[1]
        images = images.subset(torch.from_numpy(first).sort().values)
    present, total = len(images.labels.unique()), len(images)
    where = f"labelled_images {count}: {source.name} has {total} labelled training images"
    if count < present:
        raise DataError(f"{where} of {present} classes, and each is to be learnt: give at least {present}")
    drawn = stratified_draw(images.labels, count, DRAW_SEED)
    unused = torch.ones(total, dtype=torch.bool)
    unused[drawn] = False
    others = images.subset(torch.nonzero(unused).flatten())
    most = total * HOLD_OUT if images.most_held_out is None else min(total * HOLD_OUT, images.most_held_out)
    _, held = stratified_hold_out(others.labels, seed, min(most / max(len(others), 1), 1.0))
    if held.numel() == 0:
        raise DataError(
            f"{where}, and the {len(others)} others are too few to hold some out for source-val, which takes two of a "
            "class, or two scenes: give fewer, or 0 for all but those held out"
        )
    return replace(protocol, sources=(replace(source, train=images.subset(drawn)),)), (others.subset(held),)

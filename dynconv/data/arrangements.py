"""Protocols arranged for a training: images held out, pseudo labels as one more source, the bound's labelled target."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dynconv.data.base import Domain, Protocol, Split
from dynconv.data.draws import HOLD_OUT, stratified_hold_out
from dynconv.data.errors import DataError


def source_validation_split(
    protocol: Protocol, seed: int, fraction: float = HOLD_OUT
) -> tuple[Protocol, tuple[Split, ...]]:
    """Take a stratified `fraction` of each source's training split, of scenes at most `SceneSplit.most_held_out`, away
    from training, for `source-val`.

    Args:
        protocol: Whose sources are divided; the target stays as it is.
        seed: Fixes which images are taken.
        fraction: Of each class, above 0 and below 1.

    Returns:
        The protocol with smaller source training splits, and one held-out `Split` per source, in their order.

    Raises:
        DataError: A source has no class with two images.
    """
    kept_sources: list[Domain] = []
    held_splits: list[Split] = []
    for source in protocol.sources:
        most = source.train.most_held_out
        own = fraction if most is None else min(fraction, most / max(len(source.train), 1))
        kept, held = _hold_out(source.train, seed, own)
        if held.numel() == 0:
            raise DataError(
                f"source {source.name}: {len(source.train)} training images, no class with two: nothing can be held "
                "out for source validation; give two or more of a class"
            )
        kept_sources.append(replace(source, train=source.train.subset(kept)))
        held_splits.append(source.train.subset(held))
    return replace(protocol, sources=tuple(kept_sources)), tuple(held_splits)


def _hold_out(split: Split, seed: int, fraction: float) -> tuple[Tensor, Tensor]:
    """`stratified_hold_out` of a split: an image that is there more than once is held out once, and no copy kept."""
    if split.origins is None:
        return stratified_hold_out(split.labels, seed, fraction)
    _, image = torch.unique(split.origins, return_inverse=True)
    first = torch.full((int(image.max()) + 1,), len(image)).scatter_reduce(0, image, torch.arange(len(image)), "amin")
    kept, held = stratified_hold_out(split.labels[first], seed, fraction)
    return torch.nonzero(torch.isin(image, kept)).flatten(), first[held]


def with_pseudo_labels(protocol: Protocol, indices: Tensor, labels: Tensor) -> Protocol:
    """`protocol` with training images of its target as one more source, the last, "TARGET (pseudo-labelled)".

    It has no test split. The target stays as it is, with all its unlabelled training images.

    Args:
        protocol: Sources and target.
        indices: int64 (n,), places in `protocol.target.train`.
        labels: int64 (n,), what they are taken for.
    """
    target = protocol.target
    train = replace(target.train.subset(indices), labels=labels)
    source = Domain(f"{target.name} (pseudo-labelled)", target.classes, train, None)
    return replace(protocol, sources=(*protocol.sources, source))


def supervised_by_target(protocol: Protocol) -> Protocol:
    """`protocol` with the target's training split, labels and all, as its only source: for a bound, not for adaptation.

    Raises:
        DataError: the target has no test split of its own, so that what was trained on would be tested on.
    """
    target = protocol.target
    if target.test is None or target.test is target.train:
        raise DataError(
            f"{target.name}: no test split is left beside the labelled training images; give a target with "
            "folders train and test"
        )
    # Its test split stands under the target's name alone.
    return replace(protocol, sources=(replace(target, test=None),))

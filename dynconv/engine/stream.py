"""A device that moves between the source and the targets: test images of domains that take turns at random, and how
often the classifier is right without a calibrator, with one, and with that of the domain (Calibrator, section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dynconv.data import Split
from dynconv.data.samplers import Shuffled
from dynconv.engine.loaded_run import LoadedRun, calibrating, source_images
from dynconv.methods.calibrator import CalibratorMethod
from dynconv.metrics.errors import check_finite_values

NO_CALIBRATOR = "no calibrator"
ONE_CALIBRATOR = "one calibrator"
OF_THE_DOMAIN = "calibrator of the domain"
# The last numbers of the generators' keys: which domain a block is of, and the order of a domain's images.
_DOMAINS, _IMAGES = 1, 2

Predict = Callable[[Tensor], Tensor]
"""Class scores (B, C) of normalised images (B, 3, S, S)."""


class Schedule(NamedTuple):
    """How long a stream is, and what fixes it."""

    blocks: int
    """Each is of one domain, drawn with equal chances; two that follow each other may be of the same."""
    block_batches: int
    """Batches of a block."""
    batch_size: int
    """Images of a batch."""
    seed: int


class Drawn(NamedTuple):
    """One batch of a stream."""

    domain: str
    indices: Tensor
    """int64 (batch_size,): places in the domain's test split."""


@dataclass(frozen=True)
class Stream:
    """What each way of classifying made of a stream of N batches."""

    source: tuple[str, ...]
    """Names of the source domains."""
    domains: tuple[str, ...]
    """N names: the domain of each batch."""
    accuracy: Mapping[str, Tensor]
    """By way: float64 (N,), shares of 1."""


def draw_stream(sizes: Mapping[str, int], schedule: Schedule) -> list[Drawn]:
    """The batches of a stream.

    The images of a domain come in a random order, none of them a second time before all of them came, and then in
    another order; a batch that reaches the end goes on into the next pass.

    Args:
        sizes: Domain name to its number of images, none of them 0.
        schedule: What to draw.
    """
    names = list(sizes)
    turns = np.random.default_rng([schedule.seed, _DOMAINS]).integers(len(names), size=schedule.blocks)
    orders = {name: Shuffled(size, schedule.seed, place, _IMAGES) for place, (name, size) in enumerate(sizes.items())}
    seen = dict.fromkeys(names, 0)
    batches = []
    for turn in turns.tolist():
        name = names[turn]
        for _ in range(schedule.block_batches):
            batches.append(Drawn(name, orders[name].take(seen[name], schedule.batch_size)))
            seen[name] += schedule.batch_size
    return batches


def stream(runs: Sequence[LoadedRun], schedule: Schedule) -> Stream:
    """Send a stream of test images of the runs' source and targets through their classifier; of sources without a test
    split, those held out of its training (`source_images`).

    With one run the ways are `NO_CALIBRATOR` and `ONE_CALIBRATOR`, on every image whatever its domain. With several
    they are `NO_CALIBRATOR`, each single calibrator on every image, and `OF_THE_DOMAIN`: the device is told where it
    is, and source images go without. Each image is computed once for each way, for no network here looks at more than
    one image at a time.

    Args:
        runs: Runs of calibrator at a checkpoint, with one frozen classifier and one source; each target is another.
        schedule: Length, seed.

    Raises:
        ValueError: Runs that are none of a calibrator or have none yet, whose classifiers, classes or sources differ,
            that have one target twice, or a domain without images.
        NonFiniteError: A score is not finite.
        DataError: Data missing.
    """
    methods = [calibrating(run) for run in runs]
    check_same_classifier(runs)
    sources, targets = _domains(runs)
    domains = [*sources, *targets]
    splits = dict(domains)
    if len(splits) < len(domains):
        names = ", ".join(name for name, _ in domains)
        raise ValueError(f"RUN: the domains of a stream need names of their own, got {names}; give each target once")
    own_of = dict(zip((name for name, _ in targets), methods, strict=True))
    batches = draw_stream({name: len(split) for name, split in splits.items()}, schedule)
    found: dict[str, list[float]] = {}
    hits: dict[str, dict[str, Tensor]] = {}
    for name, split in splits.items():
        used = [batch.indices for batch in batches if batch.domain == name]
        if used:
            hits[name] = _hits(runs[0], split, torch.cat(used), _ways(own_of, name))
    for batch in batches:
        for way, right in hits[batch.domain].items():
            found.setdefault(way, []).append(right[batch.indices].mean(dtype=torch.float64).item())
    accuracy = {way: torch.tensor(values, dtype=torch.float64) for way, values in found.items()}
    return Stream(tuple(name for name, _ in sources), tuple(batch.domain for batch in batches), accuracy)


def without(method: CalibratorMethod) -> Predict:
    """The frozen classifier alone."""
    return lambda images: method.scores(method.features(images))


def check_same_classifier(runs: Sequence[LoadedRun]) -> None:
    """Raise a ValueError that names two runs whose frozen classifiers, or the images and classes of these, differ."""
    first = runs[0]
    for other in runs[1:]:
        what = None
        if other.scoring.network_input != first.scoring.network_input:
            what = "take images of another size or normalisation"
        elif other.classes != first.classes:
            what = "tell other classes apart"
        elif (name := _differing(first.method, other.method)) is not None:
            what = f"differ in {name}"
        if what is not None:
            raise ValueError(
                f"RUN {first.folder.path} and {other.folder.path} have no classifier in common: they {what}; train "
                "both from one --source-checkpoint"
            )


def _differing(one: nn.Module, other: nn.Module) -> str | None:
    """The first weight or statistic of features and heads in which two methods differ."""
    mine, theirs = (
        {name: value for name, value in method.state_dict().items() if name.startswith(("features.", "heads."))}
        for method in (one, other)
    )
    for name in dict.fromkeys([*mine, *theirs]):
        if name not in mine or name not in theirs or not torch.equal(mine[name], theirs[name]):
            return name
    return None


def _domains(runs: Sequence[LoadedRun]) -> tuple[list[tuple[str, Split]], list[tuple[str, Split]]]:
    """Names and images of the sources that all runs have, and of the target of each."""
    sources, targets, described = [], [], []
    for run in runs:
        protocol, held_out = run.domains()
        own = source_images(protocol, held_out)
        # What is held out goes by the seed: what one run did not see another one may have learnt.
        seed = "" if any(domain.test is not None for domain in protocol.sources) else f" of seed {run.config.run.seed}"
        described.append(", ".join(f"{name} ({len(split)} images{seed})" for name, split in own))
        sources.append([_filled(name, split) for name, split in own])
        targets.append(_filled(protocol.target.name, protocol.target.test))
    for run, other in zip(runs[1:], described[1:], strict=True):
        if other != described[0]:
            raise ValueError(
                f"RUN {runs[0].folder.path} and {run.folder.path} have other sources: {described[0]} and {other}; give "
                "runs of one source"
            )
    return sources[0], targets


def _filled(name: str, split: Split | None) -> tuple[str, Split]:
    if split is None or len(split) == 0:
        raise ValueError(f"domain {name}: it has no test images with labels to stream")
    return name, split


def _ways(own_of: Mapping[str, CalibratorMethod], domain: str) -> dict[str, Predict]:
    """The ways of classifying images of `domain`, a source or one of the targets that `own_of` has the methods of."""
    methods = list(own_of.values())
    alone = without(methods[0])
    ways: dict[str, Predict] = {NO_CALIBRATOR: alone}
    if len(methods) == 1:
        return ways | {ONE_CALIBRATOR: methods[0].predict}
    for target, method in own_of.items():
        ways[f"calibrator of {target}"] = method.predict
    return ways | {OF_THE_DOMAIN: own_of[domain].predict if domain in own_of else alone}


@torch.no_grad()
def _hits(run: LoadedRun, split: Split, indices: Tensor, ways: Mapping[str, Predict]) -> dict[str, Tensor]:
    """By way: float32 (len(split),), 1 for an image of `indices` (int64) that is classified right, 0 for a wrong one,
    NaN for one that is not asked for. A way that is there under two names is computed once."""
    wanted = indices.unique()
    part = split.subset(wanted)
    by_predict: dict[Predict, Tensor] = {}
    for predict in ways.values():
        if predict not in by_predict:
            right = torch.full((len(split),), torch.nan)
            rows = []
            for images in run.scoring.images(part):
                with run.scoring.autocast():
                    scores = predict(images).float()
                check_finite_values(scores=scores)
                rows.append(scores.argmax(dim=1).cpu())
            right[wanted] = (torch.cat(rows) == part.labels).float()
            by_predict[predict] = right
    return {way: by_predict[predict] for way, predict in ways.items()}

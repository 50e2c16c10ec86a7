"""A device that moves between the source and the targets: test images of domains that take turns at random, and how
often the classifier is right without a calibrator, with one, and with that of the domain (Calibrator, section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dynconv.data import Domain, Split
from dynconv.data.samplers import Shuffled
from dynconv.engine.inspect import LoadedRun
from dynconv.methods.calibrator import CalibratorMethod

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
    """Send a stream of test images of the runs' source and targets through their classifier.

    With one run the ways are `NO_CALIBRATOR` and `ONE_CALIBRATOR`, on every image whatever its domain. With several
    they are `NO_CALIBRATOR`, each single calibrator on every image, and `OF_THE_DOMAIN`: the device is told where it
    is, and source images go without. Each image is computed once for each way, for no network here looks at more than
    one image at a time.

    Args:
        runs: Runs of calibrator at a checkpoint, with one frozen classifier and one source; each target is another.
        schedule: Length, seed.

    Raises:
        ValueError: Runs that are none of a calibrator or have none yet, whose classifiers, classes or sources differ,
            that have one target twice, or a domain without test images.
        DataError: Data missing.
    """
    methods = [calibrating(run) for run in runs]
    check_same_classifier(runs)
    source, targets = _domains(runs)
    splits = {domain.name: _tested(domain) for domain in (*source, *targets)}
    if len(splits) < len(source) + len(targets):
        names = ", ".join(domain.name for domain in (*source, *targets))
        raise ValueError(f"RUN: the domains of a stream need names of their own, got {names}; give each target once")
    batches = draw_stream({name: len(split) for name, split in splits.items()}, schedule)
    found: dict[str, list[float]] = {}
    hits: dict[str, dict[str, Tensor]] = {}
    for name, split in splits.items():
        own = next((method for method, target in zip(methods, targets, strict=True) if target.name == name), None)
        used = [batch.indices for batch in batches if batch.domain == name]
        if used:
            hits[name] = _hits(runs[0], split, torch.cat(used), _ways(methods, targets, own))
    for batch in batches:
        for way, right in hits[batch.domain].items():
            found.setdefault(way, []).append(right[batch.indices].mean(dtype=torch.float64).item())
    accuracy = {way: torch.tensor(values, dtype=torch.float64) for way, values in found.items()}
    return Stream(tuple(domain.name for domain in source), tuple(batch.domain for batch in batches), accuracy)


def calibrating(run: LoadedRun) -> CalibratorMethod:
    """The method of a run of calibrator whose adaptation has begun.

    Raises:
        ValueError: It is of another method, or its checkpoint is of the classifier alone.
    """
    method = run.method
    if not isinstance(method, CalibratorMethod):
        raise ValueError(
            f"RUN {run.folder.path} is a run of {run.config.method}; expected one of calibrator, whose classifier is "
            "frozen"
        )
    if not method.calibrating:
        raise ValueError(
            f"RUN {run.folder.path}: at step {run.step} of its checkpoint {run.checkpoint!r} there is no calibrator "
            "yet, the classifier learns the source; train it on, or give another --checkpoint"
        )
    return method


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


def _domains(runs: Sequence[LoadedRun]) -> tuple[tuple[Domain, ...], list[Domain]]:
    """The sources that all runs have, and the target of each."""
    protocols = [run.domains()[0] for run in runs]
    first, *others = (_described(protocol.sources) for protocol in protocols)
    for run, other in zip(runs[1:], others, strict=True):
        if other != first:
            raise ValueError(
                f"RUN {runs[0].folder.path} and {run.folder.path} have other sources: {first} and {other}; give runs "
                "of one source"
            )
    return protocols[0].sources, [protocol.target for protocol in protocols]


def _described(domains: Sequence[Domain]) -> str:
    return ", ".join(f"{domain.name} ({0 if domain.test is None else len(domain.test)} images)" for domain in domains)


def _tested(domain: Domain) -> Split:
    if domain.test is None or len(domain.test) == 0:
        raise ValueError(f"domain {domain.name}: it has no test images to stream")
    return domain.test


def _ways(
    methods: Sequence[CalibratorMethod], targets: Sequence[Domain], own: CalibratorMethod | None
) -> dict[str, Predict]:
    """The ways of classifying images of a domain whose calibrator is `own`; None for a source's."""
    alone = without(methods[0])
    ways: dict[str, Predict] = {NO_CALIBRATOR: alone}
    if len(methods) == 1:
        return ways | {ONE_CALIBRATOR: methods[0].predict}
    for method, target in zip(methods, targets, strict=True):
        ways[f"calibrator of {target.name}"] = method.predict
    return ways | {OF_THE_DOMAIN: alone if own is None else own.predict}


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
                    rows.append(predict(images).float().argmax(dim=1).cpu())
            right[wanted] = (torch.cat(rows) == part.labels).float()
            by_predict[predict] = right
    return {way: by_predict[predict] for way, predict in ways.items()}

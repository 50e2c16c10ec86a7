"""What adaptation costs on each source domain, against networks trained on that domain alone (DRT, Fig. 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import fmean, stdev
from typing import NamedTuple

from dynconv.data import parse_spec
from dynconv.engine.selection import Row
from dynconv.report.before import SAME_NETWORK, SOURCE_ONLY
from dynconv.report.collect import FoundRun
from dynconv.report.groups import Group, Grouping, group_runs
from dynconv.report.spread import Spread

TESTED = re.compile(r"^source-test/(?P<source>[^/]+)/accuracy$")
# What else may differ and is told: another training is a cost too, though not the adaptation's.
SAME_TRAINING = ("steps", "batch_size", "optimiser", "lr")
# Beside the network: what a run and its oracle must have in common, so that the difference is the adaptation's alone.
SAME_MEASURE = ("source_limit", "ten_crop")


class Difference(NamedTuple):
    """In points, over seeds."""

    mean: float
    error: float | None
    """Standard error: over the pairs of one seed, else of the runs and of the oracles, in quadrature. None where there
    is a single pair; unpaired, a single run or a single oracle, whose error nobody knows."""


@dataclass(frozen=True)
class Degradation:
    """One kind of run on one task. Accuracies in per cent at the last step, differences in points."""

    task: str
    label: str
    """Method, residual, and what else tells the kind from the others."""
    accuracy: Mapping[str, Spread]
    """By source: on its test images, by seed."""
    oracle: Mapping[str, Spread]
    """By source: that of its oracles, by their seed; of those of the runs' seeds alone where it is `paired`."""
    steps: int
    oracle_steps: Mapping[str, int]
    """By source."""
    differing: tuple[str, ...]
    """Those of `SAME_TRAINING` in which an oracle differs from a run, with both values."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(next(iter(self.accuracy.values())).values)

    @property
    def paired(self) -> bool:
        """Whether each run has an oracle of its own seed on every source; the difference is that of the pairs then."""
        return all(set(self.seeds) == set(oracle.values) for oracle in self.oracle.values())

    def difference(self, source: str) -> Difference:
        """`accuracy` less `oracle`: below 0 where the source has lost."""
        return self._difference((source,))

    @property
    def mean_difference(self) -> Difference:
        """`difference`, the mean over the sources."""
        return self._difference(tuple(self.accuracy))

    def _difference(self, sources: Sequence[str]) -> Difference:
        ours = Spread({seed: fmean(self.accuracy[name].values[seed] for name in sources) for seed in self.seeds})
        oracles = [self.oracle[name] for name in sources]
        mean = ours.mean - fmean(oracle.mean for oracle in oracles)
        if self.paired:
            pairs = {seed: ours.values[seed] - fmean(each.values[seed] for each in oracles) for seed in self.seeds}
            return Difference(mean, standard_error(Spread(pairs)))
        # The oracles of two sources have nothing in common: their errors add up as independent ones.
        errors = [standard_error(ours), *(standard_error(oracle) for oracle in oracles)]
        if any(error is None for error in errors):
            return Difference(mean, None)
        own, *theirs = (error for error in errors if error is not None)
        return Difference(mean, hypot(own, *(error / len(theirs) for error in theirs)))


def standard_error(spread: Spread) -> float | None:
    """Of the mean over seeds; None of a single seed."""
    values = list(spread.values.values())
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def degradations(runs: Sequence[FoundRun], oracles: Sequence[FoundRun]) -> list[Degradation]:
    """Compare finished runs with the oracles of their sources: by task, then by kind of run.

    Runs that differ in the seed alone are one kind. An oracle is a run of source-only whose single source is the
    domain; it must have the run's backbone, weights, norm and bottleneck, for another network's difference would count
    as the adaptation's. It is static, as in the paper.

    Raises:
        ValueError: No run; a run that is not finished, was given twice, or was not measured on test images of its
            sources; an oracle of another method, of several sources, dynamic, or of another network; oracles of one
            source that differ in more than the seed; a source without an oracle.
    """
    of_data = _oracles(oracles)
    grouping = _grouped(runs, "RUN")
    return [
        _compared(task, _label(group), group.runs[task], of_data)
        for task in grouping.tasks
        for group in grouping.groups
        if task in group.runs
    ]


def _grouped(runs: Sequence[FoundRun], what: str) -> Grouping:
    for run in runs:
        _last(run)
        if run.metric != "accuracy":
            raise ValueError(
                f"{what} {run.folder.path}: plot degradation compares accuracies, and {run.config.options.backbone} "
                "labels every pixel; `dynconv report` has a run's mean IoU on the source before and after"
            )
    grouping = group_runs(runs)
    for run, counted in grouping.doubles:
        raise ValueError(
            f"{what} {run.folder.path} is of the same configuration and seed as {counted.folder.path}; give one of them"
        )
    return grouping


def _label(group: Group) -> str:
    if "residual=" in group.label:
        return group.label.replace("residual=none", "static").replace("residual=", "")
    residual = getattr(group.all()[0].config.options, "residual", "none")
    return f"{group.label}, {'static' if residual == 'none' else residual}"


def _last(run: FoundRun) -> Row:
    row = run.chosen("last")
    if row is None:
        raise ValueError(f"{run.folder.path} is not finished: {'; '.join(run.missing)}")
    return row


def _sources(run: FoundRun, what: str) -> dict[str, str]:
    """Names of a run's sources, as its rows have them, and the data that each stands for."""
    options = run.config.run
    if options.protocol is None:
        data = list(options.source)
    else:
        names, _, variant = parse_spec(options.protocol)
        data = [f"{name}@{variant}" for name in names]
    tested = [match["source"] for key in _last(run) if (match := TESTED.match(key))]
    if len(tested) != len(data):
        raise ValueError(
            f"{what} {run.folder.path}: of its {len(data)} sources {len(tested)} were measured on test images "
            "(source-test/NAME/accuracy in the last row of results.jsonl), and the figure needs all"
        )
    return dict(zip(tested, data, strict=True))


def _oracles(runs: Sequence[FoundRun]) -> dict[str, list[FoundRun]]:
    """The oracles of each source's data."""
    found: dict[str, list[FoundRun]] = {}
    _grouped(runs, "--oracles")
    for run in runs:
        if run.config.method != SOURCE_ONLY:
            raise ValueError(
                f"--oracles {run.folder.path} is a run of {run.config.method}; an oracle is one of {SOURCE_ONLY} on a "
                "single source"
            )
        if (residual := getattr(run.config.options, "residual", "none")) != "none":
            raise ValueError(
                f"--oracles {run.folder.path} is of a dynamic network (residual {residual}); an oracle is the "
                "static one"
            )
        sources = _sources(run, "--oracles")
        if len(sources) != 1:
            raise ValueError(
                f"--oracles {run.folder.path} has {len(sources)} sources ({', '.join(sources)}); the oracle of a "
                "domain is trained on that domain alone"
            )
        (data,) = sources.values()
        found.setdefault(data, []).append(run)
    for data, same in found.items():
        if len(kinds := group_runs(same).groups) > 1:
            labels = ", ".join(_label(group) for group in kinds)
            raise ValueError(f"--oracles: those of {data} are of {len(kinds)} kinds ({labels}); give those of one")
    return found


def _compared(
    task: str, label: str, by_seed: Mapping[int, FoundRun], of_data: Mapping[str, Sequence[FoundRun]]
) -> Degradation:
    accuracy: dict[str, dict[int, float]] = {}
    oracle: dict[str, dict[int, float]] = {}
    oracle_steps: dict[str, int] = {}
    differing: dict[str, None] = {}
    for seed, run in by_seed.items():
        for name, data in _sources(run, "RUN").items():
            if data not in of_data:
                raise ValueError(
                    f"--oracles: none is of {data}, a source of {run.folder.path}; give a finished run of "
                    f"{SOURCE_ONLY} with that single source (there are oracles of {', '.join(of_data)})"
                )
            key = f"source-test/{name}/accuracy"
            for other in of_data[data]:
                _check_same(run, other)
                differing |= dict.fromkeys(_differing(run, other))
                oracle.setdefault(name, {})[other.seed] = 100 * _last(other)[key]
                oracle_steps[name] = other.step
            accuracy.setdefault(name, {})[seed] = 100 * _last(run)[key]
    if all(by_seed.keys() <= own.keys() for own in oracle.values()):
        oracle = {name: {seed: own[seed] for seed in by_seed} for name, own in oracle.items()}
    return Degradation(
        task,
        label,
        {name: Spread(values) for name, values in accuracy.items()},
        {name: Spread(values) for name, values in oracle.items()},
        next(iter(by_seed.values())).step,
        oracle_steps,
        tuple(differing),
    )


def _differing(run: FoundRun, oracle: FoundRun) -> list[str]:
    def value(of: FoundRun, name: str) -> object:
        options = of.config.options
        return {"steps": of.step, "batch_size": of.config.batch_size}.get(name, getattr(options, name, None))

    pairs = {name: (value(run, name), value(oracle, name)) for name in SAME_TRAINING}
    return [f"{name} {ours}, the oracles {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def training_warning(found: Sequence[Degradation]) -> str:
    """What runs and oracles differ in beside the adaptation, in one line; empty where that is nothing."""
    told = [f"{kind.label} has {', '.join(kind.differing)}" for kind in found if kind.differing]
    return "" if not told else f"runs and oracles were not trained alike: {'; '.join(dict.fromkeys(told))}"


def _check_same(run: FoundRun, oracle: FoundRun) -> None:
    pairs = [(name, run.config.options, oracle.config.options) for name in SAME_NETWORK]
    pairs += [(name, run.config.run, oracle.config.run) for name in SAME_MEASURE]
    for name, one, other in pairs:
        if getattr(one, name, None) != getattr(other, name, None):
            raise ValueError(
                f"--oracles {oracle.folder.path} has {name} {getattr(other, name, None)!r} and RUN {run.folder.path} "
                f"{getattr(one, name, None)!r}: their difference would count as what adaptation costs"
            )

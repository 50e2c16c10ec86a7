"""Runs that differ in task and seed alone belong together: a line of the report's tables each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dynconv.engine.config import NOT_IDENTITY
from dynconv.engine.label_options import SIZES
from dynconv.methods import METHODS
from dynconv.methods.adapted import AdaptedConfig
from dynconv.methods.config import MethodConfig
from dynconv.recipes import RECIPES
from dynconv.report.collect import FoundRun, readable_runs
from dynconv.report.started import configuration_started_from, kind_started_from
from dynconv.report.table import named
from dynconv.report.words import metrics_of

# These say which task a run is of, and which of its seeds.
NOT_OPTIONS = (*NOT_IDENTITY, "protocol", "source", "target", "seed")
# Of the method's own options the ones that are worth a word beside another method too.
ALWAYS_COMPARED = ("backbone", "weights")


@dataclass(frozen=True)
class Group:
    """A method with one choice of options."""

    label: str
    """The method, and what tells it from the report's other groups."""
    method: str
    runs: Mapping[str, Mapping[int, FoundRun]]
    """Finished runs by task and seed."""

    def all(self) -> list[FoundRun]:
        return [run for by_seed in self.runs.values() for run in by_seed.values()]


@dataclass(frozen=True)
class Grouping:
    """The finished runs of a report."""

    groups: tuple[Group, ...]
    tasks: tuple[str, ...]
    doubles: tuple[tuple[FoundRun, FoundRun], ...] = field(default=())
    """Runs that were left out, each with the counted one of the same configuration."""

    @property
    def metrics(self) -> str:
        """What the runs are judged by, in words."""
        return metrics_of(run.metric for group in self.groups for run in group.all())


def group_runs(runs: Sequence[FoundRun]) -> Grouping:
    """Sort the finished ones of `runs` by method and options, task and seed."""
    finished = [run for run in runs if run.done is not None]
    members: dict[Kind, dict[str, dict[int, FoundRun]]] = {}
    tasks, kinds = tasks_of(runs), kinds_of(finished)
    doubles = []
    for run in finished:
        by_seed = members.setdefault(kinds[run.name], {}).setdefault(tasks[run.name], {})
        if run.seed in by_seed:
            doubles.append((run, by_seed[run.seed]))
        else:
            by_seed[run.seed] = run
    order = list(METHODS)
    sorted_kinds = sorted(members, key=lambda kind: order.index(kind.method))
    groups = tuple(Group(kind.label, kind.method, members[kind]) for kind in sorted_kinds)
    shown = [task for task in dict.fromkeys(tasks.values()) if any(task in group.runs for group in groups)]
    return Grouping(groups, tuple(sorted(shown, key=_place_in_papers)), tuple(doubles))


class Kind(NamedTuple):
    """A method with one choice of options, whatever the task and the seed."""

    method: str
    label: str
    """The method, and what tells the kind from the others."""
    key: str
    """All of the options, as JSON: a label shortens them."""
    differing: tuple[str, ...]
    """Of the label the options, a word each."""


def kinds_of(runs: Sequence[FoundRun], *, without: Sequence[str] = ()) -> dict[str, Kind]:
    """Run name to kind. Options in `without`, by METHOD.NAME or by the name of one that all methods share, do not tell
    kinds apart."""
    options: dict[str, dict[str, Any]] = {}
    methods: dict[str, str] = {}
    keys = {}
    for run in runs:
        own = {name: value for name, value in _options(run, without).items() if name not in without}
        keys[run.name] = key = json.dumps([run.config.method, own], sort_keys=True)
        options[key], methods[key] = own, run.config.method
    kinds = {}
    for key, method in methods.items():
        differing = _differing(method, key, options, methods)
        label = f"{named(method)} ({', '.join(differing)})" if differing else named(method)
        kinds[key] = Kind(method, label, key, differing)
    return {name: kinds[key] for name, key in keys.items()}


def lost_starts(runs: Sequence[FoundRun]) -> dict[str, str]:
    """Run name to the `source_checkpoint` of another run that cannot be read: such a run is known by that path alone,
    and the path of another seed's start is another, so that its seeds are not of one kind."""
    return {
        run.name: checkpoint
        for run in runs
        if (checkpoint := getattr(run.config.options, "source_checkpoint", ""))
        and configuration_started_from(run.folder.path, run.config) is None
    }


def lost_warning(runs: Sequence[FoundRun]) -> str:
    """What `lost_starts` found, in one line; empty where that is nothing."""
    told = "; ".join(f"{name} from {checkpoint}" for name, checkpoint in lost_starts(runs).items())
    return told and f"seeds of these are not one kind, for the runs that they started from cannot be read: {told}"


def runs_to_group(paths: Sequence[Path], what: str, line: Callable[[str], None]) -> list[FoundRun]:
    """The runs in or below `paths`, which the command calls `what`; `lost_warning` goes to `line` where there is one.

    Raises:
        ValueError: As `readable_runs`.
    """
    runs = readable_runs(paths, what)
    if warning := lost_warning(runs):
        line(warning)
    return runs


def _place_in_papers(task: str) -> int:
    """Known tasks stand in the order of their papers' tables, others after them as they were found."""
    known = list(dict.fromkeys(task for recipe in RECIPES.values() for task in recipe.tasks))
    return known.index(task) if task in known else len(known)


def tasks_of(runs: Sequence[FoundRun]) -> dict[str, str]:
    """Run name to task: the protocol's name; own domains of the same names at other places get a number."""
    known: dict[str, list[tuple[Any, ...]]] = {}
    found = {}
    for run in runs:
        options = run.config.run
        data = (options.protocol, options.source, options.target)
        same = known.setdefault(options.task, [])
        if data not in same:
            same.append(data)
        place = same.index(data)
        found[run.name] = options.task if place == 0 else f"{options.task} ({place + 1})"
    return found


def _options(run: FoundRun, without: Sequence[str]) -> dict[str, Any]:
    """All that decides the run's results but its task and seed; the method's own options by METHOD.NAME, those that are
    not set as what they stand for."""
    plain = run.config.to_dict()
    own = plain.pop(run.config.method)
    own |= resolved_options(run.config.options, [name.rpartition(".")[2] for name in without])
    shared = {name: value for name, value in plain.items() if name not in NOT_OPTIONS}
    shared["stylised"] = run.config.run.style
    # Without the task and the seed of the other run, which go with this one's.
    shared["pseudo_labels_of"] = run.config.run.pseudo_labels_kind
    if (start := kind_started_from(run.folder.path, run.config)) is not None:
        # As above.
        own["source_checkpoint"] = start
    return shared | {f"{run.config.method}.{name}": value for name, value in own.items()}


def resolved_options(options: MethodConfig, without: Sequence[str] = ()) -> dict[str, Any]:
    """What a method's fields that are not set stand for, as config.yaml would have it; empty of methods whose own
    fields are all set. `without` as in `AdaptedConfig.resolved`."""
    found = options.resolved(without) if isinstance(options, AdaptedConfig) else {}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _differing(
    method: str, key: str, options: Mapping[str, dict[str, Any]], methods: Mapping[str, str]
) -> tuple[str, ...]:
    """The options that differ from another group's: the method's own from those of the same method, the shared ones and
    the network from those of all."""
    differing = []
    for name, value in options[key].items():
        prefix, dot, short = name.rpartition(".")
        others = []
        for other, values in options.items():
            if not dot or methods[other] == method:
                others.append(values.get(name))
            elif short in ALWAYS_COMPARED:
                others.append(values.get(f"{methods[other]}.{short}", value))
        if any(other != value for other in others) and name != "method":
            size = name in SIZES and value is not None
            differing.append(f"{short}={' x '.join(map(str, value)) if size else _word(value)}")
    return tuple(differing)


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "+".join(map(_word, value)) if isinstance(value, list) else str(value)

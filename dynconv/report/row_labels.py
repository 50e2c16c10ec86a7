"""Runs of a recipe carry the label that its table has for them, in reports and figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dynconv.methods import METHODS
from dynconv.report.collect import FoundRun
from dynconv.report.groups import Group, Grouping, Kind, kinds_of
from dynconv.report.papers import Match, matches
from dynconv.report.table import named


def with_row_labels(grouping: Grouping, found: Mapping[str, Sequence[Match]]) -> Grouping:
    """The grouping with the labels of recipes' rows in place of options, wherever they tell the groups apart.

    A group is called by the row that all of its runs are of. Where these are of several recipes, the one counts that
    most of the report's runs are of. A group keeps its own label where recipes that count alike call it differently, or
    where two groups would have one label. Groups of one method stand in the order of their recipe's rows.

    Args:
        grouping: The finished runs.
        found: Run name to the rows of recipes that it is one of.
    """
    of_recipe = _counts([group.all() for group in grouping.groups], found)
    labels = _labels([(group.label, group.all()) for group in grouping.groups], found, of_recipe)
    groups = [replace(group, label=label) for group, label in zip(grouping.groups, labels, strict=True)]
    order = list(METHODS)
    places = {id(group): (order.index(group.method), _place(group, found, of_recipe)) for group in groups}
    return replace(grouping, groups=tuple(sorted(groups, key=lambda group: places[id(group)])))


def labels_of(runs: Sequence[FoundRun]) -> dict[str, str]:
    """Run name to what `with_row_labels` calls its kind, of runs finished or not."""
    members: dict[Kind, list[FoundRun]] = {}
    kinds = kinds_of(runs)
    for run in runs:
        members.setdefault(kinds[run.name], []).append(run)
    found = {run.name: matches(run) for run in runs}
    own = [(kind.label, of_kind) for kind, of_kind in members.items()]
    labels = dict(zip(members, _labels(own, found, _counts(members.values(), found)), strict=True))
    return {run.name: labels[kinds[run.name]] for run in runs}


def _counts(groups: Iterable[Sequence[FoundRun]], found: Mapping[str, Sequence[Match]]) -> Counter[str]:
    """Recipe name to the number of runs that are of it."""
    return Counter(name for runs in groups for run in runs for name in {match.recipe.name for match in found[run.name]})


def _labels(
    groups: Sequence[tuple[str, Sequence[FoundRun]]], found: Mapping[str, Sequence[Match]], of_recipe: Counter[str]
) -> list[str]:
    """The label to be shown of each group, which comes with its own label."""
    labels = [(own, _row_label(runs, found, of_recipe) or own) for own, runs in groups]
    # Each once of a group: what it is called now is not to become another's name.
    taken = Counter(each for pair in labels for each in set(pair))
    return [own if taken[label] > 1 else label for own, label in labels]


def _row_label(runs: Sequence[FoundRun], found: Mapping[str, Sequence[Match]], of_recipe: Counter[str]) -> str | None:
    """What the recipes call a group's runs, a bound marked as one; None where they do not agree, or there are none."""
    rows = _rows(runs, found)
    most = max((of_recipe[name] for name in rows), default=0)
    labels = {label for name, own in rows.items() if of_recipe[name] == most for label in own}
    if len(labels) != 1:
        return None
    # What `named` says of the method behind its name.
    method = runs[0].config.method
    return f"{labels.pop()}{named(method).removeprefix(method)}"


def _rows(runs: Sequence[FoundRun], found: Mapping[str, Sequence[Match]]) -> dict[str, list[str]]:
    """Recipe name to the labels of its rows, of those that all of a group's runs are of."""
    rows: dict[str, dict[str, int]] = {}
    for run in runs:
        for match in found[run.name]:
            own = rows.setdefault(match.recipe.name, {})
            own[match.row.label] = own.get(match.row.label, 0) + 1
    whole = {name: [label for label, count in own.items() if count == len(runs)] for name, own in rows.items()}
    return {name: labels for name, labels in whole.items() if labels}


def _place(group: Group, found: Mapping[str, Sequence[Match]], of_recipe: Counter[str]) -> int:
    """Where a group stands in the table that the most runs are of; behind all others where it is in none."""
    matches = [match for run in group.all() for match in found[run.name]]
    if not matches:
        return max((len(match.recipe.rows) for each in found.values() for match in each), default=0)
    match = max(matches, key=lambda each: of_recipe[each.recipe.name])
    return [row.label for row in match.recipe.rows].index(match.row.label)

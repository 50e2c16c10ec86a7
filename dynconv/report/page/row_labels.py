"""Groups of a report whose runs are of a recipe carry the label that its table has for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dynconv.methods import METHODS
from dynconv.report.groups import Group, Grouping
from dynconv.report.papers import Match
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
    of_recipe = Counter(
        name
        for group in grouping.groups
        for run in group.all()
        for name in {match.recipe.name for match in found[run.name]}
    )
    labels = [_row_label(group, found, of_recipe) or group.label for group in grouping.groups]
    # Each once of a group: what it is called now is not to become another's name.
    taken = Counter(each for group, label in zip(grouping.groups, labels, strict=True) for each in {group.label, label})
    groups = [
        group if taken[label] > 1 else replace(group, label=label)
        for group, label in zip(grouping.groups, labels, strict=True)
    ]
    order = list(METHODS)
    places = {id(group): (order.index(group.method), _place(group, found, of_recipe)) for group in groups}
    return replace(grouping, groups=tuple(sorted(groups, key=lambda group: places[id(group)])))


def _row_label(group: Group, found: Mapping[str, Sequence[Match]], of_recipe: Counter[str]) -> str | None:
    """What the recipes call a group, a bound marked as one; None where they do not agree, or there are none."""
    rows = _rows(group, found)
    most = max((of_recipe[name] for name in rows), default=0)
    labels = {label for name, own in rows.items() if of_recipe[name] == most for label in own}
    if len(labels) != 1:
        return None
    # What `named` says of the method behind its name.
    return f"{labels.pop()}{named(group.method).removeprefix(group.method)}"


def _rows(group: Group, found: Mapping[str, Sequence[Match]]) -> dict[str, list[str]]:
    """Recipe name to the labels of its rows, of those that all of a group's runs are of."""
    runs = group.all()
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

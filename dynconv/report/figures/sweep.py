"""What the target's test images are judged by over a field of the method: GAM's explorations of lambda (eq. 3) and of
the places of its discriminators (section 5)."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rich.table import Table

from dynconv.engine.run_options import CheckpointName
from dynconv.engine.selection import main_metric
from dynconv.metrics.names import in_words
from dynconv.plots.sweep import Curve, Level, save_sweep
from dynconv.report.collect import FoundRun
from dynconv.report.figures.training import write_beside
from dynconv.report.groups import kinds_of, resolved_options, runs_to_group, tasks_of
from dynconv.report.spread import Spread, per_cent
from dynconv.report.words import metrics_of

# Of a field that is not set: the method itself decides.
UNSET = "default"


@dataclass(frozen=True)
class Judged:
    """Runs of one kind on one task."""

    task: str
    label: str
    metric: str
    """What the figures are: "accuracy", or "mean-iou" where every pixel has a class."""


@dataclass(frozen=True)
class SweptLine(Judged):
    """Runs that differ in the field and the seed alone."""

    points: Mapping[float | str, Mapping[int, float]]
    """By the field's value, a number or a word: figure in per cent by seed."""

    def spreads(self) -> dict[float | str, Spread]:
        """Over the seeds, by the field's value."""
        return {value: Spread(by_seed) for value, by_seed in self.points.items()}


@dataclass(frozen=True)
class LevelLine(Judged):
    """Runs of a method without the field."""

    values: Mapping[int, float]
    """In per cent by seed."""


@dataclass(frozen=True)
class Sweep:
    """What was found of a field."""

    field: str
    values: tuple[float | str, ...]
    """In the order of the axis: all numbers, or all words."""
    lines: tuple[SweptLine, ...]
    levels: tuple[LevelLine, ...]

    @property
    def judged(self) -> list[Judged]:
        """Lines and levels."""
        return [*self.lines, *self.levels]

    @property
    def metrics(self) -> str:
        """What the figures are, in words."""
        return metrics_of(each.metric for each in self.judged)


def sweep_over(runs: Sequence[FoundRun], field: str, rule: CheckpointName) -> Sweep:
    """Finished runs over a field of their method; those that differ in it and in the seed alone are one line, and those
    of methods without it a level.

    Args:
        runs: Run folders as they were read.
        field: A field of the method, with underscores or hyphens.
        rule: Which of a run's models counts.

    Raises:
        ValueError: No run has the field, all have the same value, no line has two of them, or a run is not finished or
            was given twice.
    """
    name = field.removeprefix("--").replace("-", "_")
    swept = [run for run in runs if hasattr(run.config.options, name)]
    if not swept:
        known = {
            run.config.method: ", ".join(own.name for own in dataclasses.fields(run.config.options)) for run in runs
        }
        told = "; ".join(f"{method} has {names}" for method, names in known.items())
        raise ValueError(f"--field {field}: no run's method has such a field; {told}")
    values = _values(swept, name)
    if len(set(values.values())) == 1:
        raise ValueError(
            f"--field {field}: all runs that have it have {next(iter(values.values()))}; give runs that differ in it"
        )
    kinds = kinds_of(swept, without=[f"{run.config.method}.{name}" for run in swept])
    kinds |= kinds_of([run for run in runs if run.name not in values])
    tasks = tasks_of(runs)
    lines: dict[tuple[str, str], dict[float | str, dict[int, FoundRun]]] = {}
    levels: dict[tuple[str, str], dict[int, FoundRun]] = {}
    for run in runs:
        key = (tasks[run.name], kinds[run.name].key)
        if run.name in values:
            by_seed = lines.setdefault(key, {}).setdefault(values[run.name], {})
        else:
            by_seed = levels.setdefault(key, {})
        if run.seed in by_seed:
            other = by_seed[run.seed].folder.path
            raise ValueError(f"RUN {run.folder.path} is of the configuration and seed of {other}; give one of them")
        by_seed[run.seed] = run
    order = _ordered(set(values.values()), name, swept[0].config.options)
    found = []
    if all(len(by_value) < 2 for by_value in lines.values()):
        single = []
        for (task, _), by_value in lines.items():
            ((value, by_seed),) = by_value.items()
            single.append(f"{_shown(value)} of {kinds[next(iter(by_seed.values())).name].label} on {task}")
        raise ValueError(
            f"--field {field}: no two runs differ in it and in the seed alone, so that there is no line to draw: "
            f"{'; '.join(single)}; give runs that are alike in all else"
        )
    for (task, _), by_value in lines.items():
        first = next(iter(next(iter(by_value.values())).values()))
        points = {value: _figures(by_value[value], rule) for value in order if value in by_value}
        found.append(SweptLine(task, kinds[first.name].label, first.metric, points))
    others = []
    for (task, _), by_seed in levels.items():
        first = next(iter(by_seed.values()))
        others.append(LevelLine(task, kinds[first.name].label, first.metric, _figures(by_seed, rule)))
    return Sweep(name, order, tuple(found), tuple(others))


def _values(runs: Sequence[FoundRun], name: str) -> dict[str, float | str]:
    """Run name to the field's value: a number where it is one in all of them, else words."""
    values = {run.name: _set_value(run.config.options, name) for run in runs}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
        return {run: float(value) for run, value in values.items()}
    return {run: _word(value) for run, value in values.items()}


def _set_value(options: Any, name: str) -> Any:
    return resolved_options(options).get(name, getattr(options, name))


def _word(value: Any) -> str:
    """Several are joined by "+"."""
    if value is None or value in ((), [], ""):
        return UNSET
    if isinstance(value, tuple | list):
        return "+".join(map(_word, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ordered(values: Iterable[float | str], name: str, options: Any) -> tuple[float | str, ...]:
    """Numbers ascend. Words stand as the type of the field names them; what is not set first, then single ones before
    several, and numbers in them by what they are ("10" behind "4")."""
    declared = _literals(get_type_hints(type(options))[name])

    def place(value: float | str) -> tuple[Any, ...]:
        if not isinstance(value, str):
            return (value,)
        rank = declared.index(value) if value in declared else len(declared)
        parts = [
            (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
            for part in re.split(r"([0-9]+)", value)
            if part
        ]
        return value != UNSET, rank, value.count("+"), parts

    return tuple(sorted(values, key=place))


def _literals(hint: Any) -> list[Any]:
    """What a type of literals, or a union with one, allows, in its order."""
    found: list[Any] = []
    for part in get_args(hint):
        found += _literals(part) if get_args(part) else [part] * isinstance(part, str)
    return found


def _figures(by_seed: Mapping[int, FoundRun], rule: CheckpointName) -> dict[int, float]:
    found = {}
    for seed, run in sorted(by_seed.items()):
        row = run.chosen(rule)
        value = per_cent(row, "target-test")
        if row is None or value is None:
            what = f"no {in_words(main_metric(row))} of the target" if row else "; ".join(run.missing) or "no such row"
            raise ValueError(f"RUN {run.folder.path} has no evaluation that counts ({rule}): {what}")
        found[seed] = value
    return found


def sweep_table(found: Sweep) -> Table:
    """A line for each value of each line, and one for each level: mean ± standard deviation over seeds."""
    table = Table(
        title=f"Target test {found.metrics} over {found.field}",
        caption="in %, mean ± sample standard deviation over seeds; whoever takes the best of these values chooses by "
        "the target's labels",
    )
    for head in ("task", "run", found.field):
        table.add_column(head, overflow="fold")
    for head in ("n", "target"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in found.lines:
        for value, spread in line.spreads().items():
            table.add_row(line.task, line.label, _shown(value), str(len(spread.values)), spread.text())
        table.add_section()
    for level in found.levels:
        spread = Spread(level.values)
        table.add_row(level.task, level.label, "", str(len(spread.values)), spread.text())
    return table


def sweep_csv(found: Sweep) -> str:
    """The same as CSV: a line for each figure in per cent; `std` is the sample standard deviation over `n` seeds, and a
    level's value is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "run", found.field, "metric", "mean", "std", "n", "seeds"))
    for line in found.lines:
        for value, spread in line.spreads().items():
            table.writerow((line.task, line.label, _shown(value), line.metric, *spread.cells()))
    for level in found.levels:
        table.writerow((level.task, level.label, "", level.metric, *Spread(level.values).cells()))
    return text.getvalue()


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def save_sweep_figure(
    paths: Sequence[Path], out: Path, field: str, rule: CheckpointName, *, line: Callable[[str], None]
) -> Sweep:
    """Draw what finished runs are judged by over a field, and write the numbers beside the figure as CSV.

    Args:
        paths: Run folders, or folders that hold some.
        out: Image file to write; its suffix chooses the format.
        field, rule: As `sweep_over`.
        line: Where a warning goes.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `sweep_over`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    found = sweep_over(runs_to_group(paths, "RUN", line), field, rule)
    tasks = list(dict.fromkeys(each.task for each in found.judged))
    labels = list(dict.fromkeys(each.label for each in found.judged))
    several = len({each.label for each in found.lines}) > 1

    def look(judged: Judged) -> tuple[int, int]:
        """Colour and form: of a single task the kinds have a colour each, of several the tasks."""
        task, kind = tasks.index(judged.task), labels.index(judged.label)
        return (task, kind) if len(tasks) > 1 else (kind, kind)

    def curve(swept: SweptLine) -> Curve:
        spreads = swept.spreads()
        return Curve(
            f"{swept.task}, {swept.label}" if several else swept.task,
            *look(swept),
            tuple(map(found.values.index, spreads)),
            tuple(spread.mean for spread in spreads.values()),
            tuple(spread.deviation for spread in spreads.values()),
        )

    def level(judged: Judged, label: str, values: Mapping[int, float]) -> Level:
        return Level(f"{judged.task}, {label}", *look(judged), Spread(values).mean)

    levels = [level(each, each.label, each.values) for each in found.levels]
    curves = []
    for each in found.lines:
        if len(each.points) > 1:
            curves.append(curve(each))
            continue
        # A line of one point would be none, and nothing is told of where it has others.
        ((value, values),) = each.points.items()
        levels.append(level(each, f"{each.label} with {found.field} {_shown(value)}", values))
    words = f"target test {found.metrics}, %"
    save_sweep(curves, levels, found.values, out, axis_label=found.field, words=words)
    write_beside(out, sweep_csv(found))
    return found

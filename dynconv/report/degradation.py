"""What adaptation costs on each source domain, against networks trained on that domain alone (DRT, Fig. 2)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Group as Renderables
from rich.table import Table
from rich.text import Text

from dynconv.data import parse_spec
from dynconv.engine.run_folder import write_atomically
from dynconv.engine.selection import Row
from dynconv.plots.degradation import Bars, Panel, save_degradation
from dynconv.report.before import SAME_NETWORK, SOURCE_ONLY
from dynconv.report.collect import FoundRun, find_runs
from dynconv.report.groups import Group, Grouping, group_runs
from dynconv.report.spread import Spread, signed

TESTED = re.compile(r"^source-test/(?P<source>[^/]+)/accuracy$")
# Beside the network: what a run and its oracle must have in common, so that the difference is the adaptation's alone.
SAME_MEASURE = ("source_limit", "ten_crop")


@dataclass(frozen=True)
class Degradation:
    """One kind of run on one task. Accuracies in per cent at the last step, differences in points."""

    task: str
    label: str
    """Method, residual, and what else tells the kind from the others."""
    accuracy: Mapping[str, Spread]
    """By source: on its test images, by seed."""
    oracle: Mapping[str, float]
    """By source: that of its oracles, the mean over their seeds."""
    oracles: Mapping[str, int]
    """By source: how many oracles."""

    def difference(self, source: str) -> Spread:
        """`accuracy` less `oracle`, by seed: below 0 where the source has lost."""
        return Spread({seed: value - self.oracle[source] for seed, value in self.accuracy[source].values.items()})

    @property
    def mean_difference(self) -> Spread:
        """`difference`, the mean over the sources, by seed."""
        found = [self.difference(source).values for source in self.accuracy]
        return Spread({seed: fmean(values[seed] for values in found) for seed in found[0]})


def standard_error(spread: Spread) -> float | None:
    """Of the mean over seeds; None of a single seed."""
    values = list(spread.values.values())
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def degradations(runs: Sequence[FoundRun], oracles: Sequence[FoundRun]) -> list[Degradation]:
    """Compare finished runs with the oracles of their sources: by task, then by kind of run.

    Runs that differ in the seed alone are one kind. An oracle is a run of source-only whose single source is the
    domain; it must have the run's backbone, weights, norm and bottleneck, for another network's difference would count
    as the adaptation's.

    Raises:
        ValueError: No run; a run that is not finished, was given twice, or was not measured on test images of its
            sources; an oracle of another method, of several sources, or of another network; oracles of one source that
            differ in more than the seed; a source without an oracle.
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
    oracle: dict[str, float] = {}
    number: dict[str, int] = {}
    for seed, run in by_seed.items():
        for name, data in _sources(run, "RUN").items():
            if data not in of_data:
                raise ValueError(
                    f"--oracles: none is of {data}, a source of {run.folder.path}; give a finished run of "
                    f"{SOURCE_ONLY} with that single source (there are oracles of {', '.join(of_data)})"
                )
            for other in of_data[data]:
                _check_same(run, other)
            key = f"source-test/{name}/accuracy"
            accuracy.setdefault(name, {})[seed] = 100 * _last(run)[key]
            oracle[name] = fmean(100 * _last(other)[key] for other in of_data[data])
            number[name] = len(of_data[data])
    return Degradation(task, label, {name: Spread(values) for name, values in accuracy.items()}, oracle, number)


def _check_same(run: FoundRun, oracle: FoundRun) -> None:
    pairs = [(name, run.config.options, oracle.config.options) for name in SAME_NETWORK]
    pairs += [(name, run.config.run, oracle.config.run) for name in SAME_MEASURE]
    for name, one, other in pairs:
        if getattr(one, name, None) != getattr(other, name, None):
            raise ValueError(
                f"--oracles {oracle.folder.path} has {name} {getattr(other, name, None)!r} and RUN {run.folder.path} "
                f"{getattr(one, name, None)!r}: their difference would count as what adaptation costs"
            )


def degradation_tables(found: Sequence[Degradation]) -> Renderables:
    """A table for each task: of each source the oracle's accuracy, and each kind's with its difference."""
    tables = []
    for task, kinds in _by_task(found).items():
        table = Table(
            title=f"{task}: accuracy on the sources' test images, and less that of the oracle",
            caption="accuracy in %, difference in points ± standard error over seeds",
        )
        table.add_column("source", overflow="fold")
        table.add_column("oracle", justify="right")
        for kind in kinds:
            table.add_column(Text(kind.label), justify="right")
        for source, oracle in kinds[0].oracle.items():
            cells = (f"{kind.accuracy[source].mean:.1f} ({_text(kind.difference(source))})" for kind in kinds)
            table.add_row(source, f"{oracle:.1f}", *cells)
        table.add_section()
        table.add_row("average", "", *(_text(kind.mean_difference) for kind in kinds))
        tables.append(table)
    return Renderables(*tables)


def degradation_csv(found: Sequence[Degradation]) -> str:
    """The same as CSV: a line for each source of each kind."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["task", "run", "source", "seeds", "accuracy", "oracles", "oracle_accuracy", "difference", "standard_error"]
    )
    for kind in found:
        for source, spread in kind.accuracy.items():
            difference = kind.difference(source)
            error = standard_error(difference)
            seeds = " ".join(map(str, spread.values))
            figures = [
                f"{spread.mean:.3f}",
                kind.oracles[source],
                f"{kind.oracle[source]:.3f}",
                f"{difference.mean:.3f}",
            ]
            table.writerow([kind.task, kind.label, source, seeds, *figures, "" if error is None else f"{error:.3f}"])
    return text.getvalue()


def save_degradation_figure(runs: Sequence[Path], oracles: Sequence[Path], out: Path) -> list[Degradation]:
    """Draw what adaptation costs on each source, from the files of finished runs, and write the numbers beside it.

    Args:
        runs: Run folders, or folders that hold some.
        oracles: The same, of the oracles.
        out: Image file to write; its suffix chooses the format. The numbers are beside it, with the suffix .csv.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `degradations`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    found = degradations(_readable(runs, "RUN"), _readable(oracles, "--oracles"))
    labels = list(dict.fromkeys(kind.label for kind in found))
    panels = [
        Panel(
            task,
            tuple(kinds[0].accuracy),
            tuple(
                Bars(
                    kind.label,
                    labels.index(kind.label),
                    tuple(kind.difference(source).mean for source in kind.accuracy),
                    tuple(standard_error(kind.difference(source)) for source in kind.accuracy),
                    kind.mean_difference.mean,
                )
                for kind in kinds
            ),
        )
        for task, kinds in _by_task(found).items()
    ]
    save_degradation(panels, out)
    try:
        write_atomically(out.with_suffix(".csv"), degradation_csv(found))
    except OSError as error:
        raise ValueError(f"{out.with_suffix('.csv')} cannot be written: {error}") from error
    return found


def _readable(paths: Sequence[Path], what: str) -> list[FoundRun]:
    runs, unreadable = find_runs(paths)
    for other in unreadable:
        raise ValueError(f"{what} {other.name} cannot be read: {other.reason}")
    return runs


def _by_task(found: Sequence[Degradation]) -> dict[str, list[Degradation]]:
    return {task: [kind for kind in found if kind.task == task] for task in dict.fromkeys(kind.task for kind in found)}


def _text(difference: Spread) -> str:
    error = standard_error(difference)
    return signed(difference.mean) + ("" if error is None else f" ± {error:.1f}")

"""What runs are judged by over their steps: whether an adaptation collapses (GAM, Fig. 5)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dynconv.engine.run_options import DEFAULT_EPOCHS
from dynconv.engine.selection import Row, mean_of
from dynconv.methods.adapted import AdaptedConfig
from dynconv.methods.gam import GAMConfig
from dynconv.methods.gaussian import GaussianConfig
from dynconv.methods.source_first import SourceFirstConfig
from dynconv.metrics.names import in_words
from dynconv.plots.curves import Curve, Panel, Points, save_curves
from dynconv.report.collect import FoundRun
from dynconv.report.figures.training import write_beside
from dynconv.report.groups import kinds_of, runs_to_group, tasks_of
from dynconv.report.row_labels import labels_of
from dynconv.report.spread import Spread, text_of
from dynconv.report.words import metrics_of

# What a run logs of ||theta_s - theta_t||^2 (GAM, eq. 3).
DRIFT = "weight_drift"
# What its options make of it: nothing that is put beside another form.
OF_MEANS, FROM_START = "/mean", "/from-start"
TARGET = "target-test/"


@dataclass(frozen=True)
class Trajectory:
    """Runs of one kind on one task."""

    task: str
    label: str
    metric: str
    """What the points are, such as "accuracy"."""
    points: Mapping[int, Points]
    """By seed: steps of the evaluations, and the figure on the target's test images in per cent."""
    drift: Mapping[int, Points]
    """By seed: what it logged of the drift of the weights, NaN where it logged none in between; empty where it never
    did."""
    drift_name: str
    """What that is: `DRIFT`, with a word for what is another quantity than eq. 3's."""
    begins: int
    """The first step that adapts, counted from 0."""
    joining: tuple[int, ...] = ()
    """The steps with which another discriminator joins in."""
    one_step: bool = False
    """Whether the whole run is one step, a matching."""

    @property
    def common(self) -> int | None:
        """The last step after the adaptation's beginning at which all seeds were evaluated; None where there is
        none."""
        steps = set.intersection(*({step for step, _ in points} for points in self.points.values()))
        return max((step for step in steps if step > self.begins), default=None)

    def last(self) -> Spread | None:
        """At `common`, in per cent; None without it."""
        common = self.common
        return None if common is None else Spread({seed: dict(points)[common] for seed, points in self.points.items()})

    def start(self) -> Spread | None:
        """Of the last evaluation before the adaptation, in per cent; None where not every seed has one."""
        before = {
            seed: [value for step, value in points if step <= self.begins] for seed, points in self.points.items()
        }
        return Spread({seed: values[-1] for seed, values in before.items()}) if all(before.values()) else None

    def best(self) -> dict[int, tuple[int, float]]:
        """By seed the step and the figure of the best evaluation of the adaptation up to `common`; of equals the
        earliest. The labels of the target choose it, as the rule "oracle" does. Empty without `common`."""
        common = self.common
        if common is None:
            return {}
        return {
            seed: max((point for point in points if self.begins < point[0] <= common), key=lambda point: point[1])
            for seed, points in self.points.items()
        }

    def oracle(self) -> Spread | None:
        """The figures of `best`; None where it is empty."""
        best = self.best()
        return Spread({seed: value for seed, (_, value) in best.items()}) if best else None

    def drop(self) -> Spread | None:
        """By how many points the last evaluation is below the best; None without `common`."""
        best, last = self.oracle(), self.last()
        if best is None or last is None:
            return None
        return Spread({seed: best.values[seed] - value for seed, value in last.values.items()})


def trajectories(runs: Sequence[FoundRun], metric: str | None = None) -> list[Trajectory]:
    """Runs by task and kind, finished or not; those that differ in the seed alone are of one kind.

    Args:
        runs: Run folders as they were read.
        metric: A measure of the target's test images, a share of 1; None for what each run is judged by.

    Raises:
        ValueError: A run was not evaluated after its first step, lacks the metric, or was given twice.
    """
    kinds, tasks, labels = kinds_of(runs), tasks_of(runs), labels_of(runs)
    grouped: dict[tuple[str, str], dict[int, FoundRun]] = {}
    for run in runs:
        by_seed = grouped.setdefault((tasks[run.name], kinds[run.name].key), {})
        if run.seed in by_seed:
            raise ValueError(
                f"RUN {run.folder.path} is of the configuration and seed of {by_seed[run.seed].folder.path}; give one "
                "of them"
            )
        by_seed[run.seed] = run
    found = []
    for (task, _), by_seed in grouped.items():
        of_seeds = dict(sorted(by_seed.items()))
        first = next(iter(of_seeds.values()))
        own = metric or first.metric
        points = {seed: _points(run, own) for seed, run in of_seeds.items()}
        drift = {seed: logged for seed, run in of_seeds.items() if (logged := _logged(run.training_rows, DRIFT))}
        label, options, length = labels[first.name], first.config.options, _length(first)
        joining = options.joining_steps(length) if isinstance(options, GAMConfig) else ()
        begins, one_step = _begins(options, length), isinstance(options, GaussianConfig) and length == 1
        found.append(Trajectory(task, label, own, points, drift, _drift_name(options), begins, joining, one_step))
    return found


def _points(run: FoundRun, metric: str) -> Points:
    if all(row["step"] == 0 for row in run.rows):
        raise ValueError(f"RUN {run.folder.path} has no evaluation after step 0 yet; leave it out, or train it on")
    points = [
        (row["step"], value) for row in run.rows if (value := mean_of(row, TARGET.strip("/"), metric)) is not None
    ]
    if not points or points[-1][0] == 0:
        known = dict.fromkeys(name.rpartition("/")[2] for row in run.rows for name in row if name.startswith(TARGET))
        raise ValueError(
            f"--metric {metric}: RUN {run.folder.path} has no such measure of the target's test images; it has "
            f"{', '.join(known) or 'none, for they have no labels'}"
        )
    return tuple((step, 100 * value) for step, value in points)


def _logged(rows: Iterable[Row], name: str) -> Points:
    """From the first of `rows` that has it to the last; NaN for those between that do not."""
    points = [(row["step"], row.get(name, nan)) for row in rows]
    there = [place for place, (_, value) in enumerate(points) if not isnan(value)]
    return tuple(points[there[0] : there[-1] + 1]) if there else ()


def _length(run: FoundRun) -> int:
    """The run's steps in all, of one that is not finished too."""
    options = run.config.run
    if options.max_steps is not None:
        return options.max_steps
    if run.done is not None:
        return run.step
    # A fraction of an epoch is rounded in the rows, its steps are whole.
    row = run.rows[-1]
    return (options.epochs or DEFAULT_EPOCHS) * round(row["step"] / row["epoch"])


def _begins(options: Any, length: int) -> int:
    if isinstance(options, GaussianConfig):
        # The matching is the last step, what is before it learns the source.
        return length - 1
    return options.adaptation_begins(length) if isinstance(options, SourceFirstConfig) else 0


def _drift_name(options: Any) -> str:
    means = isinstance(options, AdaptedConfig) and options.drift == "mean"
    from_start = isinstance(options, GAMConfig) and options.drift_from == "start"
    return DRIFT + OF_MEANS * means + FROM_START * from_start


def mean_points(of_seeds: Iterable[Points]) -> Points:
    """The mean at each step that all of `of_seeds` have."""
    by_step = [dict(points) for points in of_seeds]
    if not by_step:
        return ()
    common = set.intersection(*map(set, by_step))
    return tuple((step, fmean(values[step] for values in by_step)) for step in sorted(common))


def curves_table(found: Sequence[Trajectory]) -> Table:
    """A line for each kind of run on a task: the start, the last and the best evaluation, and what was lost between
    these two."""
    table = Table(
        title=f"Target test {metrics_of(each.metric for each in found)} over the steps",
        caption="in %, mean ± sample standard deviation over seeds; start: the last evaluation before the adaptation, "
        "of gam and gaussian of the source's network, not yet matched; last: at the last step that all seeds have; "
        "best: of the adaptation up to there by the oracle, which looks at the target's labels and chooses no model; "
        "drop: from the best to the last",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("run", overflow="fold")
    for head in ("n", "start", "last", "best\n(oracle)", "at\nstep", "drop"):
        table.add_column(head, justify="right", no_wrap=True)
    for task in dict.fromkeys(each.task for each in found):
        # In a line of its own: beside six columns of figures no name of a task has room in 80 characters.
        table.add_row(Text(task, style="bold"))
        for each in (each for each in found if each.task == task):
            steps = sorted({step for step, _ in each.best().values()})
            at = "-\n".join(map(str, dict.fromkeys((steps[0], steps[-1])))) if steps else ""
            start, last, best, drop = map(text_of, (each.start(), each.last(), each.oracle(), each.drop()))
            table.add_row(each.label, str(len(each.points)), start, last, best, at, drop)
        table.add_section()
    return table


def curves_csv(found: Sequence[Trajectory]) -> str:
    """Every point as CSV: a line for each seed's, the figures in per cent under the metric's name and the drift of the
    weights under its own, `weight_drift`, or `weight_drift/mean` and `/from-start` where the options make another
    quantity of it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "run", "seed", "metric", "step", "value"))
    for each in found:
        for metric, of_seeds in ((each.metric, each.points), (each.drift_name, each.drift)):
            for seed, points in of_seeds.items():
                there = [(step, f"{value:.6g}") for step, value in points if not isnan(value)]
                table.writerows((each.task, each.label, seed, metric, *point) for point in there)
    return text.getvalue()


def save_curves_figure(
    paths: Sequence[Path], out: Path, metric: str | None, *, line: Callable[[str], None]
) -> list[Trajectory]:
    """Draw what runs are judged by over their steps, and write every point beside the figure as CSV.

    Args:
        paths: Run folders, or folders that hold some.
        out: Image file to write; its suffix chooses the format.
        metric: As `trajectories`.
        line: Where a warning goes.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `trajectories`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    runs = runs_to_group(paths, "RUN", line)
    found = trajectories(runs, metric)
    for run in runs:
        if run.done is None:
            line(f"{run.folder.path} is not finished: its curve ends at step {run.step}")
    if any(each.drift for each in found) and (
        silent := [run.name for run in runs if not _logged(run.training_rows, DRIFT)]
    ):
        line(f"these logged no drift of the weights and are not in its panel: {', '.join(silent)}")
    labels = list(dict.fromkeys(each.label for each in found))
    tasks = dict.fromkeys(each.task for each in found)
    save_curves([_panels(task, [each for each in found if each.task == task], labels) for task in tasks], out)
    write_beside(out, curves_csv(found))
    return found


def _panels(task: str, found: Sequence[Trajectory], labels: Sequence[str]) -> list[Panel]:
    """What the runs of a task are judged by, and below it the drift of their weights where any logged it, each form of
    it in a panel of its own."""

    def curve(each: Trajectory, of_seeds: Mapping[int, Points], level: bool = False) -> Curve:
        seeds = tuple(of_seeds.values())
        place = labels.index(each.label)
        return Curve(each.label, place, seeds, mean_points(seeds), each.begins, each.joining, level)

    words = in_words(metrics_of(each.metric for each in found))
    panels = [Panel(task, f"target test {words}, %", tuple(curve(each, each.points, each.one_step) for each in found))]
    for name in sorted({each.drift_name for each in found if each.drift}):
        title = f"Drift of the weights from {'their start' if FROM_START in name else 'the source’s'}"
        words = "mean of (θs − θt)², summed over tensors" if OF_MEANS in name else "||θs − θt||²"
        drifting = [each for each in found if each.drift and each.drift_name == name]
        panels.append(Panel(title, words, tuple(curve(each, each.drift) for each in drifting)))
    return panels

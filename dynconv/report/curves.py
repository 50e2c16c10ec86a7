"""What runs are judged by over their steps: whether an adaptation collapses (GAM, Fig. 5)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dynconv.engine.selection import Row, mean_of
from dynconv.methods.source_first import SourceFirstConfig
from dynconv.metrics.names import in_words
from dynconv.plots.curves import Curve, Panel, Points, save_curves
from dynconv.report.collect import FoundRun
from dynconv.report.figures import write_beside
from dynconv.report.groups import kinds_of, runs_to_group, tasks_of
from dynconv.report.spread import Spread, text_of
from dynconv.report.words import metrics_of

# What a run logs of ||theta_s - theta_t||^2 (GAM, eq. 3).
DRIFT = "weight_drift"
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
    """By seed: what it logged of the drift of the weights; empty where it logged none."""
    begins: int
    """The first step that adapts, counted from 0."""

    def last(self) -> Spread:
        """At the last evaluation of each seed, in per cent."""
        return Spread({seed: points[-1][1] for seed, points in self.points.items()})

    def start(self) -> Spread | None:
        """Of the network as it started, in per cent; None where not every seed has measured it."""
        starts = {seed: points[0][1] for seed, points in self.points.items() if points[0][0] == 0}
        return Spread(starts) if starts.keys() == self.points.keys() else None

    def best(self) -> dict[int, tuple[int, float]]:
        """By seed the step and the figure of the best evaluation, the start aside; of equals the earliest. The labels
        of the target choose it, as the rule "oracle" does."""
        return {
            seed: max((point for point in points if point[0] > 0), key=lambda point: point[1])
            for seed, points in self.points.items()
        }

    def oracle(self) -> Spread:
        """The figures of `best`."""
        return Spread({seed: value for seed, (_, value) in self.best().items()})

    def drop(self) -> Spread:
        """By how many points the last evaluation is below the best."""
        best, last = self.oracle().values, self.last().values
        return Spread({seed: best[seed] - last[seed] for seed in last})


def trajectories(runs: Sequence[FoundRun], metric: str | None = None) -> list[Trajectory]:
    """Runs by task and kind, finished or not; those that differ in the seed alone are of one kind.

    Args:
        runs: Run folders as they were read.
        metric: A measure of the target's test images, a share of 1; None for what each run is judged by.

    Raises:
        ValueError: A run was not evaluated after its first step, lacks the metric, or was given twice.
    """
    kinds, tasks = kinds_of(runs), tasks_of(runs)
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
        found.append(Trajectory(task, kinds[first.name].label, own, points, drift, _begins(first)))
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
            f"{', '.join(known) or 'none'}"
        )
    return tuple((step, 100 * value) for step, value in points)


def _logged(rows: Iterable[Row], name: str) -> Points:
    return tuple((row["step"], row[name]) for row in rows if name in row)


def _begins(run: FoundRun) -> int:
    options = run.config.options
    if not isinstance(options, SourceFirstConfig):
        return 0
    return options.adaptation_begins(run.config.run.max_steps or run.step)


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
        caption="in %, mean ± sample standard deviation over seeds; best: the oracle's choice, which looks at the "
        "target's labels and chooses no model; drop: from the best to the last",
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
            steps = [step for step, _ in each.best().values()]
            at = str(steps[0]) if len(set(steps)) == 1 else f"{min(steps)}-\n{max(steps)}"
            figures = map(text_of, (each.start(), each.last(), each.oracle()))
            table.add_row(each.label, str(len(each.points)), *figures, at, each.drop().text())
        table.add_section()
    return table


def curves_csv(found: Sequence[Trajectory]) -> str:
    """Every point as CSV: a line for each seed's, the figures in per cent under the metric's name and the drift of the
    weights under its own."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "run", "seed", "metric", "step", "value"))
    for each in found:
        for metric, of_seeds in ((each.metric, each.points), (DRIFT, each.drift)):
            for seed, points in of_seeds.items():
                table.writerows((each.task, each.label, seed, metric, step, f"{value:.6g}") for step, value in points)
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
    labels = list(dict.fromkeys(each.label for each in found))
    tasks = dict.fromkeys(each.task for each in found)
    save_curves([_panels(task, [each for each in found if each.task == task], labels) for task in tasks], out)
    write_beside(out, curves_csv(found))
    return found


def _panels(task: str, found: Sequence[Trajectory], labels: Sequence[str]) -> list[Panel]:
    """What the runs of a task are judged by, and below it the drift of their weights where any logged it."""

    def curve(each: Trajectory, of_seeds: Mapping[int, Points]) -> Curve:
        seeds = tuple(of_seeds.values())
        return Curve(each.label, labels.index(each.label), seeds, mean_points(seeds), each.begins)

    words = in_words(metrics_of(each.metric for each in found))
    panels = [Panel(task, f"target test {words}, %", tuple(curve(each, each.points) for each in found))]
    if drifting := [each for each in found if each.drift]:
        title = "Drift of the weights from the source's"
        panels.append(Panel(title, "||θs − θt||²", tuple(curve(each, each.drift) for each in drifting)))
    return panels

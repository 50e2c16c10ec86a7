"""What adaptation gives on the target and costs on the source (Calibrator, Fig. 2 and section 4.2)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.table import Table

from dynconv.engine.evaluation import split_metrics
from dynconv.engine.loaded_run import load_run, source_images
from dynconv.engine.run_options import CheckpointName, Device
from dynconv.engine.segmentation import SceneScoring, scene_metrics
from dynconv.plots.samples import write_figure
from dynconv.plots.trade_off import Change, trade_off_figure
from dynconv.report.before import OWN_CLASSIFIER, SOURCE_ONLY, STEP_0, before
from dynconv.report.collect import FoundRun
from dynconv.report.figures.training import write_beside
from dynconv.report.groups import group_runs, runs_to_group
from dynconv.report.papers import matches
from dynconv.report.row_labels import with_row_labels
from dynconv.report.spread import Point, Spread, both_sides, chosen_sides, mean_point, side_of, text_of
from dynconv.report.words import metrics_of


@dataclass(frozen=True)
class TradeOff:
    """One kind of run on one task. Points are (source, target) test figures in per cent, by seed."""

    task: str
    label: str
    after: Mapping[int, Point]
    before: Mapping[int, Point]
    """Of the seeds of which it is known; empty for source-only, which adapts nothing."""
    starts: tuple[str, ...]
    """What `before` is: see `Before.described`."""
    steps: Mapping[int, int]
    """Seed to the step of `before` in the run that it is of."""
    anew: bool
    """Whether the source's figure after adaptation is that of the target's network, measured anew."""
    metric: str
    """What the points are: "accuracy", or "mean-iou" where every pixel has a class."""

    def change(self) -> Change:
        """The means over seeds as a point and an arrow; no arrow where a seed's start is not known."""
        whole = self.before.keys() == self.after.keys()
        start = mean_point(self.before.values()) if whole else None
        seeds = tuple(self.after.values())
        return Change(self.label, self.task, mean_point(self.after.values()), start, STEP_0 in self.starts, seeds)


def measure_as_target(run: FoundRun, checkpoint: CheckpointName, *, device: Device, data_root: Path | None) -> float:
    """What a run is judged by, in per cent, of its checkpoint on the test images of its sources, which go through the
    target's network; the mean over the sources, of those without test images on the held-out ones.

    Raises:
        ValueError: The checkpoint or the data are not there.
    """
    loaded = load_run(run.folder.path, checkpoint=checkpoint, device=device, data_root=data_root)
    options = run.config.run
    found: dict[str, float] = {}
    for name, split in source_images(*loaded.domains()):
        # Not by the name "source-test", which stands for the source's own network.
        head = f"as-target/{name}"
        if run.metric == "accuracy":
            found |= split_metrics(
                loaded.method, head, split, loaded.classes, loaded.scoring, by_class=False, ten_crop=options.ten_crop
            )
        else:
            scenes = SceneScoring(loaded.scoring, options.eval_window, options.full_resolution)
            found |= scene_metrics(loaded.method, head, split, loaded.classes, scenes, by_class=False)
    return 100 * fmean(value for name, value in found.items() if name.endswith(f"/{run.metric}"))


def trade_offs(
    runs: Sequence[FoundRun], rule: CheckpointName, measure: Callable[[FoundRun], float] | None
) -> list[TradeOff]:
    """Finished runs by kind and task; runs that differ in the seed alone are one kind.

    Args:
        runs: Run folders as they were read, source-only runs among them for where the others start.
        rule: Which of a run's models is "after".
        measure: Source figure in per cent of a run's target network (`measure_as_target`), asked for of runs that
            keep a network for each domain; None for the source's own network, from the files.

    Raises:
        ValueError: A run that is not finished, was given twice, or has no figure of one of the sides, as a bound.
    """
    if bounds := [run for run in runs if run.is_bound]:
        raise ValueError(
            f"RUN {bounds[0].folder.path} is of {bounds[0].config.method}, a bound whose only source is the target: it "
            "has no source's side; leave it out"
        )
    sides = {run.name: chosen_sides(run, rule) for run in runs}
    grouping = with_row_labels(group_runs(runs), {run.name: matches(run) for run in runs})
    for run, counted in grouping.doubles:
        raise ValueError(
            f"RUN {run.folder.path} is of the same configuration and seed as {counted.folder.path}; give one of them"
        )
    found = []
    for task in grouping.tasks:
        for group in grouping.groups:
            of_seeds = dict(sorted(group.runs.get(task, {}).items()))
            if of_seeds:
                found.append(_trade_off(task, group.label, of_seeds, sides, runs, rule, measure))
    return found


def _trade_off(
    task: str,
    label: str,
    of_seeds: Mapping[int, FoundRun],
    sides: Mapping[str, Point],
    runs: Sequence[FoundRun],
    rule: CheckpointName,
    measure: Callable[[FoundRun], float] | None,
) -> TradeOff:
    after: dict[int, Point] = {}
    earlier: dict[int, Point] = {}
    starts: dict[str, None] = {}
    steps: dict[int, int] = {}
    anew = False
    for seed, run in of_seeds.items():
        point = sides[run.name]
        if measure is not None and run.config.options.has_source_network:
            point, anew = (measure(run), point[1]), True
        after[seed] = point
        start = None if run.config.method == SOURCE_ONLY else before(run, runs, rule)
        if start is not None and (began := both_sides(start.row)) is not None:
            earlier[seed] = began
            starts[start.described] = None
            steps[seed] = start.row["step"]
    return TradeOff(task, label, after, earlier, tuple(starts), steps, anew, next(iter(of_seeds.values())).metric)


def _metrics(found: Sequence[TradeOff]) -> str:
    return metrics_of(each.metric for each in found)


def _columns(found: TradeOff) -> dict[tuple[str, str], Spread]:
    """By (domain, when); without "before" where no seed's is known."""
    return {
        (domain, when): side_of(points, side)
        for when, points in (("before", found.before), ("after", found.after))
        if points
        for side, domain in enumerate(("source", "target"))
    }


def trade_off_table(found: Sequence[TradeOff]) -> Table:
    """A line for each task and kind: both figures before and after, mean ± standard deviation over seeds."""
    whole = (OWN_CLASSIFIER, SOURCE_ONLY, STEP_0)
    early = dict.fromkeys(f"; before: {start}" for each in found for start in each.starts if start not in whole)
    table = Table(
        title=f"Source and target test {_metrics(found)} before and after adaptation",
        caption="in %, mean ± sample standard deviation over seeds; *: of the network that the target's images take"
        + "".join(early),
    )
    for head in ("task", "run"):
        table.add_column(head, overflow="fold")
    # A word to the line, so that the figures fit into 80 characters.
    for head in ("n", "source\nbefore", "source\nafter", "target\nbefore", "target\nafter"):
        table.add_column(head, justify="right", no_wrap=True)
    for each in found:
        columns = _columns(each)
        star = " *" if each.anew else ""
        table.add_row(
            each.task,
            each.label,
            str(len(each.after)),
            text_of(columns.get(("source", "before"))),
            columns["source", "after"].text() + star,
            text_of(columns.get(("target", "before"))),
            columns["target", "after"].text(),
        )
    return table


def trade_off_csv(found: Sequence[TradeOff]) -> str:
    """The same as CSV: a line for each figure in per cent. `std` is the sample standard deviation over `n` seeds,
    `network` which network source images went through, `start` what "before" is, and `step` its step by seed."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "run", "domain", "when", "mean", "std", "n", "seeds", "network", "start", "step"))
    for each in found:
        for (domain, when), spread in _columns(each).items():
            network = "target's" if each.anew and (domain, when) == ("source", "after") else "own"
            start = (", ".join(each.starts), " ".join(map(str, each.steps.values()))) if when == "before" else ("", "")
            table.writerow((each.task, each.label, domain, when, *spread.cells(), network, *start))
    return text.getvalue()


def save_trade_off_figure(
    paths: Sequence[Path],
    out: Path,
    rule: CheckpointName,
    measure: Callable[[FoundRun], float] | None,
    *,
    line: Callable[[str], None],
) -> list[TradeOff]:
    """Draw the trade-off of finished runs, and write the numbers beside it as CSV.

    Args:
        paths: Run folders, or folders that hold some.
        out: Image file to write; its suffix chooses the format.
        rule, measure: As `trade_offs`.
        line: Where a warning goes.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `trade_offs`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    found = trade_offs(runs_to_group(paths, "RUN", line), rule, measure)
    write_figure(trade_off_figure([each.change() for each in found], _metrics(found)), out)
    write_beside(out, trade_off_csv(found))
    return found

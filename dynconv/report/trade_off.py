"""What adaptation gives on the target and costs on the source (Calibrator, Fig. 2 and section 4.2)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from rich.table import Table

from dynconv.engine.config import CheckpointName
from dynconv.engine.evaluation import split_metrics
from dynconv.engine.inspect import load_run
from dynconv.plots.samples import write_figure
from dynconv.plots.trade_off import Change, trade_off_figure
from dynconv.report.before import SOURCE_ONLY, STEP_0, before
from dynconv.report.collect import FoundRun, readable_runs
from dynconv.report.figures import write_beside
from dynconv.report.groups import group_runs
from dynconv.report.spread import Spread, both_sides, chosen_sides, over_seeds

# Where these hold, source images and target images go through networks of their own.
OWN_STATISTICS = ("domain-specific", "adabn")

Point = tuple[float, float]


@dataclass(frozen=True)
class TradeOff:
    """One kind of run on one task. Points are (source, target) test accuracy in per cent, by seed."""

    task: str
    label: str
    after: Mapping[int, Point]
    before: Mapping[int, Point]
    """Of the seeds of which it is known; empty for source-only, which adapts nothing."""
    starts: tuple[str, ...]
    """What `before` is: see `Before.what`."""
    anew: bool
    """Whether the source's accuracy after adaptation is that of the target's network, measured anew."""

    def change(self) -> Change:
        """The means over seeds as a point and an arrow; no arrow where a seed's start is not known."""
        whole = self.before.keys() == self.after.keys()
        start = _mean(self.before) if whole else None
        seeds = tuple(self.after.values())
        return Change(self.label, self.task, _mean(self.after), start, STEP_0 in self.starts, seeds)


def keeps_both(run: FoundRun) -> bool:
    """Whether a run's source images are judged by another network than the target's: ADDA's encoder of their own, or
    statistics of their own in batch normalisation."""
    options = run.config.options
    return getattr(options, "weight_sharing", "shared") == "unshared" or options.normalisation_policy in OWN_STATISTICS


def measure_as_target(
    run: FoundRun, checkpoint: CheckpointName, *, device: Literal["auto", "cpu", "cuda"], data_root: Path | None
) -> float:
    """Accuracy in per cent of a run's checkpoint on the test images of its sources, which go through the target's
    network; the mean over the sources, of those without test images on the held-out ones.

    Raises:
        ValueError: The checkpoint or the data are not there.
    """
    loaded = load_run(run.folder.path, checkpoint=checkpoint, device=device, data_root=data_root)
    protocol, held_out = loaded.domains()
    tested = [(domain.name, domain.test) for domain in protocol.sources if domain.test is not None]
    splits = tested or [(domain.name, held) for domain, held in zip(protocol.sources, held_out, strict=True)]
    ten_crop = run.config.run.ten_crop
    found: dict[str, float] = {}
    for name, split in splits:
        # Not by the name "source-test", which stands for the source's own network.
        head = f"as-target/{name}"
        found |= split_metrics(
            loaded.method, head, split, loaded.classes, loaded.scoring, by_class=False, ten_crop=ten_crop
        )
    return 100 * fmean(found.values())


def trade_offs(
    runs: Sequence[FoundRun], rule: CheckpointName, measure: Callable[[FoundRun], float] | None
) -> list[TradeOff]:
    """Finished runs by kind and task; runs that differ in the seed alone are one kind.

    Args:
        runs: Run folders as they were read, source-only runs among them for where the others start.
        rule: Which of a run's models is "after".
        measure: Source accuracy in per cent of a run's target network (`measure_as_target`), asked for of runs that
            keep a network for each domain; None for the source's own network, from the files.

    Raises:
        ValueError: A run that is not finished, was given twice, or has no accuracy on one of the sides.
    """
    sides = {run.name: chosen_sides(run, rule) for run in runs}
    grouping = group_runs(runs)
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
    anew = False
    for seed, run in of_seeds.items():
        point = sides[run.name]
        if measure is not None and keeps_both(run):
            point, anew = (measure(run), point[1]), True
        after[seed] = point
        start = None if run.config.method == SOURCE_ONLY else before(run, runs, rule)
        if start is not None and (began := both_sides(start.row)) is not None:
            earlier[seed] = began
            starts[start.what] = None
    return TradeOff(task, label, after, earlier, tuple(starts), anew)


def _mean(points: Mapping[int, Point]) -> Point:
    sources, targets = zip(*points.values(), strict=True)
    return fmean(sources), fmean(targets)


def _columns(found: TradeOff) -> dict[tuple[str, str], Spread | None]:
    """By (domain, when)."""
    return {
        (domain, when): over_seeds({seed: point[side] for seed, point in points.items()})
        for when, points in (("before", found.before), ("after", found.after))
        for side, domain in enumerate(("source", "target"))
    }


def trade_off_table(found: Sequence[TradeOff]) -> Table:
    """A line for each task and kind: both accuracies before and after, mean ± standard deviation over seeds."""
    table = Table(
        title="Source and target test accuracy before and after adaptation",
        caption="in %, mean ± sample standard deviation over seeds; *: of the network that the target's images take",
    )
    for head in ("task", "run"):
        table.add_column(head, overflow="fold")
    # A word to the line, so that the figures fit into 80 characters.
    for head in ("n", "source\nbefore", "source\nafter", "target\nbefore", "target\nafter"):
        table.add_column(head, justify="right", no_wrap=True)
    for each in found:
        columns = _columns(each)
        cells = {key: "" if spread is None else spread.text() for key, spread in columns.items()}
        star = " *" if each.anew else ""
        table.add_row(
            each.task,
            each.label,
            str(len(each.after)),
            cells["source", "before"],
            cells["source", "after"] + star,
            cells["target", "before"],
            cells["target", "after"],
        )
    return table


def trade_off_csv(found: Sequence[TradeOff]) -> str:
    """The same as CSV: a line for each accuracy in per cent. `std` is the sample standard deviation over `n` seeds,
    `network` which network source images went through, `start` what "before" is."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "run", "domain", "when", "mean", "std", "n", "seeds", "network", "start"))
    for each in found:
        for (domain, when), spread in _columns(each).items():
            if spread is None:
                continue
            values = list(spread.values.values())
            deviation = f"{stdev(values):.3f}" if len(values) > 1 else ""
            seeds = " ".join(map(str, spread.values))
            network = "target's" if each.anew and (domain, when) == ("source", "after") else "own"
            start = ", ".join(each.starts) if when == "before" else ""
            row = (f"{spread.mean:.3f}", deviation, len(values), seeds, network, start)
            table.writerow((each.task, each.label, domain, when, *row))
    return text.getvalue()


def save_trade_off_figure(
    paths: Sequence[Path], out: Path, rule: CheckpointName, measure: Callable[[FoundRun], float] | None
) -> list[TradeOff]:
    """Draw the trade-off of finished runs, and write the numbers beside it as CSV.

    Args:
        paths: Run folders, or folders that hold some.
        out: Image file to write; its suffix chooses the format.
        rule, measure: As `trade_offs`.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `trade_offs`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    found = trade_offs(readable_runs(paths, "RUN"), rule, measure)
    write_figure(trade_off_figure([each.change() for each in found]), out)
    write_beside(out, trade_off_csv(found))
    return found

"""Accuracy over epsilon, the bound of a calibrator's perturbation (Calibrator, section 5.2 and appendix)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import torch
from rich.table import Table
from torch import Tensor

from dynconv.data import Split, evaluation_batches
from dynconv.engine.config import CheckpointName
from dynconv.engine.inspect import LoadedRun, load_run
from dynconv.engine.stream import calibrating
from dynconv.methods.calibrator import CalibratorConfig
from dynconv.plots.epsilon import Curve, Panel, save_epsilon
from dynconv.report.before import SOURCE_ONLY, STEP_0, before
from dynconv.report.collect import FoundRun, readable_runs
from dynconv.report.figures import write_beside
from dynconv.report.groups import kinds_of, tasks_of
from dynconv.report.spread import Spread, both_sides, chosen_sides

# Bounds of --sweep: none, and so many equal parts of the run's own.
PARTS = 10
TRAINED = "epsilon: bound of the perturbation, of the range from black to white"
CLAMPED = "bound that the trained perturbation is clamped to, of the range from black to white"

Point = tuple[float, float]


@dataclass(frozen=True)
class EpsilonLine:
    """Runs of one kind on one task. Points are (source, target) test accuracy in per cent, by seed."""

    task: str
    label: str
    points: Mapping[float, Mapping[int, Point]]
    """By bound, ascending."""
    without: Mapping[int, Point]
    """The classifier without calibrator; empty where it is not known."""

    def spread(self, points: Mapping[int, Point], side: int) -> Spread:
        """One side of `points`: 0 for the source, 1 for the target."""
        return Spread({seed: point[side] for seed, point in points.items()})


def epsilon_lines(runs: Sequence[FoundRun], rule: CheckpointName) -> list[EpsilonLine]:
    """Finished runs of calibrator by task and kind; those that differ in epsilon and seed alone are one line.

    Args:
        runs: Run folders as they were read; runs of source-only among them stand for the classifier alone where a run
            does not tell it itself.
        rule: Which of a run's models counts.

    Raises:
        ValueError: A run of another method, one that is not finished, was given twice or lacks an accuracy, or none.
    """
    others = [run for run in runs if run.config.method != SOURCE_ONLY]
    for run in others:
        if not isinstance(run.config.options, CalibratorConfig):
            raise ValueError(
                f"RUN {run.folder.path} is a run of {run.config.method}, which has no epsilon; give runs of calibrator"
            )
    if not others:
        raise ValueError("RUN: expected runs of calibrator, got those of source-only alone")
    kinds, tasks = kinds_of(others, without=("calibrator.epsilon",)), tasks_of(runs)
    lines: dict[tuple[str, str], list[FoundRun]] = {}
    for run in others:
        lines.setdefault((tasks[run.name], kinds[run.name].key), []).append(run)
    return [_line(task, kinds[same[0].name].label, same, runs, rule) for (task, _), same in lines.items()]


def _line(
    task: str, label: str, same: Sequence[FoundRun], runs: Sequence[FoundRun], rule: CheckpointName
) -> EpsilonLine:
    points: dict[float, dict[int, Point]] = {}
    starts: dict[int, list[Point]] = {}
    for run in same:
        point = chosen_sides(run, rule)
        by_seed = points.setdefault(run.config.options.epsilon, {})
        if run.seed in by_seed:
            raise ValueError(f"RUN {run.folder.path} is of the configuration and seed of another; give one of them")
        by_seed[run.seed] = point
        start = before(run, runs, rule)
        # The untrained network is no classifier without calibrator.
        if start is not None and start.what != STEP_0 and (began := both_sides(start.row)) is not None:
            starts.setdefault(run.seed, []).append(began)
    # Runs of a seed learnt the same classifier, so that this is the mean of equals.
    without = {seed: _mean(began) for seed, began in starts.items()}
    return EpsilonLine(task, label, dict(sorted(points.items())), without)


def _mean(points: Sequence[Point]) -> Point:
    sources, targets = zip(*points, strict=True)
    return fmean(sources), fmean(targets)


def sweep(run: LoadedRun) -> EpsilonLine:
    """Accuracy of a trained calibrator whose perturbation is clamped to smaller bounds: 0, which is the classifier
    alone, and ten equal parts of its own.

    Raises:
        ValueError: The run is none of calibrator, or has none yet, or there are no test images of its target.
        DataError: Data missing.
    """
    epsilon = calibrating(run).calibrator.epsilon
    bounds = [epsilon * part / PARTS for part in range(PARTS + 1)]
    protocol, held_out = run.domains()
    if protocol.target.test is None:
        raise ValueError(f"RUN {run.folder.path}: there are no test images of its target {protocol.target.name}")
    tested = [domain.test for domain in protocol.sources if domain.test is not None] or list(held_out)
    of_source = torch.stack([accuracy_by_bound(run, split, bounds) for split in tested]).mean(dim=0)
    of_target = accuracy_by_bound(run, protocol.target.test, bounds)
    seed = run.config.run.seed
    points = {
        bound: {seed: (source, target)}
        for bound, source, target in zip(bounds, of_source.tolist(), of_target.tolist(), strict=True)
    }
    return EpsilonLine(run.config.run.task, f"trained with epsilon {epsilon:g}", points, points[0.0])


@torch.no_grad()
def accuracy_by_bound(run: LoadedRun, split: Split, bounds: Sequence[float]) -> Tensor:
    """Accuracy in per cent, float64 (len(bounds),), on `split` with what the calibrator adds clamped to each of
    `bounds`, in units of the range from black to white.

    What is clamped is the difference that is left of the perturbation within that range: for an image in it, the order
    of the two clamps does not matter.

    Raises:
        ValueError: The run is none of calibrator, or has none yet.
    """
    method = calibrating(run)
    span = method.calibrated.span
    right = torch.zeros(len(bounds), dtype=torch.float64)
    chunks = evaluation_batches(
        split,
        batch_size=run.scoring.chunk,
        device=run.scoring.device,
        normalisation=run.scoring.network_input.normalisation,
    )
    for images, labels in chunks:
        with run.scoring.autocast():
            added = method.calibrate(images) - images
            for place, bound in enumerate(bounds):
                clamped = torch.minimum(torch.maximum(added, -bound * span), bound * span)
                scores = method.scores(method.features(images + clamped)).float()
                right[place] += int((scores.argmax(dim=1) == labels).sum())
    return 100 * right / len(split)


def epsilon_table(found: Sequence[EpsilonLine]) -> Table:
    """A line for each bound: source and target accuracy, mean ± standard deviation over seeds."""
    table = Table(
        title="Test accuracy over the bound of the perturbation",
        caption="in %, mean ± sample standard deviation over seeds; 0 is the classifier without calibrator",
    )
    for head in ("task", "run"):
        table.add_column(head, overflow="fold")
    for head in ("bound", "n", "source", "target"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in found:
        for bound, points in _with_zero(line).items():
            cells = (line.spread(points, side).text() for side in (0, 1))
            table.add_row(line.task, line.label, f"{bound:g}", str(len(points)), *cells)
        table.add_section()
    return table


def epsilon_csv(found: Sequence[EpsilonLine]) -> str:
    """The same as CSV: a line for each accuracy in per cent; `std` is the sample standard deviation over `n` seeds."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "run", "epsilon", "domain", "mean", "std", "n", "seeds"))
    for line in found:
        for bound, points in _with_zero(line).items():
            for side, domain in enumerate(("source", "target")):
                spread = line.spread(points, side)
                deviation = _deviation(spread)
                cells = (f"{spread.mean:.3f}", "" if deviation is None else f"{deviation:.3f}", len(points))
                seeds = " ".join(map(str, points))
                table.writerow((line.task, line.label, f"{bound:g}", domain, *cells, seeds))
    return text.getvalue()


def _with_zero(line: EpsilonLine) -> dict[float, Mapping[int, Point]]:
    zero = {0.0: line.without} if line.without else {}
    return {**zero, **line.points}


def _deviation(spread: Spread) -> float | None:
    values = list(spread.values.values())
    return stdev(values) if len(values) > 1 else None


def save_epsilon_figure(paths: Sequence[Path], out: Path, rule: CheckpointName) -> list[EpsilonLine]:
    """Draw the accuracies of finished runs over epsilon, and write them beside the figure as CSV.

    Args:
        paths: Run folders, or folders that hold some.
        out: Image file to write; its suffix chooses the format.
        rule: Which of a run's models counts.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `epsilon_lines`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    found = epsilon_lines(readable_runs(paths, "RUN"), rule)
    _save(found, out, TRAINED)
    return found


def save_sweep_figure(
    path: Path,
    out: Path,
    checkpoint: CheckpointName,
    *,
    device: Literal["auto", "cpu", "cuda"],
    data_root: Path | None,
) -> list[EpsilonLine]:
    """Draw `sweep` of a run, and write the numbers beside the figure as CSV.

    Args:
        path: The run folder.
        out: Image file to write; its suffix chooses the format.
        checkpoint, device, data_root: As `load_run`.

    Returns:
        What was drawn, a single line.

    Raises:
        ValueError, DataError: As `load_run` and `sweep`; a file that cannot be written.
    """
    found = [sweep(load_run(path, checkpoint=checkpoint, device=device, data_root=data_root))]
    _save(found, out, CLAMPED)
    return found


def _save(found: Sequence[EpsilonLine], out: Path, axis_label: str) -> None:
    labels = list(dict.fromkeys(line.label for line in found))
    panels = [
        Panel(
            task,
            tuple(
                _curve(line, side, labels.index(line.label), len(labels) > 1)
                for line in found
                if line.task == task
                for side in (1, 0)
            ),
        )
        for task in dict.fromkeys(line.task for line in found)
    ]
    several = any(len(points) > 1 for line in found for points in line.points.values())
    save_epsilon(panels, out, axis_label=axis_label, note="whiskers: standard deviation over seeds" if several else "")
    write_beside(out, epsilon_csv(found))


def _curve(line: EpsilonLine, side: int, place: int, named: bool) -> Curve:
    spreads = [line.spread(points, side) for points in line.points.values()]
    domain = ("source", "target")[side]
    return Curve(
        f"{domain}, {line.label}" if named else domain,
        place,
        side == 0,
        tuple(line.points),
        tuple(spread.mean for spread in spreads),
        tuple(_deviation(spread) for spread in spreads),
        line.spread(line.without, side).mean if line.without else None,
    )

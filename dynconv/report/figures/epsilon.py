"""Accuracy over epsilon, the bound of a calibrator's perturbation (Calibrator, section 5.2 and appendix)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from dynconv.engine.run_options import CheckpointName
from dynconv.methods.calibrator import CalibratorConfig
from dynconv.plots.epsilon import Curve, Panel, save_epsilon
from dynconv.report.before import SOURCE_ONLY, STEP_0, before
from dynconv.report.collect import FoundRun
from dynconv.report.figures.calibrated import CalibratedRun, Part
from dynconv.report.figures.training import write_beside
from dynconv.report.groups import kinds_of, runs_to_group, tasks_of
from dynconv.report.spread import Point, both_sides, chosen_sides, mean_point, side_of
from dynconv.report.words import metrics_of

# Bounds of --sweep: none, and so many equal parts of the run's own.
PARTS = 10
TRAINED = "epsilon: bound of the perturbation, of the range from black to white"
CLAMPED = "bound that the trained perturbation is clamped to, of the range from black to white"


@dataclass(frozen=True)
class EpsilonLine:
    """Runs of one kind on one task. Points are (source, target) test figures in per cent, by seed."""

    task: str
    label: str
    points: Mapping[float, Mapping[int, Point]]
    """By bound, ascending."""
    without: Mapping[int, Point]
    """The classifier without calibrator; empty where it is not known."""
    metric: str = "accuracy"
    """What the points are: "accuracy", or "mean-iou" where every pixel has a class."""


def epsilon_lines(runs: Sequence[FoundRun], rule: CheckpointName) -> list[EpsilonLine]:
    """Finished runs of calibrator by task and kind; those that differ in epsilon and seed alone are one line.

    Args:
        runs: Run folders as they were read; runs of source-only among them stand for the classifier alone where a run
            does not tell it itself.
        rule: Which of a run's models counts.

    Raises:
        ValueError: A run of another method, one that is not finished, was given twice or lacks a figure, or none.
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
    without = {seed: mean_point(began) for seed, began in starts.items()}
    return EpsilonLine(task, label, dict(sorted(points.items())), without, same[0].metric)


def sweep(run: CalibratedRun) -> EpsilonLine:
    """Accuracy of a trained calibrator whose perturbation is clamped to smaller bounds: 0, which is the classifier
    alone, and ten equal parts of its own.

    Raises:
        ValueError: As `CalibratedRun.parts`.
        NonFiniteError: A calibrated image or a score is not finite.
    """
    epsilon = run.method.calibrator.epsilon
    bounds = [epsilon * part / PARTS for part in range(PARTS + 1)]
    found: dict[str, list[Tensor]] = {}
    for part in run.parts():
        found.setdefault(part.side, []).append(accuracy_by_bound(run, part, bounds))
    sources, targets = (torch.stack(found[side]).mean(dim=0).tolist() for side in ("source", "target"))
    config = run.loaded.config.run
    points = {
        bound: {config.seed: (source, target)} for bound, source, target in zip(bounds, sources, targets, strict=True)
    }
    return EpsilonLine(config.task, f"trained with epsilon {epsilon:g}", points, points[0.0])


@torch.no_grad()
def accuracy_by_bound(run: CalibratedRun, part: Part, bounds: Sequence[float]) -> Tensor:
    """Accuracy in per cent, float64 (len(bounds),), on `part` with what the calibrator adds clamped to each of
    `bounds`, in units of the range from black to white.

    What is clamped is the difference that is left of the perturbation within that range: for an image in it, the order
    of the two clamps does not matter.

    Raises:
        NonFiniteError: A calibrated image or a score is not finite.
    """
    right = torch.zeros(len(bounds), dtype=torch.float64)
    for images, labels in run.batches(part):
        added = run.calibrate(images) - images
        for place, bound in enumerate(bounds):
            scores = run.classify(images + added.clamp(-bound, bound), part.side)
            right[place] += int((scores.argmax(dim=1) == labels).sum())
    return 100 * right / len(part.split)


def epsilon_table(found: Sequence[EpsilonLine]) -> Table:
    """A line for each bound: source and target figures, mean ± standard deviation over seeds."""
    table = Table(
        title=f"Test {_metrics(found)} over the bound of the perturbation",
        caption="in %, mean ± sample standard deviation over seeds; 0 is the classifier without calibrator",
    )
    for head in ("task", "run"):
        table.add_column(head, overflow="fold")
    for head in ("bound", "n", "source", "target"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in found:
        for bound, points in _with_zero(line).items():
            cells = (side_of(points, side).text() for side in (0, 1))
            table.add_row(line.task, line.label, f"{bound:g}", str(len(points)), *cells)
        table.add_section()
    return table


def epsilon_csv(found: Sequence[EpsilonLine]) -> str:
    """The same as CSV: a line for each figure in per cent; `std` is the sample standard deviation over `n` seeds."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "run", "epsilon", "domain", "mean", "std", "n", "seeds"))
    for line in found:
        for bound, points in _with_zero(line).items():
            for side, domain in enumerate(("source", "target")):
                table.writerow((line.task, line.label, f"{bound:g}", domain, *side_of(points, side).cells()))
    return text.getvalue()


def _metrics(found: Sequence[EpsilonLine]) -> str:
    return metrics_of(line.metric for line in found)


def _with_zero(line: EpsilonLine) -> dict[float, Mapping[int, Point]]:
    zero = {0.0: line.without} if line.without else {}
    return {**zero, **line.points}


def save_epsilon_figure(
    paths: Sequence[Path], out: Path, rule: CheckpointName, *, line: Callable[[str], None]
) -> list[EpsilonLine]:
    """Draw what finished runs are judged by over epsilon, and write them beside the figure as CSV.

    Args:
        paths: Run folders, or folders that hold some.
        out: Image file to write; its suffix chooses the format.
        rule: Which of a run's models counts.
        line: Where a warning goes.

    Returns:
        What was drawn.

    Raises:
        ValueError: As `epsilon_lines`; a folder without runs; a run that cannot be read; a file that cannot be written.
    """
    found = epsilon_lines(runs_to_group(paths, "RUN", line), rule)
    _save(found, out, TRAINED)
    return found


def save_sweep_figure(run: CalibratedRun, out: Path) -> list[EpsilonLine]:
    """Draw `sweep` of a run, and write the numbers beside the figure as CSV.

    Args:
        run: The run.
        out: Image file to write; its suffix chooses the format.

    Returns:
        What was drawn, a single line.

    Raises:
        ValueError: As `sweep`; a file that cannot be written.
    """
    found = [sweep(run)]
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
            _metrics([line for line in found if line.task == task]),
        )
        for task in dict.fromkeys(line.task for line in found)
    ]
    several = any(len(points) > 1 for line in found for points in line.points.values())
    save_epsilon(panels, out, axis_label=axis_label, note="whiskers: standard deviation over seeds" if several else "")
    write_beside(out, epsilon_csv(found))


def _curve(line: EpsilonLine, side: int, place: int, named: bool) -> Curve:
    spreads = [side_of(points, side) for points in line.points.values()]
    domain = ("source", "target")[side]
    return Curve(
        f"{domain}, {line.label}" if named else domain,
        place,
        side == 0,
        tuple(line.points),
        tuple(spread.mean for spread in spreads),
        tuple(spread.deviation for spread in spreads),
        side_of(line.without, side).mean if line.without else None,
    )

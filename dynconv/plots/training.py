"""What happened in a training, over its steps: losses, gradients, discriminators, selection and accuracies."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

Row = Mapping[str, Any]
Points = list[tuple[int, float]]

LEVEL = re.compile(r"^(?P<family>.+?)[/-]level-(?P<level>\d+)$")
OF_CLASS = re.compile(r"^target-test/(?P<domain>[^/]+)/(?:accuracy|iou)-of-(?P<label>.+)$")
# With more classes than this (Office-Home has 65) the map of the classes has no names.
MOST_NAMES = 70
# Positive curves that differ by more than this are drawn on a logarithmic axis.
WIDE = 30.0
# Inches: width and height of a panel, and the height of a named class in the map.
PANEL = (5.6, 3.1)
NAME = 0.15
TITLES = {
    "gradient": ("Gradient magnitude of each level", "sum of ||dL/df|| per sample"),
    "synchronisation": ("Differences between the levels' gradients", "|difference| per sample, mean over groups"),
    "loss": ("Losses and weights", "mean since the last row"),
    "discriminator/accuracy": ("Accuracy of the discriminators", "source or target told apart, %"),
    "selected": ("Target images chosen by their pseudo label", "% of the target"),
}
SHARES = ("discriminator/accuracy", "selected")
# What evaluations are judged by.
JUDGED = {"accuracy": "accuracy", "mean-iou": "mean IoU"}
SPLITS = {
    "target-test": "target-test (labels used only to look)",
    "source-test": "source-test",
    "source-val": "source-val (held out)",
}


@dataclass
class _Panel:
    title: str
    unit: str
    curves: dict[str, Points]
    is_share: bool = False
    """In per cent of a whole, and drawn from 0 to 100."""
    chance: float | None = None


def save_training(
    training_rows: Sequence[Row], result_rows: Sequence[Row], path: Path | str, *, title: str = ""
) -> None:
    """Draw one run: a panel for each kind of thing it logged, in a grid of two columns.

    Gradient magnitude of each level and the differences between levels (the quantity that GSDA synchronises, eq. 12),
    losses, accuracy of the discriminators, share of selected target images, accuracy per split (of segmentation mean
    IoU), and a map of the target's class-wise accuracy or IoU over the evaluations. What the run did not log has no
    panel.

    Args:
        training_rows: Rows of training.jsonl: `step`, and scalars by name.
        result_rows: Rows of results.jsonl: `step`, and metrics as SPLIT/DOMAIN/METRIC.
        path: Image file to write (its suffix chooses the format); its folder is made if absent.
        title: Above the figure.

    Raises:
        ValueError: There is nothing to draw.
    """
    save_trainings({title: (training_rows, result_rows)}, path)


def save_trainings(runs: Mapping[str, tuple[Sequence[Row], Sequence[Row]]], path: Path | str) -> None:
    """Draw several runs beside each other: a column each, with one scale along a row.

    Args:
        runs: Name to (training rows, result rows), as in `save_training`; a single run fills a grid of two columns.
        path: Image file to write.

    Raises:
        ValueError: There is nothing to draw.
    """
    from matplotlib.figure import Figure

    panels = {name: _panels(*rows) for name, rows in runs.items()}
    maps = {name: _class_map(results) for name, (_, results) in runs.items()}
    classes = _class_order(maps.values())
    kinds = _kinds(panels.values())
    if not kinds:
        raise ValueError("rows: there is nothing to draw yet; expected rows of training.jsonl or results.jsonl")
    single = len(runs) == 1
    columns = min(2, len(kinds)) if single else len(runs)
    heights = [PANEL[1]] * (math.ceil(len(kinds) / columns) if single else len(kinds))
    if classes:
        heights.append(max(PANEL[1], 0.8 + NAME * len(classes)) if len(classes) <= MOST_NAMES else 2 * PANEL[1])
    figure = Figure(figsize=(PANEL[0] * columns, sum(heights) + 0.3), dpi=120, layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for place, kind in enumerate(kinds):
        present = [(column, name) for column, name in enumerate(runs) if kind in panels[name]]
        logarithmic = _is_wide([panels[name][kind] for _, name in present])
        first = None
        for column, name in present:
            cell = grid[place // columns, place % columns] if single else grid[place, column]
            axis = figure.add_subplot(cell, sharey=first)
            first = first or axis
            _draw(axis, panels[name][kind], logarithmic)
            if not single:
                axis.set_title(f"{name}\n{panels[name][kind].title}", fontsize=9)
    for column, name in enumerate(runs):
        if maps[name]:
            axis = figure.add_subplot(grid[-1, :] if single else grid[-1, column])
            words = "IoU" if "mean-iou" in panels[name] else "accuracy"
            _draw_classes(figure, axis, maps[name], classes, "" if single else f"{name}\n", words)
    if single:
        figure.suptitle(next(iter(runs)), fontsize=11)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    figure.savefig(temporary)
    os.replace(temporary, path)


def _kinds(runs: Iterable[Mapping[str, _Panel]]) -> list[str]:
    """The kinds of panels that any run has: the known ones in their order, the others, those of the evaluations."""
    found = list(dict.fromkeys(kind for panels in runs for kind in panels))
    known = [kind for kind in TITLES if kind in found]
    others = [kind for kind in found if kind not in TITLES and kind not in JUDGED]
    return known + others + [kind for kind in JUDGED if kind in found]


def _panels(training: Sequence[Row], results: Sequence[Row]) -> dict[str, _Panel]:
    """The panels of one run by their kind."""
    series: dict[str, dict[str, Points]] = {}
    for name, points in _series(training).items():
        level = LEVEL.match(name)
        kind, _, curve = name.rpartition("/")
        if level is not None:
            kind, curve = level["family"], level["level"]
        elif not kind:
            kind = "loss"
        series.setdefault(kind, {})[curve] = points
    # The sum of a step's losses says nothing that its parts do not say.
    if len(losses := series.get("loss", {})) > 1:
        losses.pop("loss", None)
    depth = 1 + max((int(level) for level in series.get("gradient", {})), default=0)
    panels = {}
    # What a run was given at its start is no curve.
    series.pop("pseudo-labels", None)
    for kind, curves in series.items():
        title, unit = TITLES.get(kind, (kind, ""))
        share = kind in SHARES
        if kind == "selected":
            curves = {"share": curves.get("share", [])}
        # Levels in their order, whatever the order in which a method logs them.
        names = sorted(curves) if all(curve.isdigit() for curve in curves) else list(curves)
        scaled = {
            _level_name(kind, curve, depth): [(step, 100 * value if share else value) for step, value in curves[curve]]
            for curve in names
        }
        if any(scaled.values()):
            panels[kind] = _Panel(title, unit, scaled, share, 50.0 if kind == "discriminator/accuracy" else None)
    for metric, words in JUDGED.items():
        judged = {label: points for split, label in SPLITS.items() if (points := _mean(results, split, metric))}
        if judged:
            title = f"{words[0].upper()}{words[1:]}, mean over the domains of a split"
            panels[metric] = _Panel(title, f"{words}, %", judged, True)
    return panels


def _level_name(kind: str, curve: str, depth: int) -> str:
    """What a level is called: the first is the domain's, the last the classes', those between are groups."""
    if not curve.isdigit():
        return curve

    def name(level: int) -> str:
        if level == 0:
            return "domain"
        if level == depth - 1:
            return "classes"
        return "groups" if depth == 3 else f"groups, level {level}"

    level = int(curve)
    return f"{name(level)} - {name(level + 1)}" if kind == "synchronisation" else name(level)


def _series(rows: Sequence[Row]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "epoch", "seconds"):
                found.setdefault(name, []).append((row["step"], value))
    return found


def _mean(rows: Sequence[Row], split: str, metric: str) -> Points:
    points = []
    for row in rows:
        values = [value for name, value in row.items() if name.startswith(f"{split}/") and name.endswith(f"/{metric}")]
        if values:
            points.append((row["step"], 100 * sum(values) / len(values)))
    return points


def _class_map(rows: Sequence[Row]) -> dict[str, Points]:
    """Class to its accuracies or IoUs in per cent."""
    found: dict[str, Points] = {}
    for row in rows:
        for name, value in row.items():
            if match := OF_CLASS.match(name):
                found.setdefault(match["label"], []).append((row["step"], 100 * value))
    return found


def _class_order(maps: Iterable[Mapping[str, Points]]) -> list[str]:
    """Every class of any run; the best at the end, by the mean over the runs, first."""
    last: dict[str, list[float]] = {}
    for classes in maps:
        for label, points in classes.items():
            last.setdefault(label, []).append(points[-1][1])
    return sorted(last, key=lambda label: (-fmean(last[label]), label))


def _is_wide(panels: Sequence[_Panel]) -> bool:
    """Whether the values ask for a logarithmic axis: all positive, and far apart."""
    values = [value for panel in panels for points in panel.curves.values() for _, value in points]
    return not panels[0].is_share and min(values) > 0 and max(values) > WIDE * min(values)


def _draw(axis: Any, panel: _Panel, logarithmic: bool) -> None:
    for label, points in panel.curves.items():
        steps, values = zip(*points, strict=True)
        # A curve of few points (one for each evaluation or epoch) is read by its points.
        axis.plot(steps, values, label=label, linewidth=1.3, marker="o" if len(points) <= 20 else None, markersize=3)
    if panel.is_share:
        axis.set_ylim(0, 102)
    elif logarithmic:
        axis.set_yscale("log")
    if panel.chance is not None:
        axis.axhline(panel.chance, color="0.5", linestyle=":", linewidth=1, label="chance")
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel(panel.unit, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    if list(panel.curves) != ["share"]:
        axis.legend(fontsize=7, ncols=1 + (len(panel.curves) > 6), framealpha=0.7)


def _draw_classes(
    figure: Any, axis: Any, classes: Mapping[str, Points], order: Sequence[str], name: str, words: str
) -> None:
    steps = sorted({step for points in classes.values() for step, _ in points})
    # A class without a pixel has an IoU in those evaluations alone that predict it.
    of_steps = [dict(classes.get(label, [])) for label in order]
    values = [[found.get(step, math.nan) for step in steps] for found in of_steps]
    image = axis.imshow(values, aspect="auto", vmin=0, vmax=100, cmap="viridis", interpolation="nearest")
    bar = figure.colorbar(image, ax=axis, pad=0.01)
    bar.set_label(f"{words}, %", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    title = f"{words[0].upper()}{words[1:]} per target class (labels used only to look)"
    axis.set_title(f"{name}{title}", fontsize=9 if name else 10)
    shown = range(0, len(steps), math.ceil(len(steps) / 10))
    axis.set_xticks(list(shown), [str(steps[index]) for index in shown], fontsize=8)
    axis.set_xlabel("step of the evaluation", fontsize=9)
    if len(order) <= MOST_NAMES:
        axis.set_yticks(range(len(order)), list(order), fontsize=7)
    else:
        axis.set_yticks([])
        axis.set_ylabel(f"{len(order)} classes, the best at the end first", fontsize=9)

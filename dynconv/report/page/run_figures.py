"""The figures of one run, each drawn where it is not there yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from statistics import fmean

from dynconv.engine.selection import Row
from dynconv.plots.class_iou import ClassIoUs, class_iou_figure
from dynconv.plots.confusion import save_confusion
from dynconv.plots.embedding import save_embedding
from dynconv.plots.palette import colours, made_from, save_png, write_small
from dynconv.plots.predictions import save_predictions
from dynconv.plots.training import save_training
from dynconv.report.before import Before
from dynconv.report.collect import FoundRun
from dynconv.report.figures.scenes import SceneViews
from dynconv.report.groups import Grouping
from dynconv.report.page.analysis import Analysis
from dynconv.report.page.document import Block, Figure, Missing
from dynconv.report.spread import class_ious, class_order, per_cent

# Rises with every change of how a figure is drawn: those of earlier versions are drawn anew.
VERSION = 4
# In points. The run's own evaluation may have seen other images, or been computed by another machine.
SAME_ACCURACY = 0.1


def curves(run: FoundRun, path: Path) -> Block:
    """What a run logged over its steps."""
    title = "Learning curves"

    def draw() -> None:
        with colours():
            save_training(run.training_rows, run.rows, path, title=run.name)

    try:
        _once(path, json.dumps([run.name, run.training_rows, run.rows]).encode(), draw)
    except ValueError as error:
        return Missing(title, str(error))
    judged = "accuracies" if run.metric == "accuracy" else "IoUs"
    return Figure(title, f"Losses and {judged} of {run.name} over its steps", path)


def checkpoint_figures(run: FoundRun, found: Analysis, figures: Path, *, rule: str, slug: str) -> list[Block]:
    """What a checkpoint makes of the target and of both domains.

    Args:
        run: The run.
        found: The analysis of the checkpoint.
        figures: Folder for the files, which begin with `slug`.
        rule: Which checkpoint.
    """
    target = found.domains[-1]
    at = f"of {run.name} at step {found.step} ({rule})"
    confusion, embedding, samples = (figures / f"{slug}-{name}.png" for name in ("confusion", "tsne", "samples"))
    numbers = b"".join(_bytes(getattr(found, field.name)) for field in fields(Analysis))

    def draw_confusion() -> None:
        right = f"{target}, test: {100 * found.accuracy:.1f} % right"
        save_confusion(found.confusion, found.classes, confusion, title=right)

    def draw_embedding() -> None:
        parts = (found.points, found.point_domains, found.point_labels)
        save_embedding(*parts, domain_names=found.domains, classes=found.classes, path=embedding)

    def draw_samples() -> None:
        parts = (found.samples, found.sample_labels, found.sample_predictions, found.sample_confidences)
        save_predictions(*parts, classes=found.classes, drawn=found.random_samples, path=samples)

    _once(embedding, numbers, draw_embedding)
    if not found.labelled:
        counted = f"{len(found.points)} images of {', '.join(found.domains)}."
        unknown = f"the images of {target} have no labels"
        return [
            Missing("Confusion matrix", unknown),
            Figure("t-SNE of the features", f"t-SNE of features {at}, by domain and by class", embedding, counted),
            Missing("Samples with predictions", unknown),
        ]
    _once(confusion, numbers, draw_confusion)
    _once(samples, numbers, draw_samples)
    wrong = int((found.sample_labels != found.sample_predictions)[: found.random_samples].sum())
    counted = f"{len(found.points)} test images of {', '.join(found.domains)}."
    drawn = f"Test images of {target} with the predictions {at}; of those drawn at random {wrong} are wrong"
    key = "Prediction and confidence; a cross marks a wrong one, its class stands below."
    return [
        Figure("Confusion matrix", f"Confusion matrix {at} on {target}", confusion, _agreement(run, found, rule)),
        Figure("t-SNE of the features", f"t-SNE of features {at}, by domain and by class", embedding, counted),
        Figure("Samples with predictions", drawn, samples, key),
    ]


def scene_figure(run: FoundRun, found: SceneViews, path: Path, *, rule: str) -> Figure:
    """Target scenes with what a checkpoint makes of them.

    Args:
        run: The run.
        found: The scenes.
        path: PNG to write.
        rule: Which checkpoint.
    """
    what = f"Test scenes of {found.domain} and the label maps of {run.name} at step {found.step} ({rule})"
    numbers = b"".join(_bytes(getattr(found, field.name)) for field in fields(SceneViews))
    _once(path, numbers, lambda: save_png(found.figure(f"{found.domain}, test"), path))
    return Figure("Scenes", what, path, "Columns: the image, " + ", ".join(found.heads) + "; black is no class.")


def class_iou_bars(run: FoundRun, start: Before | None, path: Path, *, rule: str) -> Block:
    """IoU of each target class before adaptation and after, from the run's evaluations.

    Args:
        run: The run.
        start: What stands for "before adaptation".
        path: PNG to write.
        rule: Which evaluation is "after".
    """
    title = "IoU of each class"
    rows = {} if start is None else {f"before ({start.described})": start.row}
    rows |= {f"after ({rule})": row for row in (run.chosen(rule),) if row is not None}
    bars = {name: found for name, row in rows.items() if (found := _ious(row)) is not None}
    if not bars:
        return Missing(title, "no evaluation that counts has IoUs of the target's classes")
    classes = class_order([*rows.values(), *run.rows])
    numbers = json.dumps([run.name, bars, classes]).encode()
    _once(path, numbers, lambda: save_png(class_iou_figure(bars, classes, title=f"{run.name}, target test"), path))
    return Figure(title, f"IoU in % of each target class, {' and '.join(bars)}, of {run.name}", path)


def class_iou_figures(grouping: Grouping, rule: str, figures: Path) -> Iterator[Figure]:
    """IoU of each target class of all groups, the mean over the seeds that have it: a figure for each task that has
    runs of segmentation."""
    for number, task in enumerate(grouping.tasks):
        bars: dict[str, ClassIoUs] = {}
        rows: list[Row] = []
        for group in grouping.groups:
            runs = group.runs.get(task, {}).values()
            chosen = [row for run in runs if (row := run.chosen(rule)) is not None]
            rows += [*chosen, *(row for run in runs for row in run.rows)]
            if found := [ious for row in chosen if (ious := _ious(row)) is not None]:
                labels = dict.fromkeys(label for ious in found for label in ious.of_class)
                of_class = {
                    label: fmean(ious.of_class[label] for ious in found if label in ious.of_class) for label in labels
                }
                bars[group.label] = ClassIoUs(fmean(ious.mean for ious in found), of_class)
        if bars:
            path = figures / f"class-iou-{number}.png"
            save_png(class_iou_figure(bars, class_order(rows), title=f"{task}, target test"), path)
            what = f"IoU in % of each target class on {task}, {', '.join(bars)}"
            yield Figure(f"IoU of each class: {task}", what, path, "Mean over the seeds.")


def _ious(row: Row | None) -> ClassIoUs | None:
    """What an evaluation says of the target's test images; None where that is nothing."""
    mean = per_cent(row, "target-test")
    if row is None or mean is None or not (of_class := class_ious(row)):
        return None
    return ClassIoUs(mean, of_class)


def _once(path: Path, numbers: bytes, draw: Callable[[], None]) -> None:
    """Draw a figure, unless the file was drawn from the same numbers in the same way."""
    key = f"{VERSION}-{hashlib.sha256(numbers).hexdigest()}"
    if made_from(path) != key:
        draw()
        write_small(path, path, made_from=key)


def _bytes(value: object) -> bytes:
    return value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()


def _agreement(run: FoundRun, found: Analysis, rule: str) -> str:
    """A warning where the network does not get the accuracy that the run recorded."""
    recorded = per_cent(run.chosen(rule), "target-test")
    if recorded is None or abs(100 * found.accuracy - recorded) <= SAME_ACCURACY:
        return ""
    return (
        f"The run recorded {recorded:.1f} % and {100 * found.accuracy:.1f} % were measured now: the data, the versions "
        "or the machine differ."
    )

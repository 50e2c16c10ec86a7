"""The figure, the tables and the CSV file of a calibrator's perturbation beside others."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group as Renderables
from rich.table import Table

from dynconv.plots.perturbation import Curve, Own, PerturbationPanel, save_perturbation
from dynconv.report.figures.calibrated import CalibratedRun
from dynconv.report.figures.perturbation import (
    CALIBRATOR,
    KINDS,
    NONE,
    SIGNED,
    Effect,
    PartEffects,
    measure_perturbations,
)
from dynconv.report.figures.training import write_beside
from dynconv.report.table import counted, percent

CAPTION = (
    "sizes over the images, of the range from black to white: L∞ the largest change of a value, L2 over all values. "
    "Each kind has on each image the calibrator's L∞, before the clamp to [0, 1], and goes into the classifier alone. "
    "FGSM raises the loss of its own prediction, descending it lowers that; an oracle takes the true label"
)


def save_perturbation_figure(
    run: CalibratedRun, out: Path, *, images: int, bounds: Sequence[float]
) -> tuple[list[PartEffects], list[Path]]:
    """Draw a run's accuracies against the size of perturbations, and write the numbers beside it.

    Args:
        run: The run.
        out: Image file to write; the numbers are beside it, with the suffix .csv.
        images: Test images of each domain, at most.
        bounds: L-infinity sizes of the curves, in (0, 1], ascending.

    Returns:
        What was measured of each domain, the sources first, and both files.

    Raises:
        ValueError: As `CalibratedRun.parts`; a file that cannot be written.
    """
    found = [measure_perturbations(run, part, bounds) for part in run.parts(images)]
    save_perturbation([_panel(one) for one in found], out, title=run.title())
    return found, [out, write_beside(out, perturbation_csv(found))]


def perturbation_tables(found: Sequence[PartEffects]) -> Renderables:
    """A table for each domain: size and accuracy of each kind, as large as the calibrator's on each image."""
    tables = []
    for one in found:
        title = f"{one.part.name} ({one.part.side}), {counted(len(one.part.split), 'test image')}"
        table = Table(title=title, caption=CAPTION if one is found[-1] else None)
        table.add_column("perturbation", no_wrap=True)
        for head in ("L∞ mean", "L∞ max", "L2 mean", "L2 max", "accuracy, %"):
            table.add_column(head, justify="right")
        for effect in one.equal:
            norms = (f"{value:.3f}" for value in _norms(effect))
            table.add_row(KINDS[effect.kind].label, *norms, percent(effect.accuracy))
        tables.append(table)
    return Renderables(*tables)


def perturbation_csv(found: Sequence[PartEffects]) -> str:
    """A line for each kind and size on each domain; `bound` is what a perturbation was given as its L-infinity."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            *("domain", "side", "images", "perturbation", "looks_at_labels", "bound"),
            *("linf_mean", "linf_max", "l2_mean", "l2_max", "accuracy"),
        ]
    )
    for one in found:
        for effect in (*one.equal, *one.by_size):
            domain = [one.part.name, one.part.side, len(one.part.split)]
            bound = _bound(effect)
            norms = [f"{value:.6f}" for value in _norms(effect)]
            table.writerow(
                [*domain, effect.kind, "yes" if KINDS[effect.kind].oracle else "no", bound, *norms]
                + [f"{effect.accuracy:.6f}"]
            )
    return text.getvalue()


def _bound(effect: Effect) -> str:
    if effect.bound is not None:
        return f"{effect.bound:g}"
    return {NONE: "0", CALIBRATOR: "its own"}.get(effect.kind, "the calibrator's on each image")


def _norms(effect: Effect) -> tuple[float, ...]:
    """Mean and maximum of L-infinity, and of L2."""
    return tuple(value for norm in effect.found for value in (norm.mean().item(), norm.max().item()))


def _panel(one: PartEffects) -> PerturbationPanel:
    equal = {effect.kind: effect for effect in one.equal}
    own = equal[CALIBRATOR]
    largest = own.found.largest
    curves = []
    for kind in SIGNED:
        effects = [effect for effect in one.by_size if effect.kind == kind]
        given = tuple(effect.bound for effect in effects if effect.bound is not None)
        label = f"{KINDS[kind].label}: {KINDS[kind].what}"
        curves.append(Curve(label, given, tuple(effect.accuracy for effect in effects), KINDS[kind].oracle))
    return PerturbationPanel(
        f"{one.part.name} ({one.part.side}), {counted(len(one.part.split), 'test image')}",
        equal[NONE].accuracy,
        Own(largest.mean().item(), largest.min().item(), largest.max().item(), own.accuracy),
        tuple(curves),
    )

"""Which evaluation of a run counts: four rules, side by side and named."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from dynconv.metrics import LOWER_IS_BETTER, VALIDATORS, ValidatorName
from dynconv.metrics.names import ACCURACY_OF, MEAN_IOU, judged_by

Row = dict[str, Any]

VALIDATOR: ValidatorName = "information-maximisation"
CLASS_MEAN = "class-mean-accuracy"
# The rules, but "last", whose choice is known during the run and whose weights are kept: none sees a target label.
KEPT = ("source-val", "label-free")


def main_metric(row: Row) -> str:
    """What counts in the evaluations of a run: "accuracy", or "mean-iou" where every pixel has a class."""
    return judged_by("pixel" if any(name.endswith(f"/{MEAN_IOU}") for name in row) else "image")


def mean_of(row: Row, split: str, metric: str | None = None) -> float | None:
    """Mean of `SPLIT/*/METRIC`, by default of the `main_metric`, over the domains of a row; None where it has none."""
    metric = metric or main_metric(row)
    values = [value for name, value in row.items() if name.startswith(f"{split}/") and name.endswith(f"/{metric}")]
    return fmean(values) if values else None


def of_class(where: str, label: str) -> str:
    """Name of the accuracy on the images of the class `label` of `where`, SPLIT/DOMAIN."""
    return f"{where}{ACCURACY_OF}{label}"


def merit(row: Row, rule: str, validator: ValidatorName = VALIDATOR) -> float | None:
    """What a rule compares, turned so that higher is better; None where the row has no such metric.

    Args:
        row: An evaluation.
        rule: "source-val", "label-free" or "oracle".
        validator: That of "label-free".
    """
    if rule == "label-free":
        value = mean_of(row, "target-train", validator)
        return -value if value is not None and validator in LOWER_IS_BETTER else value
    return mean_of(row, {"source-val": "source-val", "oracle": "target-test"}[rule])


def select(rows: Sequence[Row], validator: ValidatorName = VALIDATOR) -> dict[str, Row]:
    """The row chosen by each rule; of equals the earliest. The network as it started, step 0, is never chosen.

    `last` is the last evaluation, `source-val` the best mean accuracy on the held-out source images, `label-free` the
    best by `validator` on the target's unlabelled training images, and `oracle` the best accuracy on the labelled
    target test images: it shows what was possible and must never choose a model. Where every pixel has a class, the
    mean IoU takes the place of both accuracies. A rule whose metric no row has is left out.

    Raises:
        ValueError: `rows` has no evaluation after step 0.
    """
    trained = _trained(rows)
    chosen = {"last": trained[-1]}
    for rule in (*KEPT, "oracle"):
        if (best := _best(trained, rule, validator)) is not None:
            chosen[rule] = best
    return chosen


def select_by_validators(rows: Sequence[Row]) -> dict[str, Row]:
    """The row that "label-free" would choose by each validator, as `select`."""
    trained = _trained(rows)
    found = ((name, _best(trained, "label-free", name)) for name in VALIDATORS)
    return {name: row for name, row in found if row is not None}


def before(rows: Sequence[Row]) -> Row | None:
    """The evaluation of the network as it started, where there is one."""
    return next((row for row in rows if row["step"] == 0), None)


def _trained(rows: Sequence[Row]) -> list[Row]:
    trained = [row for row in rows if row["step"] > 0]
    if not trained:
        raise ValueError(f"rows: expected at least one evaluation after step 0, got {len(rows)} of step 0")
    return trained


def _best(rows: Sequence[Row], rule: str, validator: ValidatorName) -> Row | None:
    scored = [(value, row) for row in rows if (value := merit(row, rule, validator)) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None

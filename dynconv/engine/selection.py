"""Which evaluation of a run counts: four rules, side by side and named."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

Row = dict[str, Any]

VALIDATOR = "information-maximisation"
CLASS_MEAN = "class-mean-accuracy"
OF_CLASS = "/accuracy-of-"


def mean_of(row: Row, split: str, metric: str = "accuracy") -> float | None:
    """Mean of `SPLIT/*/METRIC` over the domains of a row, or None where the row has none."""
    values = [value for name, value in row.items() if name.startswith(f"{split}/") and name.endswith(f"/{metric}")]
    return fmean(values) if values else None


def of_class(where: str, label: str) -> str:
    """Name of the accuracy on the images of the class `label` of `where`, SPLIT/DOMAIN."""
    return f"{where}{OF_CLASS}{label}"


def select(rows: Sequence[Row]) -> dict[str, Row]:
    """The row chosen by each rule; of equals the earliest.

    `last` is the last evaluation, `source-val` the best mean accuracy on the held-out source images, `label-free` the
    best information maximisation on the target's unlabelled training images, and `oracle` the best accuracy on the
    labelled target test images: it shows what was possible and must never choose a model. A rule whose metric no row
    has is left out.

    Raises:
        ValueError: `rows` is empty.
    """
    if not rows:
        raise ValueError("rows: expected at least one evaluation, got none")
    chosen = {"last": rows[-1]}
    rules = {
        "source-val": ("source-val", "accuracy"),
        "label-free": ("target-train", VALIDATOR),
        "oracle": ("target-test", "accuracy"),
    }
    for name, (split, metric) in rules.items():
        scored = [(value, row) for row in rows if (value := mean_of(row, split, metric)) is not None]
        if scored:
            chosen[name] = max(scored, key=lambda pair: pair[0])[1]
    return chosen

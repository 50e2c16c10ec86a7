"""What the figures of runs are called."""

from __future__ import annotations

from collections.abc import Iterable

from dynconv.metrics.names import in_words


def metrics_of(metrics: Iterable[str]) -> str:
    """What figures are that runs are judged by: "accuracy", "mean IoU", or what is to be said of both in one table.

    Args:
        metrics: `main_metric` of each run; of no run they are accuracies.
    """
    found = set(metrics)
    if len(found) > 1:
        return "accuracy (of segmentation mean IoU)"
    return in_words(found.pop()) if found else "accuracy"

"""What the measures of an evaluation are called. Its rows have them as SPLIT/DOMAIN/METRIC."""

from __future__ import annotations

# Of every pixel's class, the one first that a network is judged by.
MEAN_IOU = "mean-iou"
SEGMENTATION_METRICS = (MEAN_IOU, "frequency-weighted-iou", "pixel-accuracy", "class-accuracy")
# What stands between SPLIT/DOMAIN and a class.
ACCURACY_OF, IOU_OF = "/accuracy-of-", "/iou-of-"


def judged_by(labels: str) -> str:
    """The metric that networks are judged by: "mean-iou" where each "pixel" has a label, "accuracy" where the "image"
    has one (`NetworkInput.labels`)."""
    return MEAN_IOU if labels == "pixel" else "accuracy"


def in_words(metric: str) -> str:
    """A metric as a sentence has it: "mean IoU" for "mean-iou"."""
    return metric.replace("-", " ").replace("iou", "IoU").replace("frequency weighted", "frequency-weighted")


def is_of_class(name: str) -> bool:
    """Whether a metric, as SPLIT/DOMAIN/METRIC, is that of one class."""
    return ACCURACY_OF in name or IOU_OF in name

"""The pseudo labels of a run, and the file of its folder that holds them: pseudo_labels.json, sealed by its SHA-256.

Without what predicts them (`engine.pseudo_labels`), so that a report reads them and loads no training code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynconv.distributed import is_main
from dynconv.engine.run_folder import RunFolder, write_atomically
from dynconv.engine.run_options import CheckpointName

TENSORS = {"indices": torch.int64, "labels": torch.int64, "confidences": torch.float64}
START_OVER = "put the run's own file back, or delete the run folder to start over"


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Target training images with the classes that another run's network gave them.

    Raises:
        ValueError: They cannot be such: other types or shapes, an image twice, a class that is none, or a confidence
            that is not above the threshold.
    """

    of: str
    """The other run: see `RunOptions.pseudo_labels_of`."""
    checkpoint: CheckpointName
    """Which of its checkpoints."""
    threshold: float
    """Their confidences are greater than this."""
    target: str
    """Name of the target."""
    images: int
    """Training images of the target, of which they are some."""
    classes: tuple[str, ...]
    """Names of the classes."""
    indices: Tensor
    """int64 (n,), ascending: places in `Protocol.target.train`."""
    labels: Tensor
    """int64 (n,)."""
    confidences: Tensor
    """float64 (n,), the highest probability."""
    oracle_accuracy: float | None
    """Share of the labels that are right. It takes the target's labels, for whoever watches: nothing goes by it. None
    where the target has no labels."""

    def __post_init__(self) -> None:
        count = self.indices.numel()
        for name, dtype in TENSORS.items():
            value = getattr(self, name)
            if value.dtype != dtype or value.shape != (count,) or count == 0:
                raise ValueError(f"{name}: expected {dtype} (n,) of n > 0, got {value.dtype} {tuple(value.shape)}")
        if int(self.indices[0]) < 0 or int(self.indices[-1]) >= self.images or bool((self.indices.diff() <= 0).any()):
            raise ValueError(f"indices: expected ascending places among {self.images} images")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            raise ValueError(f"labels: expected 0 to {len(self.classes) - 1}")
        if not bool((self.confidences > self.threshold).all()):
            raise ValueError(f"confidences: expected more than {self.threshold}")

    @property
    def counts(self) -> Tensor:
        """int64 (num_classes,): images of each class."""
        return torch.bincount(self.labels, minlength=len(self.classes))

    def summary(self) -> str:
        """What they are, for a line of the log."""
        counts, right = self.counts, self.oracle_accuracy
        oracle = "none, the target has no labels" if right is None else f"{100 * right:.1f} % of them are right"
        return (
            f"{len(self.indices)} of {self.images} training images of {self.target} above {self.threshold:g}, "
            f"{int(counts.min())} to {int(counts.max())} in each of {len(self.classes)} classes (oracle: {oracle})"
        )

    def logs(self) -> dict[str, float]:
        """What they are, as scalars by name."""
        counts = self.counts
        found = {
            "images": float(len(self.indices)),
            "share": len(self.indices) / self.images,
            "threshold": self.threshold,
            "smallest-class": float(counts.min()),
            "largest-class": float(counts.max()),
        }
        if self.oracle_accuracy is not None:
            found["oracle-accuracy"] = self.oracle_accuracy
        return {f"pseudo-labels/{name}": value for name, value in found.items()}


def record_pseudo_labels(folder: RunFolder, found: PseudoLabels) -> None:
    """Write what the run learns from to pseudo_labels.json, unless it is there."""
    if not is_main() or folder.pseudo_labels.exists():
        return
    plain = {
        name: value.tolist() if isinstance(value := getattr(found, name), Tensor) else value
        for name in (each.name for each in dataclasses.fields(found))
    }
    plain["classes"] = list(found.classes)
    write_atomically(folder.pseudo_labels, json.dumps({**plain, "sha256": _digest(plain)}) + "\n")


def read_pseudo_labels(folder: RunFolder) -> PseudoLabels | None:
    """What `record_pseudo_labels` wrote; None where there is no such file.

    Raises:
        ValueError: The file is damaged.
    """
    if not folder.pseudo_labels.exists():
        return None
    try:
        plain = json.loads(folder.pseudo_labels.read_text(encoding="utf-8"))
        if plain.pop("sha256") != _digest(plain):
            raise ValueError("its contents do not fit its SHA-256")
        for name, dtype in TENSORS.items():
            plain[name] = torch.tensor(plain[name], dtype=dtype)
        return PseudoLabels(**{**plain, "classes": tuple(plain["classes"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder.pseudo_labels} is damaged: {error}; {START_OVER}") from error


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

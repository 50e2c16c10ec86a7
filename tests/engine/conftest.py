"""Small domains on disk, and a method that is small and yet needs all that a checkpoint holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from dynconv.data import Batch, TargetSelection
from dynconv.engine import evaluation
from dynconv.engine.config import TrainConfig
from dynconv.engine.run_options import RunOptions
from dynconv.methods import METHODS, Refresh, Update
from dynconv.metrics.errors import check_finite_values

CLASSES = 3


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one, two and three: CLASSES classes of 20 noisy images, bright in another column for each class."""
    root = tmp_path_factory.mktemp("domains")
    generator = np.random.default_rng(0)
    for domain in ("one", "two", "three"):
        for label in range(CLASSES):
            folder = root / domain / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(20):
                image = generator.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                image[:, 10 * label : 10 * label + 10] += 100
                Image.fromarray(image).save(folder / f"{index}.png")
    return root


@dataclass(frozen=True)
class TinyConfig:
    """A method for tests."""

    lr: float = 0.01
    """Learning rate."""
    fail_at: int = 0
    """Step whose loss is not a number; 0 for none."""
    refresh_every: int = 0
    """Steps between selections of target images; 0 for none."""
    backbone: str = "lenet-small"
    """Decides the size of the images alone."""
    weights: str = "auto"
    """Without effect."""
    image_norm: str = "auto"
    """Without effect."""

    @property
    def few_labels(self) -> int:
        return 0


class Tiny(nn.Module):
    """One hidden layer with dropout (the random state counts), momentum (the optimisers' state counts), batch norm
    (the buffers count) and two updates per step, the second of the head alone."""

    config_class = TinyConfig
    default_batch_size = 12
    class_balanced = False
    supervised_by_target = False
    observed_images = None
    diagnosed_images = 0
    notice = None

    @classmethod
    def for_task(cls, config: TinyConfig, num_classes: int, num_sources: int) -> Tiny:
        return cls(config, num_classes)

    def __init__(self, config: TinyConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.features = nn.Sequential(
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(8, num_classes)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.steps: list[tuple[int, int]] = []
        self.on_step: Callable[[int], None] = lambda step: None
        self.refreshed: list[tuple[int, Tensor]] = []

    def remark(self, row: Mapping[str, Any]) -> None:
        """No figure calls for words."""

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "features": torch.optim.Adam(self.features.parameters(), lr=self.config.lr),
            "heads": torch.optim.SGD(self.head.parameters(), lr=self.config.lr, momentum=0.9),
        }

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        """Every run suits it."""

    def check_classes(self, classes: Sequence[str]) -> None:
        """It begins with no network of another run."""

    def refresh_due(self) -> bool:
        return True

    def matching_step(self, max_steps: int) -> None:
        """Nothing is matched in closed form."""

    def refresh_interval(self, steps_per_pass: int) -> int:
        return self.config.refresh_every

    def refresh(self, scores: Tensor) -> Refresh:
        """Takes the surer half of the target: from then on the weights depend on the selection."""
        assert not self.training and not torch.is_grad_enabled()
        self.refreshed.append((len(self.steps), scores))
        sure, labels = scores.softmax(dim=1).max(dim=1)
        chosen = sure.argsort(descending=True, stable=True)[: len(scores) // 2].sort().values
        return Refresh(True, TargetSelection(chosen, labels[chosen]), {"selected/share": 0.5}, "half of the target")

    def begin_step(self, step: int, max_steps: int) -> None:
        self.step.fill_(step)
        self.steps.append((step, max_steps))
        self.on_step(step)

    def updates(self, batch: Batch) -> Iterator[Update]:
        loss = nn.functional.cross_entropy(self.predict(batch.source.images), batch.source.labels)
        if self.config.fail_at and int(self.step) == self.config.fail_at:
            loss = loss * float("nan")
        yield Update(loss, of=("features", "heads"), logs={"cross_entropy": loss.detach()})
        scores = self.predict(batch.target.images)
        yield Update(-scores.softmax(dim=1).pow(2).sum(), of=("heads",), logs={"certainty": 1.0})

    def predict(self, images: Tensor) -> Tensor:
        return self.scores(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        return self.features(images)

    def scores(self, features: Tensor) -> Tensor:
        return self.head(features)

    def evaluating_domain(self, domain: str) -> AbstractContextManager[None]:
        """Both domains have one batch norm."""
        return contextlib.nullcontext()

    def observe_target(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Nothing depends on the target's statistics."""


def source_risk(source: Tensor, target: Tensor, validation: Tensor, scores: Tensor, labels: Tensor) -> float:
    assert source.shape[1] == target.shape[1] == validation.shape[1]
    check_finite_values(scores=scores, source=source, target=target, validation=validation)
    return float(nn.functional.cross_entropy(scores, labels))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> type[Tiny]:
    """`Tiny`, known to the engine and the command line as the method `tiny`. Its evaluations take the cross entropy for
    the risk of deep embedded validation, whose five classifiers are more than half of a tiny run."""
    monkeypatch.setitem(METHODS, "tiny", Tiny)
    monkeypatch.setattr(evaluation, "deep_embedded_validation", source_risk)
    return Tiny


@pytest.fixture
def make_config(domains: Path) -> Callable[..., TrainConfig]:
    """A run of 12 steps from one and two to three; keywords are fields of `RunOptions`."""

    def make(out: Path, method: str = "tiny", options: Any = None, **run: Any) -> TrainConfig:
        values: dict[str, Any] = {"max_steps": 12, "batch_size": 8, "eval_every": 4, "log_every": 3, "device": "cpu"}
        values["source"] = (f"one={domains / 'one'}", f"two={domains / 'two'}")
        values["target"] = f"three={domains / 'three'}"
        if "epochs" in run:
            values["max_steps"] = None
        own = options if options is not None else METHODS[method].config_class()
        return TrainConfig(method, RunOptions(**{**values, "out": out, **run}), own)

    return make


@pytest.fixture
def quiet() -> Console:
    return Console(quiet=True)

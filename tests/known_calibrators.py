"""Runs of calibrator, in memory, that take an image for class 1 where it is bright, with a calibrator that adds the
same to every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dynconv.data import Domain, Protocol, Split
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import LoadedRun
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.scoring import Scoring
from dynconv.methods.calibrator import CalibratorConfig, CalibratorMethod

CLASSES = ("dim", "bright")
# Pairs of brightness of 255 and class: above 127.5 is class 1. The classifier alone is right about all of them.
SOURCE = ((50, 0), (80, 0), (140, 1), (200, 1))

Pixels = Sequence[tuple[int, int]]


class Brightness(nn.Module):
    """Features (B, 1): the mean over an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3)).unsqueeze(1)


class Threshold(nn.Module):
    """Scores (B, 2) of features (B, 1)."""

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.threshold - features, features - self.threshold], dim=1)


class Shift(nn.Module):
    """A calibrator of images in [0, 1] that adds `amount`."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount, self.epsilon = amount, abs(amount)

    def perturbation(self, images: Tensor) -> Tensor:
        return torch.full_like(images, self.amount)

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.perturbation(images)).clamp(0, 1)


@dataclass(frozen=True)
class KnownRun(LoadedRun):
    """A run whose domains are given."""

    own: Protocol = field(kw_only=True)

    def domains(self) -> tuple[Protocol, tuple[Split, ...]]:
        return self.own, tuple(domain.train for domain in self.own.sources)


def split_of(pixels: Pixels) -> Split:
    """Images of 16 x 16, each of one brightness."""
    values = torch.tensor([value for value, _ in pixels], dtype=torch.uint8)
    labels = torch.tensor([label for _, label in pixels], dtype=torch.int64)
    return Split(values.view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous(), labels)


def known_run(target: str, pixels: Pixels, added: int, *, source: Pixels = SOURCE) -> KnownRun:
    """A run with `pixels` as its target's test images, whose calibrator adds `added` of 255; its folder is
    TARGET-run, of which nothing is read."""
    options = CalibratorConfig(backbone="lenet-small", width=1, blocks=1)
    method = CalibratorMethod(options, len(CLASSES))
    method.features, method.heads = Brightness(), nn.ModuleList([Threshold()])
    method.calibrated.calibrator = Shift(added / 255)
    method.calibrating = True
    domains = [
        Domain(name, CLASSES, split, split)
        for name, split in (("source", split_of(source)), (target, split_of(pixels)))
    ]
    protocol = Protocol(f"source-{target}", (domains[0],), domains[1])
    run = RunOptions(source=("source=a",), target=f"{target}=b", max_steps=10)
    return KnownRun(
        TrainConfig("calibrator", run, options),
        RunFolder(Path(f"{target}-run")),
        method.eval(),
        CLASSES,
        Scoring(torch.device("cpu")),
        step=7,
        root=None,
        checkpoint="last",
        image_size=None,
        own=protocol,
    )

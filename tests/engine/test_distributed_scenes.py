"""Two processes with half the scenes each, and unequally many labelled pixels, take the steps of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from processes import forked
from tiny_scenes import CLASSES, IGNORE, batch_of, draw, use_tiny, without_dropout
from torch import Tensor

from dynconv.data import Batch
from dynconv.engine.meter import Meter
from dynconv.engine.step import Stepper
from dynconv.methods import METHODS, Method

STEPS = 3
# Without batch statistics and dropout a scene's result is its own, so that only the order of sums differs.
PLAIN: dict[str, Any] = {"backbone": "erfnet-encoder", "norm": "none", "lr": 0.05, "optimiser": "sgd"}
GAME = {"discriminates": "logits", "hidden_features": 8, "pretrain": 0.3}
SHARED = {"weight_sharing": "shared", "adversarial_weight": 0.1, "gate": 0.2, "score_maps": "full"}
# Patches as large as the images, for they are drawn by each process for its own.
CALIBRATOR = {"width": 2, "blocks": 1, "patch_size": 16, "shuffle": False, "pretrain": 0.3, "feature_input": "logits"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "source-only": ("source-only", {"label_smoothing": 0.1}),
    "adda": ("adda", GAME),
    "adda, shared": ("adda", GAME | SHARED),
    "mcd": ("mcd", {"class_balance": 0.3}),
    "mcd, reversal": ("mcd", {"class_balance": 0.3, "form": "reversal", "discrepancy_weight": 5.0}),
    "calibrator": ("calibrator", CALIBRATOR),
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)


def share(step: int, rank: int, world_size: int) -> Batch:
    """A process's part of a batch of four scenes of each domain; in the last one the second half has no label."""
    whole = draw(4, step, height=16, width=16)
    mine = slice(4 * rank // world_size, 4 * (rank + 1) // world_size)
    if step == STEPS - 1:
        whole.source.labels[2:] = IGNORE
    images = torch.cat([whole.source.images[mine], whole.target.images[mine]])
    return batch_of(images, whole.source.labels[mine])


def make(case: str) -> Method:
    name, fields = CASES[case]
    torch.manual_seed(0)
    made = METHODS[name](METHODS[name].config_class(**PLAIN | fields), CLASSES).double().train()
    without_dropout(made)
    return made


def train(case: str, rank: int, world_size: int) -> dict[str, Tensor]:
    """The state after `STEPS` steps, and the mean losses."""
    made = make(case)
    stepper = Stepper(Fabric(accelerator="cpu", devices=1), made, made.optimisers())
    meter = Meter()
    for step in range(STEPS):
        stepper.advance(share(step, rank, world_size), step, STEPS, meter)
    means = {f"log/{key}": torch.tensor(value) for key, value in meter.means().items() if "accuracy" not in key}
    return {**{key: value.detach().clone() for key, value in made.state_dict().items()}, **means}


def _train_all(rank: int, folder: Path) -> None:
    torch.save({case: train(case, rank, 2) for case in CASES}, folder / f"rank{rank}.pt")


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    forked(_train_all, tmp_path)
    halves = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for case in CASES:
        whole, start = train(case, 0, 1), make(case).state_dict()
        moved = [(whole[key] - value).abs().max() for key, value in start.items() if value.is_floating_point()]
        assert max(moved) > 1e-3
        for half in halves:
            assert half[case].keys() == whole.keys()
            for key, value in whole.items():
                torch.testing.assert_close(
                    half[case][key],
                    value,
                    rtol=0,
                    atol=1e-9,
                    msg=lambda text, case=case, key=key: f"{case}: {key}: {text}",
                )

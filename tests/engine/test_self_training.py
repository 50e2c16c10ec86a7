"""Self-training and AdaBN in whole runs: what is selected survives a stop, and how many images are looked at."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from same_run import whole_and_stopped
from torch import Tensor

from dynconv.engine.config import TrainConfig
from dynconv.engine.evaluation import Evaluation
from dynconv.engine.train import make_fabric, open_folder, prepare
from dynconv.methods import AdaBN, AdaBNConfig, Method, SelfTrainingConfig

Make = Callable[..., TrainConfig]


@pytest.mark.parametrize(("every", "labels"), [(0, "hard"), (4, "soft")])
def test_a_run_stopped_after_its_selection_ends_bit_identical(
    every: int, labels: str, tmp_path: Path, make_config: Make, quiet: Console
) -> None:
    options = SelfTrainingConfig(
        lr=3e-3, warmup_steps=4, selection_every=every, selection="class-balanced", pseudo_labels=labels
    )

    def config(name: str) -> TrainConfig:
        return make_config(tmp_path / name, "self-training", options, max_steps=10, eval_every=10, log_every=2)

    whole, stopped = whole_and_stopped(config, 5, quiet)
    assert stopped.batches.state_dict()["selection"] is not None
    logged = whole.training_rows()
    assert ["pseudo_cross_entropy" in row for row in logged] == [False, False, True, True, True]
    # After steps 4 and 8, or once.
    assert ["selected/images" in row for row in logged] == [False, False, True, False, bool(every)]


@pytest.mark.parametrize(("every", "asked"), [(0, [4]), (2, [4, 6, 8])])
def test_the_target_is_scored_where_something_is_selected_alone(
    every: int, asked: list[int], tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        tmp_path / "run", "self-training", SelfTrainingConfig(warmup_steps=4, selection_every=every), max_steps=10
    )
    run = prepare(config, open_folder(config), make_fabric(config.run))
    scored, score = [], Evaluation.target_scores

    def watched(self: Evaluation, method: Method) -> Tensor:
        scored.append(run.step)
        return score(self, method)

    monkeypatch.setattr(Evaluation, "target_scores", watched)
    told = io.StringIO()
    run.fit(Console(file=told, width=200))
    assert scored == asked
    assert told.getvalue().count("pseudo labels: the first selection comes after step 4") == 1


@pytest.mark.parametrize(("asked", "seen"), [(7, 7), (0, 60), (2000, 60)])
def test_adabn_looks_at_as_many_target_images_as_it_is_told(
    asked: int, seen: int, tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def observe(self: AdaBN, batches: Callable[[], list[Tensor]]) -> None:
        counts.append(sum(len(images) for images in batches()))

    monkeypatch.setattr(AdaBN, "observe_target", observe)
    config = make_config(tmp_path / "run", "adabn", AdaBNConfig(statistics_images=asked))
    run = prepare(config, open_folder(config), make_fabric(config.run))
    with torch.no_grad():
        run.evaluation.measure(run.method)
    assert counts == [seen]
    run.folder.lock.release()

"""Self-training and AdaBN in whole runs: what is selected survives a stop, and how many images are looked at."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from same_run import assert_same_run
from torch import Tensor

from dynconv.engine.config import TrainConfig
from dynconv.engine.interrupt import Interrupted
from dynconv.engine.train import make_fabric, open_folder, prepare, train
from dynconv.methods import AdaBN, AdaBNConfig, SelfTrainingConfig

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

    whole = train(config("whole"), console=quiet)
    run = prepare(config("broken"), open_folder(config("broken")), make_fabric(config("broken").run))
    begin = run.method.begin_step

    def begin_step(step: int, max_steps: int) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGINT)
        begin(step, max_steps)

    run.method.begin_step = begin_step
    with pytest.raises(Interrupted):
        run.fit(quiet)
    assert run.batches.state_dict()["selection"] is not None
    broken = train(config("broken"), console=quiet)
    assert_same_run(whole, broken)
    logged = whole.training_rows()
    assert ["pseudo_cross_entropy" in row for row in logged] == [False, False, True, True, True]
    # After steps 4 and 8, or once.
    assert ["selected/images" in row for row in logged] == [False, False, True, False, bool(every)]


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

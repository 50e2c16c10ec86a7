"""One training step: precision, micro-batches, divergence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from rich.console import Console

from dynconv.data import Batch
from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.processes import OtherProcessFailed, make_fabric, process_layout
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import Diverged, open_folder, prepare, train
from dynconv.methods import Update

Make = Callable[..., TrainConfig]


def prepared(config: TrainConfig, fabric: Fabric | None = None) -> Run:
    return prepare(config, open_folder(config), fabric or make_fabric(config.run))


def half_precision() -> Fabric:
    """16-mixed as on a GPU, with the same scaler, on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=4)
    return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))


def test_the_scaler_of_half_precision_scales_skips_and_comes_back(
    tmp_path: Path, make_config: Make, quiet: Console
) -> None:
    # Judged once: in half precision on a CPU that takes longer than the steps.
    config = make_config(tmp_path / "run", "drt", clip_norm=1.0, eval_every=12)
    run = prepared(config, half_precision())
    scaler = run.stepper.scaler
    before = {name: p.detach().clone() for name, p in run.method.named_parameters()}
    seen: list[torch.dtype] = []
    run.method.heads[0].register_forward_hook(lambda module, images, scores: seen.append(scores.dtype))
    run.fit(quiet)
    assert scaler is not None and set(seen) == {torch.float16}
    # 12 steps without an overflow: the scale has doubled three times.
    assert scaler.get_scale() == 2.0**11
    assert all(p.isfinite().all() and not torch.equal(p, before[name]) for name, p in run.method.named_parameters())
    norms = [row["gradient-norm/features+heads"] for row in run.folder.training_rows()]
    # Of the gradient itself, not of the scaled one.
    assert all(0 < norm < 200 for norm in norms)
    again = prepared(config, half_precision())
    assert again.stepper.scaler is not None
    assert again.stepper.scaler.state_dict() == scaler.state_dict()
    assert again.stepper.scaler.get_scale() == 2.0**11


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_overflowing_gradient_skips_the_step_and_is_no_divergence(
    clip_norm: float | None, tmp_path: Path, make_config: Make
) -> None:
    run = prepared(make_config(tmp_path / "run", "source-only", clip_norm=clip_norm), half_precision())
    scaler = run.stepper.scaler
    assert scaler is not None
    # As it stands after many steps without an overflow.
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**60})
    before = [p.detach().clone() for p in run.method.parameters()]
    run.method.train()
    run.stepper.advance(next(run.batches), 0, 12, run.meter)
    assert all(torch.equal(p, old) for p, old in zip(run.method.parameters(), before, strict=True))
    assert scaler.get_scale() == 2.0**59
    run.check_losses(run.meter.means())


@pytest.mark.parametrize("checkpoint_every", [3, 100])
def test_divergence_names_the_step_the_losses_and_the_last_good_checkpoint(
    checkpoint_every: int, tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    options = tiny.config_class(fail_at=4)
    config = make_config(
        tmp_path / "run",
        options=options,
        eval_every=12,
        log_every=12,
        checkpoint_every=checkpoint_every,
    )
    with pytest.raises(Diverged) as caught:
        train(config, console=quiet)
    message = str(caught.value)
    # Step 5 in the count of the rows; noticed at the next checkpoint or row, and named all the same.
    assert "diverged at step 5: loss = nan, cross_entropy = nan" in message
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    if checkpoint_every == 3:
        assert f"The last good checkpoint is {last} (step 3)." in message
        assert load_checkpoint(last)["step"] == 3
    else:
        assert "There was no checkpoint yet." in message and not last.exists()


def test_divergence_is_told_where_the_folder_takes_no_more(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RunFolder, reason: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "record_divergence", full)
    with pytest.raises(Diverged, match="diverged at step 5"):
        train(make_config(tmp_path / "run", options=tiny.config_class(fail_at=4)), console=quiet)


def test_no_checkpoint_is_made_of_parameters_that_are_no_numbers(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    run = prepared(make_config(tmp_path / "run", checkpoint_every=2, eval_every=12, log_every=12))

    def spoil(step: int) -> None:
        if step == 3:
            # As an update may do whose loss was still finite, here the last one of its step.
            calls = iter(range(2))
            run.optimisers["heads"].register_step_post_hook(
                lambda *_: run.method.head.bias.data.fill_(torch.inf) if next(calls) else None
            )

    run.method.on_step = spoil
    with pytest.raises(
        Diverged, match=r"at step 4: head.bias is not finite. The last good checkpoint is .* \(step 2\)"
    ):
        run.fit(quiet)


def test_updates_that_differ_between_micro_batches_are_refused(tmp_path: Path, tiny: type, make_config: Make) -> None:
    run = prepared(make_config(tmp_path / "run", accumulate=2))
    original = run.method.updates
    calls: list[int] = []

    def shorter(batch: Batch) -> Iterator[Update]:
        calls.append(len(batch.source.images))
        first = len(calls) == 1
        updates = original(batch)
        yield next(updates)
        if first:
            yield from updates

    run.method.updates = shorter
    with pytest.raises(RuntimeError, match=r"\[\('heads',\)\] in 2 micro-batches: expected the same in each"):
        run.stepper.advance(next(run.batches), 0, 12, run.meter)
    assert calls == [4, 4]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"batch_size": 9, "devices": 2}, "--batch-size 9: it is divided among 2 processes and 1 micro-batches"),
        ({"batch_size": 8, "accumulate": 3}, "1 micro-batches|3 micro-batches .*give a multiple of 3"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused_before_anything_starts(
    run: dict[str, Any], message: str, tmp_path: Path, tiny: type, make_config: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        train(make_config(tmp_path / "run", **run))
    assert not (tmp_path / "run").exists()


def test_micro_batches_of_one_image_are_refused_where_there_are_batch_statistics(
    tmp_path: Path, tiny: type, make_config: Make
) -> None:
    with pytest.raises(ValueError, match="at least 2 images of each domain in each of 8 parts"):
        prepared(make_config(tmp_path / "run", batch_size=8, accumulate=8))


def test_a_run_that_does_not_suit_the_method_is_refused_before_its_folder_is_written_to(
    tmp_path: Path, tiny: type, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def refuse(self: Any, *, max_steps: int, micro_batch: int) -> None:
        seen.append((max_steps, micro_batch))
        raise ValueError("it does not suit")

    monkeypatch.setattr(tiny, "check_run", refuse)
    for run in ({"max_steps": 7, "accumulate": 2}, {"epochs": 2}):
        with pytest.raises(ValueError, match="it does not suit"):
            train(make_config(tmp_path / "run", batch_size=8, **run))
        assert not (tmp_path / "run" / "config.yaml").exists()
    # Ten batches of what is left of the sources make an epoch.
    assert seen == [(7, 4), (20, 8)]

    def other(self: Any, classes: Sequence[str]) -> None:
        raise ValueError(f"not of {classes}")

    monkeypatch.setattr(tiny, "check_classes", other)
    with pytest.raises(ValueError, match="not of .*'class0', 'class1', 'class2'"):
        train(make_config(tmp_path / "run"))


def test_torchrun_decides_how_many_processes_there_are(
    tmp_path: Path, make_config: Make, tiny: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_config(tmp_path / "run").run
    assert process_layout(options) == (1, 1)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert process_layout(options) == (4, 2) and process_layout(options).total == 8
    with pytest.raises(ValueError, match="--devices 3: torchrun started 4 processes"):
        process_layout(make_config(tmp_path / "run", devices=3).run)


def test_a_process_that_was_killed_is_told_as_such_and_is_no_exit_code() -> None:
    told, killed = OtherProcessFailed(1, 2), OtherProcessFailed(3, -9)
    assert str(told) == "process 1 ended with the exit code 2; what it said stands above" and told.exit_code == 2
    assert str(killed).startswith("process 3 was killed by SIGKILL, by hand or for want of memory; the same command")
    assert killed.exit_code == 1


def test_images_and_weights_take_the_order_that_was_asked_for(tmp_path: Path, make_config: Make) -> None:
    for channels_last in (True, False):
        run = prepared(make_config(tmp_path / f"run{channels_last}", "source-only", channels_last=channels_last))
        seen: list[bool] = []
        convolution = next(m for m in run.method.features.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda m, images, y, seen=seen: seen.append(images[0].is_contiguous()))
        run.stepper.advance(next(run.batches), 0, 12, run.meter)
        assert seen == [not channels_last]
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path: Path, make_config: Make, quiet: Console) -> None:
    plain, compiled = (
        prepared(make_config(tmp_path / f"run{compile}", "drt", max_steps=4, compile=compile))
        for compile in (False, True)
    )
    for run in (plain, compiled):
        run.fit(quiet)
    for name, value in plain.method.state_dict().items():
        torch.testing.assert_close(compiled.method.state_dict()[name], value, rtol=1e-3, atol=1e-4)

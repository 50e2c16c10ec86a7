from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dynconv import cli
from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import Interrupted, open_folder, prepare, train
from dynconv.methods import METHODS

Make = Callable[..., TrainConfig]


def at_step(config: TrainConfig, step: int, action: Callable[[], None], console: Console) -> None:
    """Train with `action` called at the start of the step after `step` finished ones."""
    run = prepare(config, open_folder(config))
    begin = run.method.begin_step

    def begin_step(current: int, max_steps: int) -> None:
        if current == step:
            action()
        begin(current, max_steps)

    run.method.begin_step = begin_step
    run.fit(console)


def kill() -> None:
    raise RuntimeError("killed")


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_sigterm_stops_a_training_as_ctrl_c_does(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    config = make_config(tmp_path / "run")
    # Outside of the guard it would end the tests.
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(Interrupted) as stopped:
            at_step(config, 2, lambda: signal.raise_signal(signal.SIGTERM), quiet)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert stopped.value.step == load_checkpoint(config.out / "checkpoints" / "last.pt")["step"] == 3


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in flat(part, f"{name}/{i}").items()}
    return {name: value}


def assert_same_run(one: RunFolder, other: RunFolder, *, logs: bool = True) -> None:
    """Every tensor and number of both checkpoints, every row and the selection, bit for bit; `seconds` aside."""
    assert without_seconds(one.rows()) == without_seconds(other.rows())
    if logs:
        assert without_seconds(one.training_rows()) == without_seconds(other.training_rows())
    for name in ("last", "source-val"):
        left, right = (flat(load_checkpoint(folder.checkpoint(name))) for folder in (one, other))
        assert left.keys() == right.keys()
        for key in left.keys() - {"/seconds"}:
            same = (
                torch.equal(left[key], right[key]) if isinstance(left[key], torch.Tensor) else left[key] == right[key]
            )
            assert same, f"{name}: {key} differs"
    left, right = ({k: v["step"] for k, v in folder.read_done()["selected"].items()} for folder in (one, other))
    assert left == right


@pytest.mark.parametrize("method", ["tiny", "drt"])
def test_an_interrupted_run_resumed_by_the_command_it_prints_is_bit_identical(
    method: str, tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", method), console=quiet)
    config = make_config(tmp_path / "broken", method)
    with pytest.raises(Interrupted) as stopped:
        at_step(config, 6, interrupt, quiet)
    assert stopped.value.step == 7, "the step in which the signal came is finished"
    assert load_checkpoint(config.out / "checkpoints" / "last.pt")["step"] == 7
    words = shlex.split(stopped.value.command)
    assert words[0] == "dynconv"
    assert cli.main(words[1:]) == 0
    assert_same_run(whole, RunFolder(config.out))


def test_a_killed_run_loses_the_rows_younger_than_its_checkpoint_and_ends_bit_identical(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", eval_every=2, checkpoint_every=5), console=quiet)
    config = make_config(tmp_path / "broken", eval_every=2, checkpoint_every=5)
    with pytest.raises(RuntimeError, match="killed"):
        at_step(config, 9, kill, quiet)
    folder = RunFolder(config.out)
    assert [row["step"] for row in folder.rows()] == [2, 4, 6, 8]
    run = prepare(config, open_folder(config))
    assert run.step == 5
    run.fit(quiet)
    assert [row["step"] for row in folder.rows()] == [2, 4, 6, 8, 10, 12]
    assert_same_run(whole, folder)


# A refresh is due after 5 finished steps, where the first checkpoint lies; the others lie between two refreshes.
@pytest.mark.parametrize("checkpoint_every", [5, 7, 8])
@pytest.mark.parametrize("stop", [kill, interrupt])
def test_a_run_that_selects_target_images_ends_bit_identical_wherever_it_stops(
    stop: Callable[[], None], checkpoint_every: int, tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    own = tiny.config_class(refresh_every=5)

    def config(name: str) -> TrainConfig:
        return make_config(tmp_path / name, options=own, checkpoint_every=checkpoint_every, max_steps=14)

    whole = train(config("whole"), console=quiet)
    with pytest.raises(RuntimeError if stop is kill else Interrupted):
        at_step(config("broken"), 9, stop, quiet)
    run = prepare(config("broken"), open_folder(config("broken")))
    assert run.step == (checkpoint_every if stop is kill else 10)
    run.fit(quiet)
    # A selection that was lost would have been made good at the next refresh, too late.
    due = [step for step in (5, 10) if step >= run.max_steps - len(run.method.steps)]
    assert [run.method.steps[place][0] for place, _ in run.method.refreshed] == due
    assert_same_run(whole, RunFolder(tmp_path / "broken"))
    unselective = train(make_config(tmp_path / "all", max_steps=14), console=quiet)
    assert without_seconds(whole.rows())[-1] != without_seconds(unselective.rows())[-1]


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", checkpoint_every=8), console=quiet)
    config = make_config(tmp_path / "broken", checkpoint_every=8)
    with pytest.raises(RuntimeError, match="killed"):
        at_step(config, 6, kill, quiet)
    assert [row["step"] for row in RunFolder(config.out).rows()] == [4]
    assert_same_run(whole, train(config, console=quiet))


def test_the_environment_of_every_start_is_kept(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    config = make_config(tmp_path / "run")
    with pytest.raises(Interrupted):
        at_step(config, 2, interrupt, quiet)
    train(config, console=quiet)
    starts = json.loads((tmp_path / "run" / "env.json").read_text())
    assert [start["step"] for start in starts] == [0, 3]
    assert torch.__version__.startswith(starts[1]["versions"]["torch"])


def test_signal_handlers_are_restored(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        at_step(make_config(tmp_path / "run"), 2, interrupt, quiet)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_interrupt_ends_at_once(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        at_step(make_config(tmp_path / "run"), 2, twice, quiet)
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_an_interrupt_in_the_last_step_finishes_the_run(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    config = make_config(tmp_path / "run")
    at_step(config, 11, interrupt, quiet)
    assert RunFolder(config.out).read_done() is not None


def test_a_finished_run_is_not_trained_again(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run")
    folder = train(config, console=quiet)
    before = folder.results.read_text()
    monkeypatch.setitem(METHODS, "tiny", type("NotCalled", (), {"config_class": METHODS["tiny"].config_class}))
    assert train(config, console=quiet).results.read_text() == before


def test_a_folder_with_another_configuration_is_refused_and_the_fields_named(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    train(make_config(tmp_path / "run", max_steps=1), console=quiet)
    before = sorted((tmp_path / "run").rglob("*"))
    own = METHODS["tiny"].config_class(lr=0.5)
    with pytest.raises(ValueError, match="another configuration") as error:
        train(make_config(tmp_path / "run", options=own, max_steps=2, batch_size=9), console=quiet)
    message = str(error.value)
    for line in ("max_steps: 1 -> 2", "batch_size: 8 -> 9", "tiny.lr: 0.01 -> 0.5"):
        assert line in message
    assert "seed" not in message
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_resume_never_refuses_a_folder_that_holds_a_run(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    train(make_config(tmp_path / "run", max_steps=1, resume="never"), console=quiet)
    with pytest.raises(ValueError, match="--resume is never"):
        train(make_config(tmp_path / "run", max_steps=1, resume="never"), console=quiet)


def test_a_folder_of_other_files_is_refused(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="no run"):
        train(make_config(tmp_path), console=quiet)
    with pytest.raises(ValueError, match="is a file"):
        train(make_config(tmp_path / "thesis.tex"), console=quiet)


def test_options_that_do_not_decide_the_result_may_change_at_a_resume(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole"), console=quiet)
    with pytest.raises(Interrupted):
        at_step(make_config(tmp_path / "broken"), 6, interrupt, quiet)
    resumed = train(make_config(tmp_path / "broken", log_every=1, checkpoint_every=2), console=quiet)
    assert_same_run(whole, resumed, logs=False)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    config = make_config(tmp_path / "run")
    with pytest.raises(Interrupted):
        at_step(config, 6, interrupt, quiet)
    path = config.out / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    state["config_hash"] = "0" * 12
    torch.save(state, path)
    with pytest.raises(ValueError, match="000000000000"):
        train(config, console=quiet)
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        train(config, console=quiet)

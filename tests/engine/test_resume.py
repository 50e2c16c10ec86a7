from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from same_run import assert_same_run, call_at_step, interrupt, without_seconds

from dynconv import cli
from dynconv.engine.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.measure import measure_run
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import Interrupted, make_fabric, open_folder, prepare, train
from dynconv.methods import METHODS

Make = Callable[..., TrainConfig]


def prepare_run(config: TrainConfig) -> Run:
    return prepare(config, open_folder(config), make_fabric(config.run))


def at_step(config: TrainConfig, step: int, action: Callable[[], None], console: Console) -> None:
    """Train with `action` called at the start of the step after `step` finished ones."""
    run = prepare_run(config)
    call_at_step(run, step, action)
    run.fit(console)


def kill() -> None:
    raise RuntimeError("killed")


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
    assert [row["step"] for row in folder.rows()] == [0, 2, 4, 6, 8]
    run = prepare_run(config)
    assert run.step == 5
    run.fit(quiet)
    assert [row["step"] for row in folder.rows()] == [0, 2, 4, 6, 8, 10, 12]
    assert_same_run(whole, folder)


def test_a_run_that_selects_target_images_ends_bit_identical_wherever_it_stops(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    def config(name: str, checkpoint_every: int = 14, refresh_every: int = 5) -> TrainConfig:
        own = tiny.config_class(refresh_every=refresh_every)
        run = {"checkpoint_every": checkpoint_every, "eval_every": 7, "max_steps": 14}
        return make_config(tmp_path / name, options=own, **run)

    whole = train(config("whole"), console=quiet)
    unselective = train(config("all", refresh_every=0), console=quiet)
    assert without_seconds(whole.rows())[-1] != without_seconds(unselective.rows())[-1]
    # A refresh is due after 5 finished steps, where the first checkpoint lies; the others lie between two refreshes.
    for checkpoint_every in (5, 7, 8):
        for stop in (kill, interrupt):
            broken = config(f"{stop.__name__}-{checkpoint_every}", checkpoint_every)
            with pytest.raises(RuntimeError if stop is kill else Interrupted):
                at_step(broken, 9, stop, quiet)
            run = prepare_run(broken)
            assert run.step == (checkpoint_every if stop is kill else 10)
            run.fit(quiet)
            # A selection that was lost would have been made good at the next refresh, too late.
            due = [step for step in (5, 10) if step >= run.max_steps - len(run.method.steps)]
            assert [run.method.steps[place][0] for place, _ in run.method.refreshed] == due
            assert_same_run(whole, RunFolder(broken.out))


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", checkpoint_every=8), console=quiet)
    config = make_config(tmp_path / "broken", checkpoint_every=8)
    with pytest.raises(RuntimeError, match="killed"):
        at_step(config, 6, kill, quiet)
    assert [row["step"] for row in RunFolder(config.out).rows()] == [0, 4]
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


# Checkpoints of the steps 4, 7 (where the interrupt comes) and 8, and an evaluation, which takes longest, at the end.
RARE = {"checkpoint_every": 4, "eval_every": 12}


def stopped_at_6(config: TrainConfig, console: Console) -> RunFolder:
    """A run whose last.pt is of step 7 and whose previous.pt of step 4."""
    with pytest.raises(Interrupted):
        at_step(config, 6, interrupt, console)
    return RunFolder(config.out)


def torn(path: Path, other: RunFolder) -> str:
    path.write_bytes(path.read_bytes()[:-1000])
    return "cut off"


def changed(path: Path, other: RunFolder) -> str:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "SHA-256"


def foreign(path: Path, other: RunFolder) -> str:
    torch.save({"step": 7}, path)
    return "no checkpoint of dynconv"


def of_another_run(path: Path, other: RunFolder) -> str:
    shutil.copy(other.last, path)
    return "seed: 1 -> 0"


def of_other_networks(path: Path, other: RunFolder) -> str:
    state = load_checkpoint(path)
    state["method"]["head.weight"] = torch.zeros(2, 8)
    save_checkpoint(path, state)
    return "head.weight is (2, 8) in it, (3, 8) here"


def of_a_part(path: Path, other: RunFolder) -> str:
    state = load_checkpoint(path)
    save_checkpoint(path, {key: state[key] for key in WEIGHTS})
    return "lacks seconds"


def test_a_bad_checkpoint_is_told_and_the_one_before_it_is_used(
    tmp_path: Path, tiny: type, make_config: Make, capsys: Any, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", **RARE), console=quiet)
    other = train(make_config(tmp_path / "other", max_steps=1, seed=1), console=quiet)
    stopped = stopped_at_6(make_config(tmp_path / "stopped", **RARE), quiet)
    for spoil in (torn, changed, foreign, of_another_run, of_other_networks, of_a_part):
        folder = RunFolder(tmp_path / spoil.__name__)
        shutil.copytree(stopped.path, folder.path)
        why = spoil(folder.last, other)
        bad = folder.last.read_bytes()
        run = prepare_run(make_config(folder.path, **RARE))
        assert run.step == 4
        assert folder.unusable.read_bytes() == bad and not folder.last.exists()
        run.fit()
        lines = capsys.readouterr().err
        assert f"{folder.last} " in lines and why in lines and "unusable.pt; going on from previous.pt" in lines
        assert_same_run(whole, folder)


def test_a_last_checkpoint_that_is_missing_is_the_one_before_it(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", **RARE), console=quiet)
    config = make_config(tmp_path / "broken", **RARE)
    stopped_at_6(config, quiet).last.unlink()
    run = prepare_run(config)
    assert run.step == 4 and not run.notes
    run.fit(quiet)
    assert_same_run(whole, RunFolder(config.out))


def test_without_a_checkpoint_that_can_be_used_it_is_said_what_to_do(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", **RARE), console=quiet)
    config = make_config(tmp_path / "broken", **RARE)
    folder = stopped_at_6(config, quiet)
    torn(folder.last, whole)
    foreign(folder.previous, whole)
    before = {path: path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError) as error:
        train(config, console=quiet)
    for words in (f"{folder.last} ", "cut off", f"{folder.previous} ", f"delete the folder {folder.checkpoints}"):
        assert words in str(error.value)
    assert {path: path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file()} == before
    shutil.rmtree(folder.checkpoints)
    assert_same_run(whole, train(config, console=quiet))


def test_a_checkpoint_of_two_processes_is_gone_on_from_by_one_with_a_line(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console, capsys: Any
) -> None:
    config = make_config(tmp_path / "run", **RARE)
    folder = stopped_at_6(config, quiet)
    state = load_checkpoint(folder.last)
    save_checkpoint(folder.last, {**state, "random": state["random"] * 2})
    train(config)
    assert "of 2 processes and this is one of 1: dropout" in capsys.readouterr().err
    assert folder.read_done() is not None


def test_other_data_are_refused(tmp_path: Path, tiny: type, make_config: Make, quiet: Console, domains: Path) -> None:
    shutil.copytree(domains / "three", tmp_path / "three")
    config = make_config(tmp_path / "run", target=f"three={tmp_path / 'three'}", **RARE)
    stopped_at_6(config, quiet)
    (tmp_path / "three" / "class0" / "0.png").unlink()
    with pytest.raises(ValueError, match="belongs to other data: sizes"):
        train(config, console=quiet)


def test_a_second_process_is_refused_while_one_trains(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    config = make_config(tmp_path / "run", **RARE)
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(ValueError) as error:
            open_folder(config)
        refused.append(str(error.value))

    at_step(config, 6, second, quiet)
    assert f"process {os.getpid()} on" in refused[0] and "is in use" in refused[0]
    assert RunFolder(config.out).read_done() is not None


def test_of_two_that_found_an_empty_folder_the_second_is_refused(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    config, other = make_config(tmp_path / "run"), make_config(tmp_path / "run", seed=1)
    late, later = open_folder(config), open_folder(other)
    run = prepare_run(config)
    with pytest.raises(ValueError, match="is in use"):
        late.take(config)
    run.fit(quiet)
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        later.take(other)


@pytest.mark.parametrize(
    "left", [(), ("lock",), ("lock", "config.yaml.tmp"), ("lock", "config.yaml.tmp", "checkpoints")]
)
def test_a_run_killed_while_it_made_its_folder_is_started(
    left: tuple[str, ...], tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    config = make_config(tmp_path / "run", max_steps=1)
    config.out.mkdir()
    for name in left:
        (config.out / name).touch()
    if "checkpoints" in left:
        (config.out / "checkpoints").unlink()
        (config.out / "config.yaml").write_text(config.to_yaml())
    folder = train(config, console=quiet)
    assert folder.read_done() is not None
    assert not list(config.out.rglob("*.tmp"))


def test_what_was_being_written_at_a_kill_is_cleared_away(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", **RARE), console=quiet)
    config = make_config(tmp_path / "broken", **RARE)
    folder = stopped_at_6(config, quiet)
    names = ("env.json", "results.jsonl", "training.jsonl", "done", "checkpoints/last.pt", "checkpoints/source-val.pt")
    for name in names:
        (folder.path / f"{name}.tmp").write_text("torn")
    with folder.training.open("a") as file:
        file.write('{"step": 8, "lo')
    assert_same_run(whole, train(config, console=quiet))
    assert not list(config.out.rglob("*.tmp"))
    assert [start["step"] for start in json.loads(folder.environment.read_text())] == [0, 7]
    assert [start["max_steps"] for start in json.loads(folder.environment.read_text())] == [12, 12]


def test_a_run_made_before_a_field_was_there_is_measured_and_gone_on_from(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    config = make_config(tmp_path / "run", **RARE)
    folder = stopped_at_6(config, quiet)
    plain = yaml.safe_load(folder.config.read_text())
    del plain["augmentation"], plain["tiny"]["fail_at"]
    folder.config.write_text(yaml.safe_dump(plain))
    state = load_checkpoint(folder.last)
    del state["config"]["augmentation"], state["config"]["tiny.fail_at"]
    save_checkpoint(folder.last, state)
    measured = measure_run(folder.path, device="cpu")
    assert (measured["step"], measured["config_hash"]) == (7, config.hash)
    assert train(config, console=quiet).read_done()["config_hash"] == config.hash

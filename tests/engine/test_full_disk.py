"""A run folder that cannot be written to any more, as on a full disk: a limit on the size of this process's files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from same_run import assert_same_run, call_at_step
from torch.utils.tensorboard import SummaryWriter

from dynconv import cli
from dynconv.engine.checkpoint import load_checkpoint, save_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.journal import Journal
from dynconv.engine.progress import ProgressDisplay
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import NotWritten, make_fabric, open_folder, prepare, train

pytestmark = pytest.mark.skipif(importlib.util.find_spec("resource") is None, reason="there are no limits to set")


@contextmanager
def limited() -> Iterator[Callable[[int], None]]:
    """What sets the greatest size of a file in bytes, which is lifted at the end."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_finds_no_room_says_so_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    # torch's own last word is that a position was not expected.
    with limited() as limit, pytest.raises(OSError, match="too large"):
        limit(10_000)
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(100_000)})
    assert load_checkpoint(path)["step"] == 1


def test_other_errors_of_a_checkpoint_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(state: object, file: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RuntimeError, match="something else"):
        save_checkpoint(tmp_path / "last.pt", {})


# Less than a checkpoint; less than results.jsonl and TensorBoard's file, which a thread writes, have already.
@pytest.mark.parametrize("size", [20_000, 100])
def test_a_training_stops_with_one_message_and_goes_on_when_there_is_room(
    size: int, tiny: type, make_config: Callable[..., TrainConfig], tmp_path: Path, quiet: Console
) -> None:
    whole = train(make_config(tmp_path / "whole", checkpoint_every=2), console=quiet)
    config = make_config(tmp_path / "run", checkpoint_every=2)
    run = prepare(config, open_folder(config), make_fabric(config.run))
    with limited() as limit:
        call_at_step(run, 4, lambda: limit(size))
        with pytest.raises(NotWritten, match="run cannot be written to any more: .*Make room there"):
            run.fit(quiet)
    assert load_checkpoint(run.folder.last)["step"] == 4 and not run.folder.lock.held
    assert_same_run(whole, train(config, console=quiet))


def test_curves_that_cannot_be_closed_do_not_hide_what_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Console
) -> None:
    really = SummaryWriter.close

    def close(self: SummaryWriter) -> None:
        really(self)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "close", close)
    with pytest.raises(NotWritten, match="No space"), Journal(RunFolder(tmp_path), quiet, start=0, max_steps=1):
        pass
    with pytest.raises(KeyError), Journal(RunFolder(tmp_path), quiet, start=0, max_steps=1):
        raise KeyError


def test_an_error_of_the_console_is_not_told_as_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Console
) -> None:
    def leave(self: ProgressDisplay, *_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(ProgressDisplay, "__exit__", leave)
    with pytest.raises(BrokenPipeError), Journal(RunFolder(tmp_path), quiet, start=0, max_steps=1):
        pass


def test_the_command_ends_with_the_message_alone(
    make_config: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(self: RunFolder, row: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "append", full)
    config = make_config(tmp_path / "run", "source-only")
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert cli.main(["train", "source-only", "--config", str(file), "--out", str(config.out)]) == 2
    said = capfd.readouterr().err
    assert "dynconv: error: the run folder" in said and "No space left on device" in said
    assert "Traceback" not in said

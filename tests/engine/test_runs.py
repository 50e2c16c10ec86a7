"""`dynconv runs`: every state that a run folder can be in."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dynconv import cli
from dynconv.engine.config import TrainConfig
from dynconv.engine.lock import RunLock
from dynconv.engine.meter import Diverged
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.runs import state_of, survey
from dynconv.engine.train import make_fabric, open_folder, prepare, train

Make = Callable[..., TrainConfig]


def stopped(config: TrainConfig, step: int) -> RunFolder:
    """A run that ended, without a word, at the beginning of the step after `step` finished ones."""
    run = prepare(config, open_folder(config), make_fabric(config.run))
    begin = run.method.begin_step

    def begin_step(current: int, max_steps: int) -> None:
        if current == step:
            raise RuntimeError("killed")
        begin(current, max_steps)

    run.method.begin_step = begin_step
    with pytest.raises(RuntimeError, match="killed"):
        run.fit(Console(quiet=True))
    return RunFolder(config.out)


def test_a_done_and_an_unfinished_run_are_told_with_what_came_out(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    done = train(make_config(tmp_path / "a" / "done", seed=3), console=quiet)
    found = state_of(done.path)
    assert (found.state, found.note, found.method, found.task, found.seed) == ("done", "", "tiny", "one+two-three", 3)
    assert (found.step, found.max_steps) == (12, 12)
    selected = done.read_done()["selected"]
    for rule in ("last", "source-val", "label-free"):
        assert found.target_test[rule] == selected[rule]["target-test/three/accuracy"]
    last = selected["last"]
    expected = (last["source-val/one/accuracy"] + last["source-val/two/accuracy"]) / 2
    assert found.source_val == pytest.approx(expected)
    assert "oracle" not in found.target_test

    part = stopped(make_config(tmp_path / "b", max_steps=None, epochs=20), 9)
    found = state_of(part.path)
    assert (found.state, found.note, found.step) == ("unfinished", "", 9)
    assert found.max_steps == json.loads(part.environment.read_text())[0]["max_steps"] > 20
    assert found.target_test["last"] == part.rows()[-1]["target-test/three/accuracy"]
    # Rows come every third and fourth step.
    assert state_of(stopped(make_config(tmp_path / "d", checkpoint_every=5), 5).path).step == 5
    shutil.rmtree(tmp_path / "d")
    begun = stopped(make_config(tmp_path / "c"), 2)
    found = state_of(begun.path)
    assert (found.state, found.note) == ("unfinished", "no checkpoint yet")
    assert found.target_test == dict.fromkeys(("last", "source-val", "label-free")) and found.source_val is None
    # The last written comes first, wherever it lies.
    os.utime(done.done, (2e9, 2e9))
    assert [run.run for run in survey(tmp_path)] == [str(done.path), str(begun.path), str(part.path)]
    assert [run.run for run in survey(done.path)] == [str(done.path)]


def test_a_diverged_run_is_told_as_such_until_it_starts_again(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    config = make_config(tmp_path / "run", options=tiny.config_class(fail_at=4))
    with pytest.raises(Diverged) as caught:
        train(config, console=quiet)
    found = state_of(config.out)
    assert (found.state, found.note) == ("diverged", str(caught.value).removesuffix("."))
    assert "at step 5" in found.note
    folder = RunFolder(config.out)
    folder.last.rename(folder.previous)
    assert state_of(config.out).note == f"{found.note}; last.pt is not there; previous.pt is whole"
    folder.previous.rename(folder.last)
    prepare(config, open_folder(config), make_fabric(config.run))
    assert state_of(config.out).state == "unfinished"


def test_a_run_that_a_process_trains_is_running(tmp_path: Path, tiny: type, make_config: Make) -> None:
    folder = stopped(make_config(tmp_path / "run"), 9)
    with RunLock(folder.lock.path):
        found = state_of(folder.path)
        assert (found.state, found.note.split(" on ")[0]) == ("running", f"process {os.getpid()}")
        assert found.target_test["last"] is not None
    assert state_of(folder.path).state == "unfinished"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_every_kind_of_damage_is_told_and_hides_no_other_run(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    whole = stopped(make_config(tmp_path / "whole"), 9)

    def fresh(name: str) -> RunFolder:
        shutil.copytree(whole.path, tmp_path / name)
        return RunFolder(tmp_path / name)

    fresh("config").config.write_text("method: [")
    fresh("method").config.write_text("method: dtr\n")
    fresh("none").config.unlink()
    with fresh("rows").results.open("a") as file:
        file.write("broken\n")
    fresh("done").done.write_text("{}")
    fresh("env").environment.write_text("[")
    both = fresh("both")
    cut(both.last)
    cut(both.previous)
    for name in ("tmp", "tensorboard"):
        (tmp_path / name).mkdir()
    found = {Path(run.run).name: run for run in survey(tmp_path)}
    damaged = {name: run.note for name, run in found.items() if run.state == "damaged"}
    expected = {
        "config": "config.yaml is not valid YAML",
        "method": "unknown method 'dtr'",
        "none": "cannot read the configuration",
        "rows": "results.jsonl, line",
        "done": "no selected rows",
        "both": "no whole checkpoint: ",
    }
    assert damaged.keys() == expected.keys()
    for name, words in expected.items():
        assert words in damaged[name]
    # env.json is needed where --epochs was given alone.
    assert {name for name, run in found.items() if run.state == "unfinished"} == {"whole", "env"}
    cut(whole.last)
    again = state_of(whole.path)
    assert (again.state, again.note) == ("unfinished", "last.pt was cut off; previous.pt is whole")
    whole.last.unlink()
    assert state_of(whole.path).note == "last.pt is not there; previous.pt is whole"


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, tiny: type, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(make_config(tmp_path / "run"), 2)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = {Path(run.run).name: (run.state, run.note) for run in survey(tmp_path)}
    assert found["closed"] == ("damaged", "cannot be read: Permission denied")
    assert found["run"][0] == "unfinished"


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    train(make_config(tmp_path / "runs" / "done"), console=quiet)
    stopped(make_config(tmp_path / "runs" / "bad"), 9).config.write_text("[1]")
    assert cli.main(["runs", str(tmp_path / "runs")]) == 0
    table = capsys.readouterr().out
    for words in ("2 runs, 1 done", "one+two-three", "12/12", "damaged: ", "tiny"):
        assert words in " ".join(table.split())
    assert cli.main(["runs", str(tmp_path / "runs" / "done")]) == 0
    assert "1 run, 1 done" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["runs", str(tmp_path / "runs"), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["state"], second["state"], second["step"]) == ("damaged", "done", 12)
    assert second["target_test"].keys() == {"last", "source-val", "label-free"}
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    (tmp_path / "empty").mkdir()
    assert cli.main(["runs", "empty"]) == 0
    assert capsys.readouterr().out == "no run below empty\n"
    assert cli.main(["runs", "empty", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert cli.main(["runs", "none"]) == 2
    assert "none is no folder" in capsys.readouterr().err

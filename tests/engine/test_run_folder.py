from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynconv.engine.run_folder import RunFolder, write_atomically


def test_rows_are_appended_and_read_in_order(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.rows() == []
    for step in (1, 2):
        folder.append({"step": step, "value": 0.1})
    assert folder.rows() == [{"step": 1, "value": 0.1}, {"step": 2, "value": 0.1}]


def test_a_line_cut_off_by_a_kill_is_dropped_and_the_next_row_stands_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append({"step": 1})
    with folder.results.open("a") as file:
        file.write('{"step": 2, "val')
    assert folder.rows() == [{"step": 1}]
    folder.drop_rows_after(1)
    folder.append({"step": 2})
    assert folder.rows() == [{"step": 1}, {"step": 2}]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.results.write_text('{"step": 1}\nbroken\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        folder.rows()


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append({"step": step})
        folder.append_training({"step": step, "loss": 0.5})
    folder.drop_rows_after(2)
    assert folder.rows() == [{"step": 1}, {"step": 2}]
    assert folder.training_rows() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}]
    folder.training.write_text("broken\n")
    with pytest.raises(ValueError, match="training.jsonl, line 1"):
        folder.drop_rows_after(2)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def broken(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_a_start_without_a_checkpoint_keeps_no_row(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (0, 1):
        folder.append({"step": step})
    folder.drop_rows_after(0)
    assert folder.rows() == [{"step": 0}]
    folder.drop_rows_after(-1)
    assert folder.rows() == []


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        events.append(f"replace {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(tmp_path / "file", "new")
    assert events == ["fsync file.tmp", "replace file", f"fsync {tmp_path.name}"]

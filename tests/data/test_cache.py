from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynconv.data.cache import Arrays, cache_root, cached, stamp


@pytest.fixture
def make() -> Callable[[], Arrays]:
    """A maker whose every call returns another number, so that a hit and a miss differ."""
    calls = iter(range(100))
    return lambda: {"values": np.full((64, 64), next(calls), dtype=np.int64)}


def value(arrays: Arrays) -> int:
    return int(arrays["values"][0, 0])


def test_a_second_call_reads_what_the_first_wrote(tmp_path: Path, make: Callable[[], Arrays]) -> None:
    assert value(cached(tmp_path, "x", {"seed": 0}, make)) == 0
    again = cached(tmp_path, "x", {"seed": 0}, make)
    assert value(again) == 0
    assert set(again) == {"values"}
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"], "no temporary file is left"


def test_another_recipe_is_another_file(tmp_path: Path, make: Callable[[], Arrays]) -> None:
    cached(tmp_path, "x", {"seed": 0}, make)
    assert value(cached(tmp_path, "x", {"seed": 1}, make)) == 1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "other recipe"])
def test_a_damaged_file_is_reported_and_made_again(
    damage: str, tmp_path: Path, make: Callable[[], Arrays], caplog: pytest.LogCaptureFixture
) -> None:
    cached(tmp_path, "x", {"seed": 0}, make)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not an archive")
    else:
        cached(tmp_path / "other", "x", {"seed": 1}, make)
        next((tmp_path / "other").iterdir()).replace(path)
    with caplog.at_level(logging.WARNING):
        renewed = value(cached(tmp_path, "x", {"seed": 0}, make))
    assert renewed > 0
    assert f"{path} is damaged" in caplog.text
    assert value(cached(tmp_path, "x", {"seed": 0}, make)) == renewed, "the damaged file was replaced"


def test_a_write_that_fails_leaves_no_file_behind(
    tmp_path: Path, make: Callable[[], Arrays], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with caplog.at_level(logging.WARNING):
        assert value(cached(tmp_path, "x", {}, make)) == 0
    assert "no space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_cache_folder_is_the_argument_then_the_variable_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNCONV_CACHE", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    assert cache_root(None) == tmp_path / "named"
    monkeypatch.delenv("DYNCONV_CACHE")
    assert cache_root(None) == tmp_path / "xdg" / "dynconv"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root(None) == Path.home() / ".cache" / "dynconv"


def test_a_stamp_changes_with_any_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    second.write_text("2")
    before = stamp([first, second])
    assert stamp([second, first]) == before
    second.write_text("22")
    assert stamp([first, second]) != before

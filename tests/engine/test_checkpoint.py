from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import pickle
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from dynconv.engine.checkpoint import (
    FORMAT,
    UnusableCheckpoint,
    check_optimisers,
    check_weights,
    is_sealed,
    load_checkpoint,
    random_state,
    random_states,
    save_checkpoint,
    set_random_state,
    set_random_states,
)

CPU = torch.device("cpu")


def draws() -> list[float]:
    # The normal draws leave half of a pair in Python's and NumPy's generators.
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]


def test_all_generators_go_on_where_the_file_left_them(tmp_path: Path) -> None:
    draws()
    save_checkpoint(tmp_path / "a.pt", {"random": random_states()})
    expected = draws()
    assert draws() != expected
    assert set_random_states(load_checkpoint(tmp_path / "a.pt")["random"], CPU) == []
    assert draws() == expected


def test_a_checkpoint_of_another_number_of_processes_is_told() -> None:
    first = random_state()
    expected = draws()
    (note,) = set_random_states([first, random_state()], CPU)
    assert "2 processes" in note and "one of 1" in note
    assert draws() == expected


def test_a_checkpoint_of_other_cuda_devices_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {**random_state(), "cuda": [torch.zeros(3), torch.ones(3)]}
    restored: list[tuple[int, torch.Tensor]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: restored.append((device, value)))
    (note,) = set_random_states([state], torch.device("cuda"))
    assert "2 CUDA devices" in note and "has 1" in note
    assert len(restored) == 1 and restored[0][0] == 0 and torch.equal(restored[0][1], torch.zeros(3))
    assert set_random_states([state], CPU) == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert set_random_states([state], torch.device("cuda")) == []


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"step": 1})

    def broken(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("links", [True, False])
def test_at_every_moment_of_a_save_there_is_a_whole_checkpoint(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    originals = {name: getattr(os, name) for name in ("fsync", "replace", "link")}
    left = 0

    def stopping(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Stopped
            if name == "link" and not links:
                raise OSError("no hard links")
            return originals[name](*args, **kwargs)

        return call

    for name in originals:
        monkeypatch.setattr(os, name, stopping(name))
    save_checkpoint(last, {"step": 1}, keep=previous)
    assert not previous.exists()
    # The folder may hold what a kill left, so every moment comes after every other.
    for moment in (*range(1, 6), *range(5, 0, -1), 1, 3, 5):
        step = max(load_checkpoint(path)["step"] for path in (last, previous) if path.exists())
        left = moment
        # A save that has no file to keep has fewer moments.
        with contextlib.suppress(Stopped):
            save_checkpoint(last, {"step": step + 1}, keep=previous)
        left = 0
        found = [load_checkpoint(path)["step"] for path in (last, previous) if path.exists()]
        assert found and set(found) <= {step - 1, step, step + 1} and max(found) >= step
        if links:
            assert last.exists()
    for step in (100, 101):
        save_checkpoint(last, {"step": step}, keep=previous)
    assert [load_checkpoint(path)["step"] for path in (last, previous)] == [101, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    path = tmp_path / "a.pt"
    save_checkpoint(path, {"step": Evil()})
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)


def test_a_missing_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    save_checkpoint(tmp_path / "tensor.pt", torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Tensor"):
        load_checkpoint(tmp_path / "tensor.pt")
    torch.save({"step": 1}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"foreign.pt cannot be read as a checkpoint.*no checkpoint of dynconv"):
        load_checkpoint(tmp_path / "foreign.pt")
    save_checkpoint(tmp_path / "part.pt", {"step": 1})
    with pytest.raises(ValueError, match=r"part.pt is no checkpoint of a run: it lacks method, meter"):
        load_checkpoint(tmp_path / "part.pt", required=("step", "method", "meter"))


def test_torch_reads_the_file_as_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"weights": torch.arange(1000)})
    for mmap in (False, True):
        assert torch.equal(torch.load(path, weights_only=True, mmap=mmap)["weights"], torch.arange(1000))


def test_a_file_cut_off_or_changed_anywhere_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"weights": torch.arange(100), "step": 3})
    whole = path.read_bytes()
    assert is_sealed(path) and load_checkpoint(path)["step"] == 3
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("it was read"))
    for size in (0, 1, 60, len(whole) // 2, len(whole) - 80, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert not is_sealed(path)
        with pytest.raises(UnusableCheckpoint, match="cut off"):
            load_checkpoint(path)
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UnusableCheckpoint, match="damaged|cut off|format"):
            load_checkpoint(path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(UnusableCheckpoint):
        load_checkpoint(path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"step": 3})
    whole = path.read_bytes()
    payload = whole[: whole.rindex(b"\ndynconv")]
    seal = f"\ndynconv checkpoint {FORMAT:04d} {hashlib.sha256(payload).hexdigest()}\n".encode()
    assert whole == payload + seal
    path.write_bytes(payload + seal.replace(b" %04d " % FORMAT, b" %04d " % (FORMAT + 1)))
    with pytest.raises(UnusableCheckpoint, match=f"format {FORMAT + 1}.*reads format {FORMAT}"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    fitting = module.state_dict()
    check_weights(tmp_path, fitting, module)
    wrong = {**fitting, "0.weight": torch.zeros(5, 3), "2.weight": torch.zeros(1)}
    del wrong["1.bias"]
    with pytest.raises(UnusableCheckpoint) as error:
        check_weights(tmp_path, wrong, module)
    for words in ("1.bias is missing", "2.weight is unknown", "0.weight is (5, 3) in it, (4, 3) here"):
        assert words in str(error.value)
    with pytest.raises(UnusableCheckpoint, match="and 3 more"):
        check_weights(tmp_path, {}, nn.Sequential(*(nn.Linear(1, 1) for _ in range(4))))


def test_optimisers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    module = nn.Linear(3, 4)
    adam = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    adam.step()
    fitting = {"all": adam.state_dict()}
    check_optimisers(tmp_path, fitting, {"all": adam})
    with pytest.raises(UnusableCheckpoint, match="heads is missing, all is unknown"):
        check_optimisers(tmp_path, fitting, {"heads": adam})
    more = torch.optim.Adam([*module.parameters(), *nn.Linear(1, 1).parameters()])
    with pytest.raises(UnusableCheckpoint, match=r"groups of \[2\] parameters in it, of \[4\] here"):
        check_optimisers(tmp_path, fitting, {"all": more})
    wrong = copy.deepcopy(fitting)
    wrong["all"]["state"][1]["exp_avg"] = torch.zeros(5)
    with pytest.raises(UnusableCheckpoint, match=r"all: exp_avg 1 is \(5,\) in it, \(4,\) here"):
        check_optimisers(tmp_path, wrong, {"all": adam})


def test_a_single_process_saves_its_own_generators_alone() -> None:
    (state,) = random_states()
    expected = draws()
    set_random_state(state)
    assert draws() == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_every_process_goes_on_with_its_own_generators(tmp_path: Path) -> None:
    """Two processes save together; each finds its own state again, and a third place none."""

    def process(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=rank, world_size=2)
        torch.manual_seed(rank)
        states = random_states()
        expected = draws()
        other = draws()
        notes = set_random_states(states, CPU)
        found = draws()
        fewer = set_random_states(states[:1], CPU)
        results = [notes == [], found == expected != other, len(states) == 2, "of 1 processes" in fewer[0]]
        # Rank 1 has no state there and stays where it is; rank 0 begins again.
        results.append((draws() == expected) == (rank == 0))
        (tmp_path / f"rank{rank}").write_text(str(results))
        dist.destroy_process_group()

    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                process(rank)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text() == str([True] * 5)

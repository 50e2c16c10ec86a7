"""A training killed by SIGKILL, wherever it is, and started again ends as one that was never stopped.

The commands are real ones, each in a process of its own (see fork_server.py): what a kill leaves is what is on the
disk, and the lock of the run folder is released by the kernel or not at all.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fork_server
import pytest
from same_run import assert_same_run

from dynconv.engine.run_folder import RunFolder
from dynconv.engine.runs import state_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")

# Dropout in the discriminators, a selection of target images, and checkpoints between evaluations: the random state, a
# method's state and rows younger than the checkpoint all count.
TRAIN = shlex.split(
    "train gsda --levels class --hidden-features 16 --num-layers 2 --bottleneck 8 --confidence 0.4 --selection-every 5 "
    "--max-steps 12 --batch-size 6 --checkpoint-every 2 --eval-every 3 --log-every 2 --device cpu"
)

Run = Callable[[Path, dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Start or go on with the training in a folder, with a kill or {}; gives status and seconds."""
    log = tmp_path_factory.mktemp("kill") / "log"
    data = ["--source", f"one={domains / 'one'}", f"two={domains / 'two'}", "--target", f"three={domains / 'three'}"]
    with subprocess.Popen(
        # Without the folder of the tests in its path: it holds names such as data and models.
        [sys.executable, "-P", fork_server.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def request(out: Path, kill: dict[str, Any]) -> dict[str, Any]:
            words = [*TRAIN, *data, "--out", str(out)]
            log.write_text("")
            print(json.dumps({"args": words, "log": str(log), "kill": kill}), file=server.stdin, flush=True)
            found = json.loads(server.stdout.readline())
            assert found["status"] in (0, -9), log.read_text()
            assert "Traceback" not in log.read_text()
            return found

        yield request
        server.stdin.close()


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, float]:
    """A run that was never stopped, and how long it took."""
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    found = run(folder.path, {})
    assert found["status"] == 0
    assert len({row["selected/share"] for row in folder.training_rows() if "selected/share" in row}) > 0
    return folder, found["seconds"]


def check_whole(folder: RunFolder, whole: RunFolder) -> None:
    """The run is finished as if never stopped, and nothing of the kills is left."""
    assert_same_run(whole, folder)
    assert state_of(folder.path).state == "done"
    assert not list(folder.path.rglob("*.tmp"))


def go_on(run: Run, whole: RunFolder, out: Path, kills: Sequence[dict[str, Any]]) -> int:
    """Train with one kill after the other, and then to the end; gives how many came before it."""
    statuses = [run(out, kill)["status"] for kill in kills]
    assert run(out, {})["status"] == 0
    check_whole(RunFolder(out), whole)
    return statuses.count(-9)


def test_a_run_killed_three_times_ends_as_one_never_stopped(
    run: Run, whole: tuple[RunFolder, float], tmp_path: Path
) -> None:
    draw = random.Random(0)
    kills = [
        {"when": str(tmp_path / "run" / "env.json"), "after": draw.uniform(0, 0.05)},
        {"within": draw.randint(3, 6)},
        {"before": draw.randint(20, 40)},
    ]
    assert go_on(run, whole[0], tmp_path / "run", kills) == 3


@pytest.mark.slow
def test_runs_killed_twenty_times_and_more_end_as_one_never_stopped(
    run: Run, whole: tuple[RunFolder, float], tmp_path: Path
) -> None:
    draw = random.Random(1)
    killed = runs = 0
    while killed < 20:
        out = tmp_path / f"run{runs}"
        # Where the file is there from an earlier start, the kill comes at once.
        files = ("checkpoints/last.pt.tmp", "checkpoints/previous.pt", "results.jsonl", "config.yaml.tmp", "lock")
        kills = []
        for _ in range(4):
            kind = draw.choice(("within", "before", "after", "when"))
            kills.append(
                {
                    "within": {"within": draw.randint(1, 8)},
                    "before": {"before": draw.randint(1, 60)},
                    "after": {"after": draw.uniform(0, 1) * whole[1]},
                    "when": {"when": str(out / draw.choice(files)), "after": draw.uniform(0, 0.01)},
                }[kind]
            )
        killed += go_on(run, whole[0], out, kills)
        runs += 1


@pytest.mark.slow
def test_there_is_no_moment_at_which_a_kill_does_harm(run: Run, whole: tuple[RunFolder, float], tmp_path: Path) -> None:
    number, status = 1, -9
    while status == -9:
        out = tmp_path / str(number)
        status = run(out, {"before": number})["status"]
        assert run(out, {})["status"] == 0
        check_whole(RunFolder(out), whole[0])
        # The moments repeat from checkpoint to checkpoint: all of the beginning, then every seventh.
        number += 1 if number < 24 else 7
    assert number > 60

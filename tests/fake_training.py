"""Trainings that take no time, for tests of what starts and gathers them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dynconv.report.reproduction import reproduce

Plan = Callable[..., list[str]]

# What a training leaves behind, as far as `reproduce` looks at it; other words before "done" say what else it does.
SCRIPT = """
import json, os, pathlib, signal, sys, time
words = sys.argv[1:]
out, file = pathlib.Path(words[words.index("--out") + 1]), pathlib.Path(words[words.index("--config") + 1])
plan = json.loads(pathlib.Path(os.environ["PLAN"]).read_text())
what = next((what for place, what in plan.items() if place in str(out)), "train")
out.mkdir(parents=True, exist_ok=True)
(out / "config.yaml").write_text(file.read_text())
with open(os.environ["PLAN"] + ".log", "a") as log:
    log.write(f"{out} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "diverge":
    (out / "diverged").write_text("a loss is nan")
    sys.exit(1)
if what == "stop":
    sys.exit(130)
if what == "fail":
    print("no such data", file=sys.stderr)
    sys.exit(2)
if what == "wait":
    # As a training: on the first interrupt a checkpoint, then exit code 130.
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
    print("waits", file=sys.stderr, flush=True)
    limit = time.monotonic() + 30
    while not stopped and time.monotonic() < limit:
        time.sleep(0.01)
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "last.pt").touch()
    sys.exit(130)
last = {"step": 10, "epoch": 1.0, "seconds": 90.0, "config_hash": "abc"}
last |= {"source-test/a/accuracy": 0.9, "target-test/b/accuracy": 0.5}
start = {"versions": {"torch": "2.10"}, "git": None, "hardware": {"cpu": "x", "threads": 1}}
(out / "env.json").write_text(json.dumps([start]))
# At once, as a training writes it: whoever started this looks at it meanwhile.
(out / "writing").write_text(json.dumps({"config_hash": "abc", "selected": {"last": last}}))
(out / "writing").rename(out / "done")
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Trainings that take no time: `plan(place=what)` says what those do whose folder has `place` in its name; called
    again without words it tells which ran since, with their GPU."""
    script, file = tmp_path / "train.py", tmp_path / "plan.json"
    script.write_text(SCRIPT)
    monkeypatch.setenv("PLAN", str(file))
    monkeypatch.setattr(reproduce, "train_command", lambda method, *words: [sys.executable, str(script), *words])
    # They need no data.
    monkeypatch.setattr(reproduce, "check_data", lambda runs: None)

    def say(**whats: str) -> list[str]:
        file.write_text(json.dumps({place.replace("_", "/"): what for place, what in whats.items()}))
        log = file.with_name(file.name + ".log")
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return say

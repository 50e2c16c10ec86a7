"""How each run was made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from dynconv.report.collect import FoundRun
from dynconv.report.page.document import Facts, Line, Section, Table
from dynconv.report.table import counted


def provenance(runs: Sequence[FoundRun]) -> tuple[Table, tuple[Section, ...]]:
    """A table of all runs, and below it a section for each with its command, versions and hardware."""
    lines = []
    sections = []
    for run in runs:
        start = run.starts[-1] if run.starts else {}
        git = start.get("git") or {}
        commit = f"{git['commit'][:10]}{' (dirty)' if git['dirty'] else ''}" if git else ""
        state = "finished" if run.done is not None else "not finished"
        made = (str(run.step), _time(run.seconds), str(len(run.starts)), commit)
        lines.append(Line((run.name, run.config.hash, state, *made)))
        sections.append(Section(run.name, (Facts(tuple(_made(run, start))),), folded=True))
    table = Table(
        "Runs",
        ("run", "config hash", "state", "steps", "time", "starts", "commit"),
        tuple(lines),
        ("Starts: 1 and the number of resumes. Dirty: files differed from the commit.",),
        words=3,
    )
    return table, tuple(sections)


def _made(run: FoundRun, start: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("folder", str(run.folder.path)), ("configuration", run.config.hash)]
    if not start:
        return facts
    versions = ", ".join(f"{name} {version}" for name, version in (start.get("versions") or {}).items() if version)
    hardware = start.get("hardware") or {}
    devices = ", ".join(hardware.get("cuda_devices") or []) or "no CUDA device"
    threads, cores = (counted(hardware.get(name, 0), name.removesuffix("s")) for name in ("threads", "cores"))
    machine = f"{hardware.get('cpu')}, {threads} of {cores}; {devices}"
    git = start.get("git")
    commit = "not run from a git checkout" if not git else git["commit"] + (", dirty" if git["dirty"] else "")
    # What the method said of itself when the run began: weights that were left out, defaults that did not fit.
    notice = [("notice", str(start["notice"]))] if start.get("notice") else []
    return [
        *facts,
        *notice,
        ("command", shlex.join(map(str, start.get("command") or []))),
        ("versions", versions),
        ("hardware", machine),
        ("platform", str(hardware.get("platform", ""))),
        ("commit", commit),
    ]


def _time(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))

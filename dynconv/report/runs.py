"""What `dynconv runs` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dynconv.engine.runs import HONEST, RunState
from dynconv.report.table import named, percent
from dynconv.report.words import metrics_of

STYLES = {"done": "green", "running": "cyan", "unfinished": "yellow", "diverged": "red", "damaged": "red"}


def runs_table(runs: Sequence[RunState], root: Path) -> Group:
    """One line per run below `root`, in their order; figures in per cent. The notes follow, each on a line."""
    finished = sum(run.state == "done" for run in runs)
    table = Table(
        title=f"{root}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}, {finished} done",
        caption=f"{metrics_of(run.metric for run in runs)} in %; source-val: held-out source images at the last "
        "evaluation; target: test images at the evaluation that each rule chooses",
        # Ten columns: rules between them would take the width of one.
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    notes = []
    for name in ("run", "method", "task"):
        table.add_column(name, overflow="fold")
    for name in ("seed", "step"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("source\nval", *("target\n" + rule.replace("-", "\n") for rule in HONEST)):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        state = Text(run.state, style=STYLES[run.state])
        steps = f"{run.step}/{'?' if run.max_steps is None else run.max_steps}"
        seed = "-" if run.seed is None else str(run.seed)
        scores = (run.source_val, *(run.target_test[rule] for rule in HONEST))
        cells = ["-" if value is None else percent(value) for value in scores]
        path = Path(run.run)
        name = str(path.relative_to(root)) if path != root and path.is_relative_to(root) else run.run
        words = (Text(name), Text("-" if run.method is None else named(run.method)), Text(run.task or "-"))
        table.add_row(*words, seed, steps, state, *cells)
        if run.note:
            notes.append(Text.assemble(f"{name}: ", (run.state, STYLES[run.state]), f": {run.note}"))
    return Group(table, *notes)

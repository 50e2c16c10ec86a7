"""Train what is not finished of a recipe's runs, and make its table of the finished ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from dynconv.engine.launch import INTERRUPTED, exit_words, run_commands, train_command
from dynconv.engine.run_folder import write_atomically
from dynconv.recipes import RECIPES, Recipe
from dynconv.report.reproduction.options import ReproduceOptions
from dynconv.report.reproduction.records import RUNS, keep, record, to_csv
from dynconv.report.reproduction.runs import RecipeRun, check_configurations, check_data, check_order, recipe_runs
from dynconv.report.reproduction.table import report

Line = Callable[[str], None]


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` made."""

    text: str
    """The table of the finished runs as Markdown, or the list of a dry run; empty where no run is finished."""
    failed: tuple[str, ...] = ()
    """The runs that this call gave up, each with the reason: "diverged", "interrupted", an exit code or a signal, or
    the run that it follows and that is not finished."""


def reproduce(options: ReproduceOptions, *, line: Line) -> Reproduction:
    """Train and report one table, as `options` say; what the runs say goes to `line`.

    The table is returned as Markdown and written to OUT/table.md, and its figures to OUT/table.csv, also where some
    runs failed.

    Raises:
        ValueError: A folder holds a run of another configuration (what differs is named), a run follows one that is
            neither finished nor among those to be trained (it is named), a set is not there that a run to be trained
            needs, or no run is finished and none failed.
        KeyboardInterrupt: The runs were interrupted; the same call goes on with them.
    """
    recipe, runs = planned(options)
    if options.dry_run:
        return Reproduction(_plan(recipe, runs))
    if not options.report_only:
        check_data(runs)
    made = train_and_report(recipe, runs, options, line, may_start=within(options.hours))
    if not made.text and not made.failed:
        raise ValueError(f"no finished run under {options.folder}")
    return made


def planned(options: ReproduceOptions) -> tuple[Recipe, list[RecipeRun]]:
    """The recipe of a TABLE and its runs, checked before the first is trained. Raises as `reproduce`."""
    recipe = RECIPES[str(options.table)]
    runs = recipe_runs(
        recipe,
        options.folder,
        seeds=options.seeds or recipe.seeds,
        tasks=options.tasks or tuple(recipe.tasks),
        labels=options.rows or tuple(row.label for row in recipe.rows),
        data_root=options.data_root,
        device=options.device,
    )
    check_configurations(runs)
    if not options.report_only:
        check_order(runs)
    return recipe, runs


def train_and_report(
    recipe: Recipe, runs: Sequence[RecipeRun], options: ReproduceOptions, line: Line, *, may_start: Callable[[], bool]
) -> Reproduction:
    """Train what is not finished of `runs`, each as long as it `may_start`, and make the table of those that are."""
    failed = () if options.report_only else _train(runs, options, line, may_start)
    records = [record(run.task, run.label, run.seed, run.folder, recipe.metric) for run in runs if run.finished]
    if not records:
        return Reproduction("", failed)
    text = report(recipe, records)
    if len(records) < len(runs):
        left = len(runs) - len(records)
        text += f"\n\n{_of(left, runs)} {'is' if left == 1 else 'are'} not finished and not in these tables."
    write_atomically(options.folder / "table.md", text + "\n")
    write_atomically(options.folder / "table.csv", to_csv(records))
    if options.keep is not None:
        keep(records, options.keep / RUNS / f"{recipe.name}.csv", recipe)
    return Reproduction(text, failed)


def within(hours: float | None) -> Callable[[], bool]:
    """What says, from now on, whether a run may still begin."""
    begun = time.monotonic()
    return lambda: hours is None or time.monotonic() - begun < 3600 * hours


def _of(part: int, runs: Sequence[RecipeRun]) -> str:
    return f"{part} of {len(runs)} {'run' if len(runs) == 1 else 'runs'}"


def _plan(recipe: Recipe, runs: Sequence[RecipeRun]) -> str:
    """What the recipe says of itself, and what a call would do with each run."""
    lines = [f"{recipe.name}: {recipe.source}"]
    lines += [f"{word}: {text}" for word, text in (("expect", recipe.expected), ("cost", recipe.cost))]
    lines += [f"needs: {recipe.needs}", ""]
    for run in runs:
        began = "go on" if run.began else "train"
        waits = "" if run.after is None or run.finished or run.began else f", after {run.after.folder.path}"
        lines.append(f"{'finished' if run.finished else began:8}  {run.folder.path}{waits}")
    left = sum(not run.finished for run in runs)
    return "\n".join([*lines, f"{_of(left, runs)} would be trained"])


def _train(
    runs: Sequence[RecipeRun], options: ReproduceOptions, line: Line, may_start: Callable[[], bool]
) -> tuple[str, ...]:
    """Train what is not finished; returns the runs that did not end, each with the reason."""
    left = [run for run in runs if not run.finished]
    if not left:
        return ()
    gpus = options.gpus or _visible_gpus(options)
    on = f", each on one of the GPUs {', '.join(gpus)}" if gpus else ""
    finished = _of(len(runs) - len(left), runs)
    line(f"{finished} finished; training {len(left)}, {options.at_a_time} at a time{on}")
    failed: dict[str, str] = {}
    folders = {run.name: run.folder for run in runs}

    def ended(name: str, code: int) -> None:
        if code:
            reason = "interrupted" if code == INTERRUPTED else exit_words(code)
            failed[name] = f"{name} ({'diverged' if folders[name].diverged.exists() else reason})"
        # A run that ends with code 0 is finished: `dynconv train` has no other way to say so.
        line(_progress(runs, len(failed), options.at_a_time))

    while left:
        # Those that follow others come after all of these.
        ready = {run.name: run for run in left if run.ready}
        left = [run for run in left if run.name not in ready]
        if not ready:
            followed = {run.name: run.after.name for run in left if run.after is not None}
            failed |= {name: f"{name} (not begun, for {after} is not finished)" for name, after in followed.items()}
            line(_progress(runs, len(failed), options.at_a_time))
            break
        commands = {name: _command(run) for name, run in ready.items()}
        started = run_commands(
            commands,
            parallel=options.at_a_time,
            threads=options.threads,
            gpus=gpus,
            line=line,
            ended=ended,
            may_start=may_start,
        )
        if waiting := len(commands) - len(started) + len(left) * (not may_start()):
            line(f"--hours {options.hours:g} are over: {_of(waiting, runs)} not begun; the same call goes on")
            break
    return tuple(failed.values())


def _command(run: RecipeRun) -> list[str]:
    # Beside the run folder, which a run insists on making itself.
    file = run.folder.path.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, run.config.to_yaml())
    return train_command(run.config.method, "--config", str(file), "--out", str(run.folder.path))


def _visible_gpus(options: ReproduceOptions) -> tuple[str, ...]:
    """The GPUs to share out where none were named: several runs would otherwise all compute on the first one."""
    if options.at_a_time == 1 or options.device == "cpu":
        return ()
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(named.split(",") if named else map(str, range(count)))[:count]


def _progress(runs: Sequence[RecipeRun], failed: int, at_a_time: int) -> str:
    """How far the table is, and how long it will take if the runs that are left take as long as the finished ones: of
    the same row and task where there are some."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        if (done := run.folder.read_done()) is not None:
            seconds.setdefault((run.task, run.label), []).append(done["selected"]["last"]["seconds"])
    every = [value for values in seconds.values() for value in values]
    text = f"{_of(len(every), runs)} finished" + (f", {failed} given up" if failed else "")
    left = [seconds.get((run.task, run.label), every) for run in runs if not run.finished]
    # Those that were given up will not be tried again in this call.
    if not every or len(left) <= failed:
        return text
    mean = fmean(fmean(values) for values in left)
    return f"{text}; about {_duration(mean * (len(left) - failed) / min(at_a_time, len(left) - failed))} to go"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"

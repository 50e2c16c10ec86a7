"""From run folders to a report: the data of it, then its three files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import dynconv
from dynconv.engine.run_folder import write_atomically
from dynconv.plots.trade_off import Change, save_trade_off
from dynconv.report.before import SOURCE_ONLY, STEP_0, Before, before
from dynconv.report.cited import asked_tables
from dynconv.report.collect import FoundRun, Unreadable, find_runs
from dynconv.report.groups import Grouping, group_runs, lost_starts
from dynconv.report.page.analyses import Seen, analyses
from dynconv.report.page.analysis import Analysis
from dynconv.report.page.document import Block, Figure, Line, Missing, Report, Section, Table
from dynconv.report.page.html import html
from dynconv.report.page.latex import latex
from dynconv.report.page.markdown import markdown
from dynconv.report.page.options import ReportOptions
from dynconv.report.page.provenance import provenance
from dynconv.report.page.results import model_of, results_tables
from dynconv.report.page.run_figures import class_iou_figures
from dynconv.report.page.run_section import run_section
from dynconv.report.page.summary import distance_table, measures_table, selection_table, source_table, validator_table
from dynconv.report.papers import matches
from dynconv.report.row_labels import with_row_labels
from dynconv.report.spread import both_sides
from dynconv.report.table import counted


def make_report(options: ReportOptions, *, line: Callable[[str], None]) -> list[Path]:
    """Write OUT/report.md, report.tex, report.html and figures/; progress goes to `line`.

    Returns:
        The three files.

    Raises:
        ValueError: A RUN that is not there or holds no run, or OUT cannot be written.
    """
    runs, unreadable = find_runs(options.runs)
    try:
        report = gather(runs, unreadable, options, line=line)
        written = []
        for name, write in (("report.md", markdown), ("report.tex", latex), ("report.html", html)):
            write_atomically(options.out / name, write(report, options.out))
            written.append(options.out / name)
    except OSError as error:
        raise ValueError(f"--out {options.out} cannot be written: {error}") from error
    return written


def gather(
    runs: Sequence[FoundRun],
    unreadable: Sequence[Unreadable],
    options: ReportOptions,
    *,
    line: Callable[[str], None],
) -> Report:
    """What the report says, with its figures drawn."""
    figures = options.out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    matched = {run.name: matches(run) for run in runs}
    grouping = with_row_labels(group_runs(runs), matched)
    rule = options.checkpoint
    starts = {run.name: before(run, runs, rule) for run in runs}
    found = analyses(runs, options, line=line)
    sections = []
    if grouping.groups:
        sections = [
            Section("Results", results_tables(grouping, matched, rule)),
            Section("Source and target", _both_sides(grouping, starts, found, rule, figures)),
            Section("Choice of models", tuple(filter(None, (selection_table(grouping), validator_table(grouping))))),
        ]
    if options.published:
        sections.append(Section("Published tables", asked_tables(options.published)))
    slugs = _slugs([run.name for run in runs])
    each = []
    for place, run in enumerate(runs, start=1):
        line(f"run {place} of {len(runs)}: figures of {run.name}")
        own = (starts[run.name], found[run.name], matched[run.name])
        each.append(run_section(run, *own, figures, rule=rule, slug=slugs[run.name]))
    table, made = provenance(runs)
    if each:
        sections.append(Section("Runs one by one", sections=tuple(each)))
        sections.append(Section("How the runs were made", (table,), made))
    if gaps := _gaps(runs, unreadable, grouping):
        sections.append(Section("Gaps", (gaps,)))
    finished = sum(run.done is not None for run in runs)
    judged = "accuracies" if grouping.metrics == "accuracy" else "figures"
    introduction = (
        f"{counted(finished, 'finished run')} of {len(runs) + len(unreadable)} found; dynconv {dynconv.__version__}. "
        f"Figures and the summary show {model_of(rule)} of each run. No target label trained a model, and none chose "
        f"the step of one but the oracle's; target {judged} are shown to judge. How the runs' settings were chosen is "
        "not in their folders: this report cannot know it.",
    )
    return Report(options.title, introduction, tuple(sections))


def _both_sides(
    grouping: Grouping,
    starts: dict[str, Before | None],
    found: dict[str, Seen | str],
    rule: str,
    figures: Path,
) -> tuple[Block, ...]:
    changes = []
    for group in grouping.groups:
        for task, by_seed in group.runs.items():
            for run in by_seed.values():
                after = both_sides(run.chosen(rule))
                start = starts[run.name]
                if start is None or run.config.method == SOURCE_ONLY:
                    # Training on the source alone adapts nothing: such a run is where others start.
                    earlier, untrained = None, False
                else:
                    earlier, untrained = both_sides(start.row), start.what == STEP_0
                if after is not None and not run.is_bound:
                    changes.append(Change(group.label, task, after, earlier, untrained))
    title = "Trade-off"
    plot: Block = Missing(title, "no run has figures of both sides")
    if changes:
        path = figures / "trade-off.png"
        save_trade_off(changes, path, grouping.metrics)
        runs = counted(len(changes), "run")
        metrics = grouping.metrics
        alt = f"Target test {metrics} over source test {metrics} of {runs}, arrows from before adaptation"
        plot = Figure(title, alt, path, _arrows(changes))
    distances = {name: each.a_distance for name, each in found.items() if isinstance(each, Analysis)}
    distance = distance_table(grouping, distances)
    blocks = (source_table(grouping, starts, rule), measures_table(grouping, starts, rule), plot, distance)
    classes = tuple(class_iou_figures(grouping, rule, figures))
    return (*(block for block in blocks if block is not None), *classes)


def _arrows(changes: Sequence[Change]) -> str:
    """What the arrows begin at."""
    trained = any(change.before is not None and not change.untrained for change in changes)
    untrained = any(change.before is not None and change.untrained for change in changes)
    start = "the classifier that the run's own adaptation began with, else at the source-only run of its task and seed"
    parts = [f"An arrow begins at {start}."] * trained
    parts += ["One from outside begins at the untrained network: the report has no such source-only run."] * untrained
    return " ".join(parts)


def _gaps(runs: Sequence[FoundRun], unreadable: Sequence[Unreadable], grouping: Grouping) -> Table | None:
    """Runs that the tables do not count, or do not put together with other seeds, and why; None where there is none."""
    lines = [(each.name, "damaged", each.reason) for each in unreadable]
    for run in runs:
        state = "not finished" if run.done is None else "finished"
        lines += [(run.name, state, reason) for reason in run.missing]
    for double, first in grouping.doubles:
        lines.append((double.name, "a double", f"the same configuration as {first.name}, which is counted"))
    for name, checkpoint in lost_starts([run for run in runs if run.done is not None]).items():
        reason = f"the run that it started from ({checkpoint}) cannot be read: its seeds are a group each"
        lines.append((name, "finished", reason))
    if not lines:
        return None
    shown = tuple(Line(cells) for cells in sorted(lines))
    return Table("What is missing", ("run", "state", "what is missing"), shown, words=3)


def _slugs(names: Sequence[str]) -> dict[str, str]:
    """File names made of the runs' names; two that would be the same get a number."""
    slugs: dict[str, str] = {}
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9._+=@-]+", "_", name).strip("._") or "run"
        taken = set(slugs.values())
        number = 2
        while slug in taken:
            slug, number = f"{slug.removesuffix(f'-{number - 1}')}-{number}", number + 1
        slugs[name] = slug
    return slugs

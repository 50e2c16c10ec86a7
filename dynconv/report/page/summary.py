"""Tables over all runs beside their results: the source before and after, choice of models, distance of domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import fmean

from dynconv.engine.selection import Row
from dynconv.metrics.names import SEGMENTATION_METRICS, in_words
from dynconv.report.before import Before
from dynconv.report.collect import FoundRun
from dynconv.report.groups import Grouping
from dynconv.report.page.document import Line, Table
from dynconv.report.spread import Spread, Value, average, column_of, per_cent, signed, source_per_cent, text_of
from dynconv.report.table import RULES

ORACLE = "oracle (looks at labels)"


def source_table(grouping: Grouping, starts: Mapping[str, Before | None], rule: str) -> Table:
    """What runs are judged by on the source's test images, before and after adaptation.

    Args:
        grouping: The finished runs.
        starts: Run name to what stands for "before".
        rule: Which of a run's models is "after".
    """
    lines = []
    for group in grouping.groups:
        cells, changes = [], []
        for task in grouping.tasks:
            after = column_of(group, task, lambda run: _of_source(run, run.chosen(rule)))
            earlier = column_of(group, task, lambda run: _of_source(run, _row(starts[run.name])))
            cells.append(_change(earlier, after))
            changes.append(_difference(earlier, after))
        there = [change for change in changes if change is not None]
        mean = signed(fmean(there)) if there and len(there) == len(group.runs) else ""
        what = ", ".join(sorted({start.described for run in group.all() if (start := starts[run.name]) is not None}))
        lines.append(Line((group.label, what, *cells, mean), first=True))
    return Table(
        f"Source {grouping.metrics} before and after",
        ("method", "before is", *grouping.tasks, "mean change"),
        tuple(lines),
        (
            f"Source test {grouping.metrics} in %, mean over the source domains and the seeds: before → after, and the "
            "change in points. Before is the classifier that the run's own adaptation begins with, where it trains or "
            "is given one; else the source-only run of the same task, seed and network where the report has it; else "
            "the network at step 0 of the run itself (from scratch that is chance).",
        ),
        words=2,
    )


def measures_table(grouping: Grouping, starts: Mapping[str, Before | None], rule: str) -> Table | None:
    """All measures of segmentation on both sides, before and after adaptation; None where no run is of segmentation.
    Arguments as of `source_table`."""
    sides: dict[str, Callable[..., float | None]] = {
        "source": _of_source,
        "target": lambda _run, row, metric: per_cent(row, "target-test", metric),
    }

    def earlier(run: FoundRun) -> Row | None:
        return _row(starts[run.name])

    def later(run: FoundRun) -> Row | None:
        return run.chosen(rule)

    lines = []
    for group in grouping.groups:
        for task in (task for task in grouping.tasks if task in group.runs):
            if all(run.metric != SEGMENTATION_METRICS[0] for run in group.runs[task].values()):
                continue
            for side, value in sides.items():
                cells = []
                for metric in SEGMENTATION_METRICS:
                    columns = (
                        column_of(group, task, partial(_measured, value, metric, row)) for row in (earlier, later)
                    )
                    cells.append(_change(*columns))
                lines.append(Line((group.label, task, side, *cells), first=side == "source"))
    if not lines:
        return None
    return Table(
        "Measures of segmentation",
        ("method", "task", "test images", *map(in_words, SEGMENTATION_METRICS)),
        tuple(lines),
        (
            "In %, mean over the seeds: before → after, and the change in points; before as in the table of the source "
            "above. The mean IoU is over the classes that occur in truth or prediction, the frequency-weighted IoU "
            "over the pixels of the truth, pixel accuracy the share of pixels that are right, and class accuracy its "
            "mean over the classes.",
        ),
        words=3,
    )


def selection_table(grouping: Grouping) -> Table:
    """What runs are judged by on the target's test images, of the model that each rule of selection chooses."""
    done = [run.done for group in grouping.groups for run in group.all() if run.done is not None]
    names = {str(each["label_free_validator"]) for each in done if "label_free_validator" in each}
    return Table(
        "Selection rules",
        ("method", "task", "last", "source-val", "label-free", ORACLE),
        _lines_by_task(grouping, {rule: partial(_chosen, rule) for rule in RULES}),
        (
            f"Target test {grouping.metrics} in % of the model that each rule chooses among a run's evaluations (step "
            "0 aside), mean ± standard deviation over seeds. label-free is by "
            f"{' or '.join(sorted(names)) or 'no validator'}. The oracle looks at the target's test labels: it shows "
            "what was possible and chooses no model.",
        ),
        words=2,
    )


def validator_table(grouping: Grouping) -> Table | None:
    """As `selection_table`, of the model that each validator would have chosen; None where no run says."""
    names = list(dict.fromkeys(name for group in grouping.groups for run in group.all() for name in run.validators))
    if not names:
        return None
    values = {name: partial(_preferred, name) for name in names}
    return Table(
        "What each validator would have chosen",
        ("method", "task", *names),
        _lines_by_task(grouping, values),
        (
            f"Target test {grouping.metrics} in % of the evaluation that each validator prefers; none of them sees a "
            "target label.",
        ),
        words=2,
    )


def _measured(
    value: Callable[..., float | None], metric: str, row: Callable[[FoundRun], Row | None], run: FoundRun
) -> float | None:
    return value(run, row(run), metric=metric)


def _chosen(rule: str, run: FoundRun) -> float | None:
    return per_cent(run.chosen(rule), "target-test")


def _preferred(validator: str, run: FoundRun) -> float | None:
    return per_cent(run.validators.get(validator), "target-test")


def _lines_by_task(grouping: Grouping, values: Mapping[str, Value]) -> tuple[Line, ...]:
    lines = []
    for group in grouping.groups:
        tasks = [task for task in grouping.tasks if task in group.runs]
        columns = {name: [column_of(group, task, value) for task in tasks] for name, value in values.items()}
        for place, task in enumerate(tasks):
            cells = [text_of(columns[name][place]) for name in values]
            lines.append(Line((group.label if place == 0 else "", task, *cells), first=place == 0))
        if len(tasks) > 1:
            lines.append(Line(("", "average", *(text_of(average(columns[name])) for name in values)), "average"))
    return tuple(lines)


def distance_table(grouping: Grouping, distances: Mapping[str, float]) -> Table | None:
    """Proxy A-distance of source and target; None where no run has one.

    Args:
        grouping: The finished runs.
        distances: By run name.
    """
    if not distances:
        return None
    lines = []
    for group in grouping.groups:
        columns = [column_of(group, task, lambda run: distances.get(run.name)) for task in grouping.tasks]
        texts = ["" if column is None else f"{column.mean:.2f}" for column in columns]
        if any(texts):
            lines.append(Line((group.label, *texts), first=True))
    return Table(
        "Distance of the domains",
        ("method", *grouping.tasks),
        tuple(lines),
        (
            "Proxy A-distance 2 (1 - 2 error) of source and target features, with the held-out error of a linear "
            "classifier that tells them apart: 2 where it never errs, 0 where it can but guess. Mean over seeds.",
        ),
    )


def _row(start: Before | None) -> Row | None:
    return None if start is None else start.row


def _of_source(run: FoundRun, row: Row | None, metric: str | None = None) -> float | None:
    """`source_per_cent` of a run's row; None of a bound, whose only source is the target."""
    return None if run.is_bound else source_per_cent(row, metric)


def _difference(earlier: Spread | None, after: Spread | None) -> float | None:
    """Mean over the seeds that have both."""
    if earlier is None or after is None:
        return None
    common = sorted(earlier.values.keys() & after.values.keys())
    return fmean(after.values[seed] - earlier.values[seed] for seed in common) if common else None


def _change(earlier: Spread | None, after: Spread | None) -> str:
    change = _difference(earlier, after)
    if earlier is None or after is None or change is None:
        return "" if after is None else f"→ {after.mean:.1f}"
    common = earlier.values.keys() & after.values.keys()
    one, two = (fmean(each.values[seed] for seed in common) for each in (earlier, after))
    return f"{one:.1f} → {two:.1f} ({signed(change)})"

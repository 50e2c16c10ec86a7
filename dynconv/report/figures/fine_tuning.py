"""How many labelled target images an adaptation is worth: fine-tuning from networks with and without it (GAM, section
5.4 and Fig. 6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dynconv.methods.target_only import TargetOnlyConfig
from dynconv.metrics.names import in_words
from dynconv.report.before import SOURCE_ONLY
from dynconv.report.collect import FoundRun, readable_runs
from dynconv.report.groups import Kind, kinds_of, tasks_of
from dynconv.report.spread import Spread, per_cent
from dynconv.report.started import configuration_started_from, started_from

COUNT, START = "target-only.labelled_images", "target-only.source_checkpoint"
SCRATCH = "from scratch"


@dataclass(frozen=True)
class BreakEven:
    """How many labelled images fine-tuning without transfer needs for what an adapted network reaches without any."""

    images: float
    relation: Literal["=", "<=", ">"] = "="
    """"<=" and ">" where that is beyond the counts that were run."""

    @property
    def text(self) -> str:
        """Rounded, for a table."""
        return {"=": "", "<=": "≤ ", ">": "> "}[self.relation] + f"{self.images:.0f}"

    @property
    def cell(self) -> str:
        """For a CSV file."""
        return {"=": "", "<=": "<=", ">": ">"}[self.relation] + f"{self.images:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class FineTuning:
    """Runs from one start on one task that differ in seed and labels alone. Figures are per cent of the target's test
    images after the last step."""

    task: str
    label: str
    setting: str
    """What beside the start was chosen: of two with the same setting the start alone makes the difference."""
    start: str | None
    """Method of the run that it starts from; None for none, or one that cannot be read."""
    metric: str
    """What the figures are: "accuracy", or "mean-iou" where every pixel has a class."""
    points: Mapping[int, Mapping[int, float]]
    """By number of labelled images, ascending, and seed."""
    without: Mapping[int, float]
    """By seed, before the first step: the start itself, on the same images. Empty where there is no start."""

    def counted(self) -> dict[int, Mapping[int, float]]:
        """`points`, below them `without` as those of 0 labelled images where there are some."""
        return ({0: self.without} if self.without else {}) | dict(self.points)

    def without_labels(self) -> Spread | None:
        """Of `without`; None where there is none."""
        return Spread(self.without) if self.without else None


def fine_tunings(runs: Sequence[FoundRun]) -> list[FineTuning]:
    """Finished runs of target-only with a number of labelled images, by task, start and all else but that number and
    the seed. Other runs, as those that these start from, are passed over.

    Raises:
        ValueError: None is there, or one is not finished, lacks its figure, or was given twice.
    """
    tuned = [run for run in runs if labelled_images(run)]
    if not tuned:
        raise ValueError(
            "RUN: expected runs of target-only with labelled_images, got those of "
            f"{', '.join(sorted({run.config.method for run in runs}))}; train some with `dynconv train target-only "
            "--source-checkpoint FILE --labelled-images N`"
        )
    kinds, settings = kinds_of(tuned, without=(COUNT,)), kinds_of(tuned, without=(COUNT, START))
    tasks, starts = tasks_of(runs), _starts_of(tuned)
    lines: dict[tuple[str, str], list[FoundRun]] = {}
    for run in tuned:
        lines.setdefault((tasks[run.name], kinds[run.name].key), []).append(run)
    found = [_line(task, same, starts[same[0].name], settings[same[0].name]) for (task, _), same in lines.items()]
    # What the others are held against stands above them.
    return sorted(found, key=lambda line: (line.task, line.start != SOURCE_ONLY, line.label))


def labelled_images(run: FoundRun) -> int:
    """How many a run of target-only was given; 0 for another run, and for one that learnt from all."""
    options = run.config.options
    return options.labelled_images if isinstance(options, TargetOnlyConfig) else 0


def _starts_of(tuned: Sequence[FoundRun]) -> dict[str, Kind | None]:
    """Run name to what the run is that it started from, labelled by its method alone where one kind of it is among
    them; None where there is none or it cannot be read."""
    folders: dict[str, Path] = {}
    for run in tuned:
        place = started_from(run.folder.path, run.config)
        if place is not None and configuration_started_from(run.folder.path, run.config) is not None:
            folders[run.name] = place.resolve()
    starts = readable_runs(sorted(set(folders.values())), "the start") if folders else []
    kinds = kinds_of(starts)
    of_method = Counter(kind.method for kind in set(kinds.values()))
    found = {}
    for start in starts:
        kind = kinds[start.name]
        found[start.folder.path.resolve()] = kind._replace(label=kind.method) if of_method[kind.method] == 1 else kind
    return {run.name: found[folders[run.name]] if run.name in folders else None for run in tuned}


def _line(task: str, same: Sequence[FoundRun], start: Kind | None, setting: Kind) -> FineTuning:
    points: dict[int, dict[int, float]] = {}
    without: dict[int, float] = {}
    for run in same:
        by_seed = points.setdefault(labelled_images(run), {})
        if run.seed in by_seed:
            raise ValueError(f"RUN {run.folder.path} is of the configuration and seed of another; give one of them")
        by_seed[run.seed] = _after(run)
        began = per_cent(run.step_zero, "target-test")
        if began is not None and run.config.options.source_checkpoint:
            # Runs of a seed start from the same network.
            without[run.seed] = began
    first = same[0]
    checkpoint = first.config.options.source_checkpoint
    label = f"from {start.label}" if start else f"from {checkpoint}" if checkpoint else SCRATCH
    # What differs beside the start stands behind the method's name.
    differing = f" ({', '.join(setting.differing)})" if setting.differing else ""
    return FineTuning(
        task,
        label + differing,
        setting.key,
        start.method if start else None,
        first.metric,
        dict(sorted(points.items())),
        dict(sorted(without.items())),
    )


def _after(run: FoundRun) -> float:
    # By the last step: what else chooses looks at more labels than were counted.
    row = run.chosen("last")
    if row is None:
        raise ValueError(f"RUN {run.folder.path} has no evaluation that counts: {'; '.join(run.missing)}")
    found = per_cent(row, "target-test")
    if found is None:
        raise ValueError(f"RUN {run.folder.path}: its rows lack the {in_words(run.metric)} on the target's images")
    return found


def no_transfer(line: FineTuning, found: Sequence[FineTuning]) -> FineTuning | None:
    """What `line` is held against: the fine-tuning of the source's network on the same task in the same way; None for
    that itself, and where there is none or more than one."""
    same = _without_transfer(line, found)
    return same[0] if len(same) == 1 and same[0] is not line else None


def _without_transfer(line: FineTuning, found: Sequence[FineTuning]) -> list[FineTuning]:
    return [
        other
        for other in found
        if (other.task, other.setting) == (line.task, line.setting) and other.start == SOURCE_ONLY
    ]


def several_bases(found: Sequence[FineTuning]) -> list[str]:
    """A sentence for each task on which more than one fine-tuning of a source's network could be what the others are
    held against, so that none is."""
    told = {}
    for line in found:
        bases = _without_transfer(line, found)
        if len(bases) > 1 and line.start != SOURCE_ONLY:
            labels = "; ".join(base.label for base in bases)
            told[line.task, line.setting] = (
                f"{line.task}: no gain and no break-even, for several without transfer match, {labels}; give the runs "
                "of one of them"
            )
    return list(told.values())


def gain(line: FineTuning, base: FineTuning | None, count: int) -> Spread | None:
    """By how many points `line` is above `base` with `count` labelled images, by each seed that both have; None where
    there is none."""
    if base is None:
        return None
    one, two = line.counted().get(count, {}), base.counted().get(count, {})
    common = {seed: value - two[seed] for seed, value in one.items() if seed in two}
    return Spread(common) if common else None


def break_even(line: FineTuning, base: FineTuning | None) -> BreakEven | None:
    """Where the means of `base` first reach what `line` reaches without labels; between two counts in proportion, in
    logarithms of these. 0 where `base` is there without labels; None without `base` or that figure."""
    reached = line.without_labels()
    if base is None or reached is None:
        return None
    start = base.without_labels()
    if start is not None and start.mean >= reached.mean:
        return BreakEven(0.0)
    means = [(count, Spread(values).mean) for count, values in base.points.items()]
    for place, (count, mean) in enumerate(means):
        if mean < reached.mean:
            continue
        if place == 0:
            return BreakEven(float(count), "<=")
        below, lower = means[place - 1]
        share = (reached.mean - lower) / (mean - lower)
        return BreakEven(math.exp(math.log(below) + share * math.log(count / below)))
    return BreakEven(float(means[-1][0]), ">")

"""What a run's accuracies were before adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynconv.engine.label_options import OF_SCENES
from dynconv.engine.selection import Row
from dynconv.methods.source_first import SourceFirstConfig
from dynconv.report.collect import FoundRun

SOURCE_ONLY = "source-only"
STEP_0 = "step 0"
OWN_CLASSIFIER = "own classifier"
# A source-only run stands for "before" where it has the same network, saw the same images of the sources, and is judged
# in the same way.
SAME_RUN = ("protocol", "source", "target", "seed", "source_limit", "ten_crop", *OF_SCENES)
SAME_NETWORK = ("backbone", "weights", "image_norm", "norm", "bottleneck")


@dataclass(frozen=True)
class Before:
    """Where a run came from."""

    row: Row
    what: str
    """OWN_CLASSIFIER for the trained one that the run's adaptation begins with, SOURCE_ONLY for another run of the
    report, STEP_0 for the network as the run began."""
    run: str
    """Name of the run that the row is of."""
    begins: int | None = None
    """The last step before the adaptation; None where the row is no classifier of the run itself."""

    @property
    def described(self) -> str:
        """`what`, and the row's step where the classifier learnt on between it and the adaptation."""
        step = self.row["step"]
        early = self.begins is not None and step < self.begins
        return f"{self.what} at step {step} of {self.begins}" if early else self.what


def before(run: FoundRun, runs: Sequence[FoundRun], rule: str) -> Before | None:
    """The classifier that the run itself trained or was given before it adapts (ADDA, Calibrator); else the source-only
    run of the same task, seed and network among `runs`, as `rule` selects of it; else the run's own evaluation before
    its first step; None where there is none.

    Of several source-only runs the one is taken whose options are the most like the run's, the first of equals.
    """
    if (own := _own_classifier(run)) is not None:
        return own
    if run.config.method != SOURCE_ONLY:
        able = [
            other
            for other in runs
            if other.config.method == SOURCE_ONLY and _comparable(run, other) and other.chosen(rule) is not None
        ]
        if able:
            other = max(able, key=lambda each: _shared(run, each))
            row = other.chosen(rule)
            if row is not None:
                return Before(row, SOURCE_ONLY, other.name)
    zero = run.step_zero
    return None if zero is None else Before(zero, STEP_0, run.name)


def _own_classifier(run: FoundRun) -> Before | None:
    """The last evaluation before the adaptation begins, of a method that has its classifier by then."""
    options = run.config.options
    if not isinstance(options, SourceFirstConfig):
        return None
    begins = options.adaptation_begins(run.config.run.max_steps or run.step)
    if begins == 0:
        row = run.step_zero
    else:
        row = max((row for row in run.rows if 0 < row["step"] <= begins), key=lambda row: row["step"], default=None)
    return None if row is None else Before(row, OWN_CLASSIFIER, run.name, begins)


def _comparable(run: FoundRun, other: FoundRun) -> bool:
    one, two = run.config, other.config
    return all(getattr(one.run, name) == getattr(two.run, name) for name in SAME_RUN) and all(
        getattr(one.options, name, None) == getattr(two.options, name, None) for name in SAME_NETWORK
    )


def _shared(run: FoundRun, other: FoundRun) -> int:
    """How many options two runs have in common, the method's own by their short names."""
    one, two = ({**config.to_dict(), **config.to_dict()[config.method]} for config in (run.config, other.config))
    return sum(name in two and two[name] == value for name, value in one.items())

"""What a recipe is: one table of a paper, or one that stands in for it, as runs with all their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dynconv.engine.config import TrainConfig
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.methods import MethodConfig
from dynconv.metrics.names import MEAN_IOU, SEGMENTATION_METRICS
from dynconv.recipes.published import TABLES, PublishedRow, PublishedTable

# What papers call the metrics of segmentation where a table has one column for each.
_HEADS = {
    "mIoU": MEAN_IOU,
    "IoU": MEAN_IOU,
    "fwIoU": "frequency-weighted-iou",
    "pixel accuracy": "pixel-accuracy",
    "global accuracy": "pixel-accuracy",
    "class accuracy": "class-accuracy",
}


@dataclass(frozen=True)
class Row:
    """One line of a table: a method with its options.

    Raises:
        ValueError: It follows two rows, or starts from one with a method that has no `source_checkpoint`.
    """

    label: str
    """What the table calls it."""
    method: str
    """Its name in `dynconv.methods.METHODS`."""
    options: MethodConfig
    """An instance of the method's config."""
    """A file of `weights` is named by its place in the data root."""
    cites: str | None = None
    """The row of the recipe's published table that this one is held against; None where the paper has none."""
    after: str | None = None
    """The row above whose run of the same task and seed gives this one its pseudo labels, and is trained first."""
    starts_from: str | None = None
    """The row above whose run of the same task and seed is trained first: its last checkpoint is the method's
    `source_checkpoint`, so that all rows that start from one row share its encoder and classifier."""
    against: str | None = None
    """The row that this one is compared with, where that is not the recipe's `baseline`."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `RunOptions` in which its runs differ from the recipe's: the one step of a matching, say, or how long
    an adaptation is beside the training that it starts from."""
    published: Mapping[str, float] = field(default_factory=dict)
    """The paper's target test figures in per cent, by task: the recipe fills them in by `cites`."""

    def __post_init__(self) -> None:
        if self.starts_from is None:
            return
        if self.after is not None:
            raise ValueError(f"{self.label}: after and starts_from contradict each other: a row follows one; give one")
        if not hasattr(self.options, "source_checkpoint"):
            raise ValueError(
                f"{self.label}: starts_from: expected a method with the field source_checkpoint, got {self.method!r}; "
                "leave starts_from out"
            )
        # The method's own words for what a checkpoint contradicts.
        self.starting(Path("run"))

    @property
    def follows(self) -> str | None:
        """The row that is trained before this one, `after` or `starts_from`; None where there is none."""
        return self.after if self.starts_from is None else self.starts_from

    def starting(self, run: Path) -> MethodConfig:
        """The options of a row with `starts_from`, whose run of the same task and seed lies in the folder `run`."""
        options: Any = self.options
        started: MethodConfig = dataclasses.replace(options, source_checkpoint=str(RunFolder(run).last))
        return started


@dataclass(frozen=True)
class Recipe:
    """Every run of a table.

    Raises:
        ValueError: Rows, published table, bounds, groups and label options that do not fit together; the message names
            the recipe.
    """

    name: str
    """What `dynconv reproduce` calls it."""
    source: str
    """Paper and table, or what it stands in for and why."""
    tasks: Mapping[str, str]
    """Protocol to the head of its column."""
    rows: tuple[Row, ...]
    """In the order of the table, each after the row that it follows."""
    run: Mapping[str, Any]
    """Fields of `RunOptions` that differ from their defaults."""
    seeds: int
    """Runs of each row and task; the seeds count from 0."""
    expected: str
    """The score to expect, and whether it is the paper's or was measured here."""
    cost: str
    """Time and hardware of the whole table where it was run; an estimate, named so, where it was not."""
    needs: str
    """Data and weights."""
    scale: Literal["small", "paper"] = "paper"
    """Whether it is made for a CPU (hours at most), or has the paper's networks and steps, which want a GPU."""
    metric: str = "accuracy"
    """What the table shows of the test images."""
    split: Literal["target-test", "source-test"] = "target-test"
    """Whose test images the table shows: the target's, or the sources' (the oracles of DRT, Fig. 2)."""
    ablation: bool = False
    """Whether each row adds something to the one above, so that their paired difference is worth a table."""
    baseline: str | None = None
    """The row that the others are compared with, by paired differences; None for no such table."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Head to the tasks of a target, where there are several: the table has the mean and the best of each group, which
    the published table's figures are held against."""
    published: str | None = None
    """Name of the paper's table in `dynconv.recipes.published.TABLES`; with `groups` that of the means."""
    published_best: str | None = None
    """Name of the paper's table of each group's best task."""
    bounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By task, what `dynconv data bound SOURCE TARGET` says of its label frequencies: each of `metrics` in per cent."""
    stylised: str = ""
    """Folder in the data root whose images take the place of GTA5's in training; empty for these."""

    def __post_init__(self) -> None:
        if unknown := [row.label for row in self.rows if row.cites is not None and self.published is None]:
            raise ValueError(f"{self.name}: {', '.join(unknown)} cite a row, and the recipe names no published table")
        self._check_label_options()
        if wrong := [task for task, figures in self.bounds.items() if len(figures) != len(self.metrics)]:
            raise ValueError(
                f"{self.name}: bounds of {', '.join(wrong)}: expected figures of {', '.join(self.metrics)}"
            )
        grouped = [task for tasks in self.groups.values() for task in tasks]
        if self.groups and sorted(grouped) != sorted(self.tasks):
            raise ValueError(f"{self.name}: expected each task in one of the groups, got {self.groups}")
        rows = tuple(dataclasses.replace(row, published=self._published_of(row)) for row in self.rows)
        object.__setattr__(self, "rows", rows)

    @property
    def title(self) -> str:
        """`source` up to the first semicolon, or end of a sentence, that stands in no brackets."""
        depth = 0
        for place, letter in enumerate(self.source):
            depth += (letter == "(") - (letter == ")")
            ends = letter == ";" or (letter == "." and self.source[place + 1 : place + 3].strip().isupper())
            if depth == 0 and ends:
                return self.source[:place]
        return self.source

    @property
    def table(self) -> PublishedTable | None:
        """The paper's table."""
        return None if self.published is None else TABLES[self.published]

    @property
    def of_scenes(self) -> bool:
        """Whether its networks label every pixel: `metric` is one of segmentation, or the mean IoU over some of the
        classes (mean-iou-16)."""
        return self.metric in SEGMENTATION_METRICS or self.metric.startswith(f"{MEAN_IOU}-")

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the tables show of each run: `metric`, and where it is a measure of segmentation over all classes the
        other three of these; a mean over some of the classes (mean-iou-16) stands alone."""
        return SEGMENTATION_METRICS if self.metric in SEGMENTATION_METRICS else (self.metric,)

    def row(self, label: str) -> Row:
        """The row of that label.

        Raises:
            ValueError: There is none.
        """
        for row in self.rows:
            if row.label == label:
                return row
        known = ", ".join(row.label for row in self.rows)
        raise ValueError(f"{self.name}: expected the label of a row, one of {known}, got {label!r}")

    def column(self, task: str, metric: str | None = None) -> int | None:
        """The place of the published table's column that a task belongs to: the one called like the task's head or, of
        segmentation, like the metric (by default the recipe's); None where there is none."""
        columns = () if self.table is None else self.table.columns
        if self.of_scenes:
            # A mean over some of the classes is called like the mean over all.
            shown = MEAN_IOU if self.metric.startswith(MEAN_IOU) else self.metric
            heads, wanted = [_HEADS.get(column) for column in columns], metric or shown
        else:
            heads, wanted = list(columns), self.tasks[task]
        return heads.index(wanted) if wanted in heads else None

    def figure(self, row: PublishedRow, task: str, metric: str | None = None) -> float | None:
        """A published row's figure for a task, that of its `column`; where the metric is the mean over the classes, the
        mean of all columns; None where the table has neither.

        Args:
            row: Of `table`.
            task: One of `tasks`.
            metric: As of `column`.
        """
        if self.table is not None and self.metric == "class-mean-accuracy":
            return row.mean
        place = self.column(task, metric)
        return None if place is None else row.values[place]

    def cited(self) -> tuple[PublishedRow, ...]:
        """The rows of the paper's table that no row of the recipe runs."""
        if self.table is None:
            return ()
        run = {row.cites for row in self.rows}
        return tuple(row for row in self.table.rows if row.label not in run)

    def compared_with(self, row: Row) -> str | None:
        """The label of the row that `row` is compared with, or None."""
        if row.against is not None:
            return row.against
        if self.ablation:
            place = [each.label for each in self.rows].index(row.label)
            return self.rows[place - 1].label if place else None
        return None if row.label == self.baseline else self.baseline

    def config(
        self,
        task: str,
        row: Row,
        seed: int,
        *,
        out: Path,
        data_root: Path | None,
        device: str,
        after: Path | None = None,
    ) -> TrainConfig:
        """The configuration of one run.

        Args:
            task: A protocol, one of `tasks`.
            row: One of `rows`.
            seed: Of the run.
            out: Its folder.
            data_root: Folder of the real data sets; None for the default.
            device: Where to compute.
            after: The folder of the run of the row `row.follows` with the same task and seed; None where it names
                none.

        Raises:
            ValueError: `after` is missing, or given for a row without one.
        """
        follows = row.follows
        if (follows is None) != (after is None):
            wanted = "none, for the row follows no other" if follows is None else f"a run's folder of {follows!r}"
            raise ValueError(f"after: expected {wanted}, got {after}")
        fields = {"protocol": task, "seed": seed, "out": out, "device": device, **self.run, **row.run}
        if data_root is not None:
            fields["data_root"] = data_root
        if self.stylised:
            fields["stylised"] = (RunOptions(**fields).data_root or Path()) / self.stylised
        options = row.options
        if after is not None and row.starts_from is not None:
            options = row.starting(after)
        elif after is not None:
            fields["pseudo_labels_from"] = after
        run = RunOptions(**fields)
        if options.weights not in ("auto", "none", "imagenet"):
            file = (run.data_root or Path()) / options.weights
            options = dataclasses.replace(options, weights=str(file.absolute()))
        return TrainConfig(row.method, run, options)

    def _check_label_options(self) -> None:
        """Raise a ValueError where a row, or the recipe, names a row that is not there."""
        if self.ablation and self.baseline is not None:
            raise ValueError(f"{self.name}: the rows of an ablation have no baseline {self.baseline!r}; leave out one")
        labels = [row.label for row in self.rows]
        named = [("baseline", self.baseline, labels)]
        for place, row in enumerate(self.rows):
            others = [label for label in labels if label != row.label]
            named += [
                (f"{row.label}: after", row.after, labels[:place]),
                (f"{row.label}: starts_from", row.starts_from, labels[:place]),
                (f"{row.label}: against", row.against, others),
            ]
        for what, label, known in named:
            if label is not None and label not in known:
                raise ValueError(f"{self.name}: {what}: expected one of {', '.join(known)}, got {label!r}")

    def _published_of(self, row: Row) -> dict[str, float]:
        if self.table is None or row.cites is None:
            return {}
        paper = self.table.row(row.cites)
        figures = {task: self.figure(paper, task) for task in self.tasks}
        return {task: value for task, value in figures.items() if value is not None}


def sweep(
    recipe: Recipe,
    name: str,
    source: str,
    base: Row,
    values: Mapping[str, Mapping[str, Any]],
    cost: str,
    published: str | None = None,
    above: Row | None = None,
    baseline: str | None = None,
    expected: str | None = None,
) -> Recipe:
    """A recipe whose rows are those of `base` with the fields that `values` gives by label, and otherwise as `recipe`.

    `published` is the paper's table of such a sweep, whose rows have the same labels; None where there is none.
    `above` is one more row before them, which they may start from. `baseline` is the label of the row that the others
    are compared with; None for that of `above`, and for no comparison where there is none. `expected` is the recipe's
    own; None for what `recipe` says where there is a table, and for words that there are no figures where there is
    none.
    """
    rows = tuple(
        dataclasses.replace(
            base,
            label=label,
            options=dataclasses.replace(base.options, **fields),
            cites=None if published is None else label,
            against=None,
        )
        for label, fields in values.items()
    )
    if expected is None and published is None:
        expected = f"the paper gives no figures but those of {recipe.name}, for its own setting"
    return dataclasses.replace(
        recipe,
        name=name,
        source=source,
        rows=rows if above is None else (above, *rows),
        expected=recipe.expected if expected is None else expected,
        cost=cost,
        ablation=False,
        baseline=above.label if baseline is None and above is not None else baseline,
        published=published,
    )

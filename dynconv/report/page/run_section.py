"""What a report says of one run: its choice of models and its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dynconv.engine.loading import read_skipped
from dynconv.engine.pseudo_label_file import read_pseudo_labels
from dynconv.metrics.names import in_words
from dynconv.report.before import SOURCE_ONLY, Before
from dynconv.report.collect import FoundRun
from dynconv.report.discriminators import discriminators_block
from dynconv.report.figures.scenes import SceneViews
from dynconv.report.page.analyses import Seen
from dynconv.report.page.analysis import Analysis
from dynconv.report.page.document import Block, Facts, Line, Missing, Section, Table, Text
from dynconv.report.page.run_figures import checkpoint_figures, class_iou_bars, curves, scene_figure
from dynconv.report.page.summary import ORACLE
from dynconv.report.papers import Match
from dynconv.report.spread import per_cent, source_per_cent
from dynconv.report.table import RULES

# What is drawn of a checkpoint, by what its run is judged by.
FIGURES = {
    "accuracy": ("Confusion matrix", "t-SNE of the features", "A-distance", "Samples with predictions"),
    "mean-iou": ("Scenes",),
}


def run_section(
    run: FoundRun,
    start: Before | None,
    found: Seen | str,
    rows: Sequence[Match],
    figures: Path,
    *,
    rule: str,
    slug: str,
) -> Section:
    """All of one run, folded.

    Args:
        run: The run.
        start: What stands for "before adaptation".
        found: Its analysis, of segmentation its scenes, or why there is none.
        rows: The rows of recipes that it is one of.
        figures: Folder for its figures.
        rule: Which model the figures are of.
        slug: Begins the figures' file names.
    """
    blocks: list[Block] = [Text(f"{sentence[0].upper()}{sentence[1:]}.") for sentence in run.missing]
    blocks.append(Facts(tuple(_facts(run, start, found, rows))))
    if run.done is not None:
        blocks.append(_choices(run))
    blocks.append(curves(run, figures / f"{slug}-training.png"))
    if (costs := discriminators_block(run)) is not None:
        blocks.append(costs)
    if run.metric != "accuracy":
        blocks.append(class_iou_bars(run, start, figures / f"{slug}-class-iou.png", rule=rule))
    if isinstance(found, SceneViews):
        blocks.append(scene_figure(run, found, figures / f"{slug}-scenes.png", rule=rule))
    elif isinstance(found, str):
        blocks += [Missing(title, found) for title in FIGURES[run.metric]]
    else:
        blocks += checkpoint_figures(run, found, figures, rule=rule, slug=slug)
    state = "" if run.done is not None else " (not finished)"
    return Section(f"{run.name}{state}", tuple(blocks), folded=True)


def _facts(run: FoundRun, start: Before | None, found: Seen | str, rows: Sequence[Match] = ()) -> list[tuple[str, str]]:
    options = run.config.run
    facts = [("method", run.config.method), ("task", options.task), ("seed", str(run.seed))]
    if rows:
        facts.append(("table row", "; ".join(f"{match.recipe.name}: {match.row.label}" for match in rows)))
    if options.skip_bad:
        facts.append(("unreadable images", _left_out(run)))
    if options.pseudo_labels_from is not None:
        facts.append(("pseudo labels", _pseudo_labels(run)))
    if start is not None:
        own = f"step {start.row['step']} of the run itself"
        facts.append(("before adaptation", start.run if start.what == SOURCE_ONLY else own))
    if isinstance(found, Analysis):
        error = f"a linear classifier errs on {100 * found.a_error:.1f} % of held-out features"
        facts.append(("A-distance", f"{found.a_distance:.2f} ({error})"))
    return facts


def _left_out(run: FoundRun) -> str:
    try:
        skipped = read_skipped(run.folder)
    except ValueError as error:
        return str(error)
    if skipped is None:
        return f"there is no {run.folder.skipped.name}: how many were left out is not known"
    counts = Counter(each.domain for each in skipped)
    return "; ".join(f"{count} of {domain} left out" for domain, count in sorted(counts.items())) or "none was found"


def _pseudo_labels(run: FoundRun) -> str:
    try:
        found = read_pseudo_labels(run.folder)
    except ValueError as error:
        return str(error)
    if found is None:
        return f"there is no {run.folder.pseudo_labels.name}: which images were learned with them is not known"
    return f"{found.summary()}, by {run.config.run.pseudo_labels_from} ({found.checkpoint})"


def _choices(run: FoundRun) -> Table:
    """Each rule's and each validator's row."""
    rows = [(ORACLE if rule == "oracle" else rule, run.chosen(rule)) for rule in RULES]
    rows += [(f"validator: {name}", row) for name, row in run.validators.items()]
    if run.step_zero is not None:
        rows.insert(0, ("step 0: as it starts", run.step_zero))
    lines = []
    for name, row in rows:
        if row is not None:
            figures = (source_per_cent(row), per_cent(row, "source-val"), per_cent(row, "target-test"))
            lines.append(Line((name, str(row["step"]), *map(_cell, figures))))
    words = in_words(run.metric)
    header = ("chosen by", "step", "source test", "source-val", "target test")
    return Table("Chosen models", header, tuple(lines), (f"{words[0].upper()}{words[1:]} in %.",))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

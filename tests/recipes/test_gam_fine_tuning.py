"""The recipes of fine-tuning: two starts, and for each number of labelled images a run from either."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynconv.methods import TargetOnlyConfig
from dynconv.recipes import Recipe, gam_scenes, gam_small
from dynconv.recipes.gam_fine_tuning import CAMVID, CAMVID_COUNTS, CITYSCAPES, COUNTS
from dynconv.report.reproduction.runs import recipe_runs


@pytest.mark.parametrize(
    ("recipe", "counts", "whole"), [(CITYSCAPES, COUNTS, gam_scenes.TABLE_3), (CAMVID, CAMVID_COUNTS, gam_small.CAMVID)]
)
def test_both_starts_are_fine_tuned_alike_on_each_number_of_images(
    recipe: Recipe, counts: tuple[int, ...], whole: Recipe
) -> None:
    none, gam, *tuned = recipe.rows
    known = {row.label: row for row in whole.rows}
    # Their runs are those of the table, so that these are not trained anew.
    for row in (none, gam):
        other = known[row.label]
        assert (row.method, row.options, row.run, row.starts_from) == (
            other.method, other.options, other.run, other.starts_from,
        )  # fmt: skip
    assert (none.method, gam.method, gam.starts_from) == ("source-only", "gam", none.label)
    assert (recipe.tasks, recipe.run) == (whole.tasks, whole.run)
    pairs = list(zip(tuned[::2], tuned[1::2], strict=True))
    assert len(pairs) == len(counts)
    for (plain, adapted), count in zip(pairs, counts, strict=True):
        assert isinstance(plain.options, TargetOnlyConfig) and plain.options.labelled_images == count
        assert plain.options == adapted.options and plain.run == adapted.run == pairs[0][0].run
        assert (plain.starts_from, adapted.starts_from) == (none.label, gam.label)
        assert recipe.compared_with(adapted) == plain.label and recipe.compared_with(plain) is None
    assert recipe.compared_with(gam) == none.label


def test_a_run_starts_from_one_that_starts_from_another(tmp_path: Path) -> None:
    (task,) = CAMVID.tasks
    (run,) = recipe_runs(
        CAMVID, tmp_path, seeds=1, tasks=(task,), labels=["5 labelled, GAM"], data_root=None, device="cpu"
    )
    assert run.after is not None and run.after.after is not None
    assert [each.label for each in (run, run.after, run.after.after)] == ["5 labelled, GAM", "GAM", "source-only"]
    assert run.config.options.source_checkpoint == str(run.after.folder.last.absolute())
    steps = gam_small.CAMVID.row("GAM").run["max_steps"]
    assert (run.config.run.max_steps, run.after.config.run.max_steps) == (80, steps)

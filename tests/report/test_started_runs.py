"""Rows that start from another row's classifier: trained after it, from the run of their task and seed, and one line of
every table, wherever their folder lies."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from report_runs import config_of, row_of, write_run

from dynconv.methods import ADDAConfig, SourceOnlyConfig, TargetOnlyConfig
from dynconv.recipes import RECIPES, Recipe, Row
from dynconv.report import papers
from dynconv.report.collect import find_runs
from dynconv.report.groups import group_runs, lost_starts
from dynconv.report.reproduction.options import ReproduceOptions
from dynconv.report.reproduction.reproduce import reproduce
from dynconv.report.reproduction.runs import RecipeRun, check_configurations, check_order, recipe_runs

SOURCE = SourceOnlyConfig(lr=1e-4)
ROWS = (
    Row("source-only", "source-only", SOURCE),
    Row("ADDA", "adda", ADDAConfig(lr=1e-4), starts_from="source-only"),
    Row("ADDA, wide", "adda", ADDAConfig(lr=1e-4, hidden_features=900), starts_from="source-only"),
)
TASKS = {"mnist-usps": "U", "usps-mnist": "M"}
RECIPE = Recipe("test", "a table", TASKS, ROWS, {"max_steps": 100}, 2, expected="", cost="", needs="")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setitem(RECIPES, "test", RECIPE)
    return RECIPE


def runs_in(out: Path, *labels: str) -> list[RecipeRun]:
    chosen = labels or [row.label for row in ROWS]
    return recipe_runs(RECIPE, out, seeds=2, tasks=tuple(TASKS), labels=chosen, data_root=None, device="cpu")


def finish(runs: list[RecipeRun]) -> None:
    for run in runs:
        rows = [row_of(run.config, 0, 0.1, 0.2), row_of(run.config, 100, 0.9, 0.7)]
        write_run(run.folder.path, run.config, rows)


def test_each_starts_from_the_last_checkpoint_of_its_task_and_seed(tmp_path: Path) -> None:
    for run in runs_in(tmp_path, "ADDA"):
        assert run.after is not None and not run.ready
        start = tmp_path / run.task / "source-only" / f"seed{run.seed}"
        assert run.config.options.source_checkpoint == str(start / "checkpoints" / "last.pt")
        assert run.config.run.pseudo_labels_from is None
        # One that began reads the checkpoint again.
        run.folder.checkpoints.mkdir(parents=True)
        run.folder.last.touch()
        assert run.began and not run.ready
    finish(runs_in(tmp_path, "source-only"))
    assert all(run.ready for run in runs_in(tmp_path))


@pytest.mark.usefixtures("recipe")
def test_a_plan_has_it_after_the_other_which_must_be_chosen_or_finished(tmp_path: Path) -> None:
    def plan(*rows: str) -> list[str]:
        options = ReproduceOptions("test", out=tmp_path, tasks=("mnist-usps",), rows=rows, seeds=1, dry_run=True)
        return reproduce(options, line=lambda text: None).text.splitlines()

    place = tmp_path / "mnist-usps"
    line = f"train     {place / 'ADDA' / 'seed0'}, after {place / 'source-only' / 'seed0'}"
    assert line in plan("source-only", "ADDA")
    with pytest.raises(ValueError) as told:
        plan("ADDA")
    assert f"'ADDA' starts from the classifier of 'source-only', which is not finished in {place}" in str(told.value)
    assert 'Give --rows "source-only" too' in str(told.value)
    finish(runs_in(tmp_path, "source-only"))
    assert line in plan("ADDA")


def test_seeds_and_tasks_are_one_row_of_a_report_also_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    def sizes(out: Path) -> dict[str, int]:
        return {group.label: len(group.all()) for group in group_runs(find_runs([out])[0]).groups}

    finish(runs_in(tmp_path / "here"))
    found = sizes(tmp_path / "here")
    assert sorted(found.values()) == [4, 4, 4]
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert sizes(tmp_path / "there") == found and not lost_starts(find_runs([tmp_path / "there"])[0])
    # Without the runs that they started from nothing tells that these were of one kind.
    for task in TASKS:
        shutil.rmtree(tmp_path / "there" / task / "source-only")
    assert sorted(sizes(tmp_path / "there").values()) == [1] * 8
    lost = lost_starts(find_runs([tmp_path / "there"])[0])
    assert len(lost) == 8
    assert lost["mnist-usps/ADDA/seed1"] == str(
        tmp_path / "here" / "mnist-usps" / "source-only" / "seed1" / "checkpoints" / "last.pt"
    )


def test_runs_from_other_classifiers_are_rows_of_their_own(tmp_path: Path) -> None:
    for place, rate in (("slow", 1e-4), ("fast", 1e-3)):
        start = config_of("source-only", options={"lr": rate})
        last = write_run(tmp_path / place / "source", start, [row_of(start, 100, 0.9, 0.7)]).last
        adapted = config_of("adda", options={"source_checkpoint": str(last)})
        write_run(tmp_path / place / "adda", adapted, [row_of(adapted, 100, 0.9, 0.7)])
    grouping = group_runs(find_runs([tmp_path])[0])
    assert len(grouping.groups) == 4 and not grouping.doubles
    assert sum("source_checkpoint=source-only " in group.label for group in grouping.groups) == 2


def test_a_table_is_made_again_of_a_folder_that_was_moved(tmp_path: Path) -> None:
    finish(runs_in(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = runs_in(tmp_path / "there")
    check_configurations(moved)
    check_order(moved)
    # But not of runs that started from another one's run, there or not.
    for stored in (tmp_path / "here" / "usps-mnist" / "source-only" / "seed1", tmp_path / "elsewhere" / "seed0"):
        file = moved[1].folder.config
        kept = file.read_text()
        changed = dataclasses.replace(
            moved[1].config.options, source_checkpoint=str(stored / "checkpoints" / "last.pt")
        )
        file.write_text(dataclasses.replace(moved[1].config, options=changed).to_yaml())
        with pytest.raises(ValueError, match=r"adda.source_checkpoint: '.*' -> '.*there/mnist-usps/source-only/seed0"):
            check_configurations(moved)
        file.write_text(kept)
    # One that is not finished would have to go on from its checkpoint.
    moved[1].folder.done.unlink()
    with pytest.raises(ValueError, match="adda.source_checkpoint"):
        check_configurations(moved)


def test_a_run_is_its_recipes_row_where_the_run_that_it_started_from_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(papers, "RECIPES", {"test": RECIPE})
    finish(runs_in(tmp_path / "out"))
    other = config_of("source-only", options={"lr": 1e-3})
    last = write_run(tmp_path / "other", other, [row_of(other, 100, 0.9, 0.7)]).last
    for name, checkpoint in (
        ("of another", str(last)),
        ("of none", ""),
        ("of what is gone", "gone/checkpoints/last.pt"),
    ):
        config = config_of("adda", options={"lr": 1e-4, "source_checkpoint": checkpoint})
        write_run(tmp_path / name, config, [row_of(config, 100, 0.9, 0.7)])
    found = {run.name: [match.row.label for match in papers.matches(run)] for run in find_runs([tmp_path])[0]}
    own = {name: labels for name, labels in found.items() if name.startswith("out/")}
    assert len(own) == 12
    assert {(name.split("/")[2], *labels) for name, labels in own.items()} == {
        ("source-only", "source-only"), ("ADDA", "ADDA"), ("ADDA_wide", "ADDA, wide"),
    }  # fmt: skip
    assert found["of another"] == found["of none"] == found["of what is gone"] == []


def test_so_is_one_whose_start_itself_started_from_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = Row("ADDA, fine-tuned", "target-only", TargetOnlyConfig(labelled_images=10), starts_from="ADDA")
    recipe = dataclasses.replace(RECIPE, rows=(*ROWS, tuned))
    monkeypatch.setattr(papers, "RECIPES", {"test": recipe})
    labels = [row.label for row in recipe.rows]
    finish(
        recipe_runs(
            recipe, tmp_path / "out", seeds=2, tasks=("mnist-usps",), labels=labels, data_root=None, device="cpu"
        )
    )

    def tune(name: str, folder: Path, seed: int = 0) -> None:
        options = {"labelled_images": 10, "source_checkpoint": str(folder / "checkpoints" / "last.pt")}
        config = config_of("target-only", seed=seed, options=options)
        write_run(tmp_path / name, config, [row_of(config, 100, 0.9, 0.7)])

    place = tmp_path / "out" / "mnist-usps"
    tune("again", place / "ADDA" / "seed0")
    tune("of another row", place / "ADDA_wide" / "seed0")
    tune("of another seed", place / "ADDA" / "seed1")
    # ADDA as the recipe's, from a source that was trained otherwise.
    source = config_of("source-only", options={"lr": 1e-3})
    last = write_run(tmp_path / "source", source, [row_of(source, 100, 0.9, 0.7)]).last
    adapted = config_of("adda", options={"lr": 1e-4, "source_checkpoint": str(last)})
    tune("of another source", write_run(tmp_path / "adda", adapted, [row_of(adapted, 100, 0.9, 0.7)]).path)
    found = {run.name: [match.row.label for match in papers.matches(run)] for run in find_runs([tmp_path])[0]}
    assert found["out/mnist-usps/ADDA_fine-tuned/seed1"] == found["again"] == ["ADDA, fine-tuned"]
    assert all(found[name] == [] for name in ("of another row", "of another seed", "of another source"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "source-only", "options": SOURCE}, "ADDA: starts_from: expected a method with the field source_ch"),
        ({"after": "source-only"}, "ADDA: after and starts_from contradict each other"),
        ({"options": ADDAConfig(pretrain=0.3)}, "pretrain: 0.3 contradicts source_checkpoint"),
    ],
)
def test_a_row_that_cannot_start_from_another_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ROWS[1], **fields)


def test_a_row_starts_from_one_above_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ADDA: starts_from: expected one of , got 'source-only'"):
        dataclasses.replace(RECIPE, rows=ROWS[1::-1])
    with pytest.raises(ValueError, match="after: expected a run's folder of 'source-only', got None"):
        RECIPE.config("mnist-usps", ROWS[1], 0, out=tmp_path, data_root=None, device="cpu")

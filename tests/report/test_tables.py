"""The figures in the report's tables are those of the runs, and the papers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_runs import config_of, row_of, write_run

from dynconv.recipes import RECIPES
from dynconv.report.before import before
from dynconv.report.collect import FoundRun, find_runs
from dynconv.report.groups import Grouping, group_runs
from dynconv.report.page.document import Line, Table
from dynconv.report.page.results import results_tables
from dynconv.report.page.summary import ORACLE, distance_table, selection_table, source_table, validator_table
from dynconv.report.papers import matches


def make(root: Path, name: str, method: str, target: float, source: float = 0.9, **fields: object) -> None:
    """A finished run: chance at step 0, its best target accuracy at step 50, `target` at the end."""
    config = config_of(method, **fields)
    rows = [row_of(config, 0, 0.1, 0.2), row_of(config, 50, source, 0.99), row_of(config, 100, source, target)]
    write_run(root / name, config, rows)


def gathered(root: Path) -> tuple[list[FoundRun], Grouping]:
    runs, _ = find_runs([root])
    return runs, group_runs(runs)


def results(root: Path) -> Table:
    runs, grouping = gathered(root)
    return results_tables(grouping, {run.name: matches(run) for run in runs}, "last")[0]


def lines(table: Table) -> dict[str, tuple[str, ...]]:
    return {line.cells[0]: line.cells[1:] for line in table.lines}


def test_means_and_deviations_are_over_seeds_and_the_average_over_tasks(tmp_path: Path) -> None:
    for seed, targets in enumerate(((0.5, 0.7), (0.6, 0.9), (0.7, None))):
        for protocol, target in zip(("mnist-usps", "usps-mnist"), targets, strict=True):
            if target is not None:
                make(tmp_path, f"{protocol}{seed}", "mcd", target, protocol=protocol, seed=seed)
    table = results(tmp_path)
    assert table.header == ("method", "n", "mnist-usps", "usps-mnist", "average")
    # Standard deviation of 50, 60, 70: 10; of 70 and 90: 14.1; the seeds with both tasks average 60 and 75.
    assert table.lines == (Line(("mcd", "2–3", "60.0 ± 10.0", "80.0 ± 14.1", "67.5 ± 10.6"), first=True),)


def test_groups_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    make(tmp_path, "a", "mcd", 0.5)
    make(tmp_path, "b", "mcd", 0.6, options={"discrepancy_steps": 2})
    make(tmp_path, "c", "source-only", 0.4, batch_size=16)
    make(tmp_path, "d", "source-only", 0.4, batch_size=16, seed=1)
    _, grouping = gathered(tmp_path)
    assert [group.label for group in grouping.groups] == [
        "source-only (batch_size=16)",
        "mcd (batch_size=64, discrepancy_steps=4)",
        "mcd (batch_size=64, discrepancy_steps=2)",
    ]
    assert [len(group.all()) for group in grouping.groups] == [2, 1, 1]


def test_a_configuration_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a", "mcd", 0.5)
    make(tmp_path, "b", "mcd", 0.7)
    _, grouping = gathered(tmp_path)
    assert lines(results(tmp_path))["mcd"] == ("1", "50.0", "50.0")
    assert [(double.name, counted.name) for double, counted in grouping.doubles] == [("b", "a")]


def test_the_papers_row_stands_beside_ours_with_the_difference(tmp_path: Path) -> None:
    recipe = RECIPES["gsda-ablation"]
    row = recipe.rows[0]
    for seed, target in enumerate((0.8, 0.9)):
        config = recipe.config("office31:amazon-webcam", row, seed, out=tmp_path, data_root=None, device="cpu")
        write_run(tmp_path / f"r{seed}", config, [row_of(config, 10, 0.9, target)])
    table = results(tmp_path)
    own, paper, less, *cited = table.lines
    assert own.cells[1:] == ("2", "85.0 ± 7.1", "85.0 ± 7.1")
    # GSDA, Table 1, first row, A -> W.
    assert paper == Line(("paper: gsda-1, Glb", "", "87.9", "87.9"), "reference")
    assert less == Line(("ours less the paper's", "", "−2.9", "−2.9"), "reference")
    assert {line.kind for line in cited} == {"cited"}
    assert [line.cells[0] for line in cited] == [
        "cited: gsda-1, Glb + Cls",
        "cited: gsda-1, Glb + Cls + Grp",
        "cited: gsda-1, Glb + Cls + Grp + Grad Sync",
    ]
    assert cited[-1].cells[2] == "95.7" and cited[0].first
    assert any("CVPR 2020" in note for note in table.notes)


def test_a_run_that_is_no_recipes_has_no_papers_row(tmp_path: Path) -> None:
    recipe = RECIPES["gsda-ablation"]
    config = recipe.config("office31:amazon-webcam", recipe.rows[0], 0, out=tmp_path, data_root=None, device="cpu")
    other = config_of("gsda", protocol="office31:amazon-webcam", options={"backbone": "resnet50"})
    assert other.hash != config.hash
    write_run(tmp_path / "r", other, [row_of(other, 10, 0.9, 0.8)])
    assert [line.kind for line in results(tmp_path).lines] == ["own"]


def test_before_is_the_source_only_run_of_the_same_network_and_seed(tmp_path: Path) -> None:
    make(tmp_path, "mcd0", "mcd", 0.7, source=0.88)
    make(tmp_path, "mcd1", "mcd", 0.7, source=0.88, seed=1)
    make(tmp_path, "so0", "source-only", 0.5, source=0.95)
    make(tmp_path, "so1", "source-only", 0.5, source=0.95, seed=1, options={"backbone": "lenet-m3sda"})
    runs, grouping = gathered(tmp_path)
    starts = {run.name: before(run, runs, "last") for run in runs}
    assert {name: (start.what, start.run) for name, start in starts.items() if start is not None} == {
        "mcd0": ("source-only", "so0"),
        "mcd1": ("step 0", "mcd1"),
        "so0": ("step 0", "so0"),
        "so1": ("step 0", "so1"),
    }
    table = source_table(grouping, starts, "last")
    cells = next(line.cells for line in table.lines if line.cells[0].startswith("mcd"))
    # Before: 95 of so0 and 10 of step 0.
    assert cells[1:] == ("source-only, step 0", "52.5 → 88.0 (+35.5)", "+35.5")


SCENES: dict[str, Any] = {"protocol": "camvid_day-camvid_dusk", "options": {"backbone": "erfnet-encoder"}}


def test_a_bound_has_no_source(tmp_path: Path) -> None:
    # Its "sources" are the target itself, and a source-only run is measured on others.
    make(tmp_path, "before", "source-only", target=0.5, source=0.95)
    make(tmp_path, "bound", "target-only", target=0.9, source=0.8)
    runs, grouping = gathered(tmp_path)
    starts = {run.name: before(run, runs, "last") for run in runs}
    table = source_table(grouping, starts, "last")
    cells = next(line.cells for line in table.lines if line.cells[0].startswith("target-only"))
    assert cells[2:] == ("", "")


def test_scenes_of_another_size_are_not_before(tmp_path: Path) -> None:
    make(tmp_path, "a", "source-only", 0.5, image_size=(16, 24), **SCENES)
    make(tmp_path, "b", "source-only", 0.6, image_size=(24, 32), eval_window=(16, 16), **SCENES)
    make(tmp_path, "c", "source-only", 0.6, image_size=(24, 32), crop_size=(16, 16), **SCENES)
    make(tmp_path, "d", "source-only", 0.6, image_size=(24, 32), full_resolution=True, **SCENES)
    make(tmp_path, "m", "mcd", 0.7, image_size=(24, 32), **SCENES)
    runs, _ = gathered(tmp_path)
    (own,) = (run for run in runs if run.name == "m")
    start = before(own, runs, "last")
    assert start is not None and (start.what, start.run) == ("step 0", "m")
    make(tmp_path, "e", "source-only", 0.5, image_size=(24, 32), **SCENES)
    start = before(own, gathered(tmp_path)[0], "last")
    assert start is not None and start.run == "e"


def test_sizes_are_heights_by_widths(tmp_path: Path) -> None:
    make(tmp_path, "a", "mcd", 0.5, image_size=(16, 24), crop_size=(8, 16), **SCENES)
    make(tmp_path, "b", "mcd", 0.6, **SCENES)
    _, grouping = gathered(tmp_path)
    assert [group.label for group in grouping.groups] == [
        "mcd (image_size=16 x 24, crop_size=8 x 16)",
        "mcd (image_size=none, crop_size=none)",
    ]


def test_of_several_source_only_runs_the_most_alike_is_before(tmp_path: Path) -> None:
    make(tmp_path, "a", "source-only", 0.5, options={"lr": 0.5})
    make(tmp_path, "b", "source-only", 0.5, options={"lr": 0.25})
    make(tmp_path, "m", "mcd", 0.7, options={"lr": 0.25})
    runs, _ = gathered(tmp_path)
    start = before(next(run for run in runs if run.name == "m"), runs, "last")
    assert start is not None and start.run == "b"


def test_the_four_rules_and_every_validator_have_their_column(tmp_path: Path) -> None:
    make(tmp_path, "a", "mcd", 0.6)
    make(tmp_path, "b", "mcd", 0.8, seed=1)
    make(tmp_path, "c", "mcd", 0.5, protocol="usps-mnist")
    _, grouping = gathered(tmp_path)
    table = selection_table(grouping)
    assert table.header[2:] == ("last", "source-val", "label-free", ORACLE)
    assert "looks at labels" in ORACLE
    first, second, mean = table.lines
    # Information maximisation is the best at step 50, where the target's accuracy is 99; of equals in source-val the
    # earliest.
    assert first.cells == ("mcd", "mnist-usps", "70.0 ± 14.1", "99.0 ± 0.0", "99.0 ± 0.0", "99.0 ± 0.0")
    assert second.cells[:3] == ("", "usps-mnist", "50.0")
    assert mean.kind == "average" and mean.cells[2] == "55.0"
    assert any("information-maximisation" in note for note in table.notes)
    chosen = validator_table(grouping)
    assert chosen is not None
    assert chosen.header == ("method", "task", "information-maximisation")
    assert chosen.lines[0].cells[2] == "99.0 ± 0.0"


def test_distances_are_means_over_seeds(tmp_path: Path) -> None:
    make(tmp_path, "a", "mcd", 0.6)
    make(tmp_path, "b", "mcd", 0.8, seed=1)
    make(tmp_path, "c", "source-only", 0.8)
    _, grouping = gathered(tmp_path)
    table = distance_table(grouping, {"a": 1.5, "b": 1.0})
    assert table is not None and [line.cells for line in table.lines] == [("mcd", "1.25")]
    assert distance_table(grouping, {}) is None


def test_tasks_stand_in_the_order_of_the_papers(tmp_path: Path) -> None:
    for protocol in ("office31:amazon-dslr", "office31:amazon-webcam", "office31:dslr-webcam"):
        make(tmp_path, protocol.partition(":")[2], "mcd", 0.5, protocol=protocol)
    _, grouping = gathered(tmp_path)
    assert grouping.tasks == ("office31:amazon-webcam", "office31:dslr-webcam", "office31:amazon-dslr")


def test_a_table_with_a_short_line_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 cells"):
        Table("t", ("a", "b"), (Line(("1",)),))

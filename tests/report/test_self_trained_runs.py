"""What a report says of runs that learned pseudo labels: they are rows of their own, seed by seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from report_runs import config_of, row_of, write_run

from dynconv.engine.config import TrainConfig
from dynconv.engine.pseudo_label_file import PseudoLabels, record_pseudo_labels
from dynconv.engine.run_folder import RunFolder
from dynconv.plots.training import _panels
from dynconv.recipes import Recipe
from dynconv.recipes.base import Row
from dynconv.report import papers
from dynconv.report.collect import FoundRun, find_runs
from dynconv.report.groups import group_runs
from dynconv.report.page.run_section import _facts


def write(path: Path, config: TrainConfig) -> RunFolder:
    return write_run(path, config, [row_of(config, 0, 0.1, 0.2), row_of(config, 100, 0.9, 0.7)])


def self_trained(path: Path, before: Path, **run: object) -> TrainConfig:
    config = config_of("drt", pseudo_labels_from=before, **run)
    write(path, config)
    return config


def test_their_seeds_are_one_row_beside_runs_of_other_pseudo_labels_and_of_none(tmp_path: Path) -> None:
    for seed in (0, 1):
        for task in ("mnist-usps", "usps-mnist"):
            place = tmp_path / f"{task}{seed}"
            write(place / "drt", config_of("drt", seed=seed, protocol=task))
            self_trained(place / "st", place / "drt", seed=seed, protocol=task)
    write(tmp_path / "mcd", config_of("mcd"))
    self_trained(tmp_path / "of mcd", tmp_path / "mcd")
    self_trained(tmp_path / "surer", tmp_path / "mcd", pseudo_confidence=0.9)
    runs, _ = find_runs([tmp_path])
    grouping = group_runs(runs)
    assert not grouping.doubles
    sizes = {group.label: len(group.all()) for group in grouping.groups}
    assert sorted(sizes.values()) == [1, 1, 1, 4, 4]
    assert sum("pseudo_labels_of=mcd " in label for label in sizes) == 2
    assert sum("pseudo_labels_of=none" in label for label, size in sizes.items() if size == 4) == 1
    assert sum("pseudo_confidence=0.9" in label for label in sizes) == 1


def test_a_run_is_its_recipes_row_where_the_run_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = config_of("drt").options
    rows = (Row("DRT", "drt", own), Row("DRT+ST", "drt", own, after="DRT"))
    recipe = Recipe("test", "a table", {"mnist-usps": "U"}, rows, {"max_steps": 100}, 1, expected="", cost="", needs="")
    monkeypatch.setattr(papers, "RECIPES", {"test": recipe})
    write(tmp_path / "drt", config_of("drt", seed=3))
    write(tmp_path / "mcd", config_of("mcd", seed=3))
    self_trained(tmp_path / "st", tmp_path / "drt", seed=3)
    self_trained(tmp_path / "of mcd", tmp_path / "mcd", seed=3)
    found = {run.name: [match.row.label for match in papers.matches(run)] for run in find_runs([tmp_path])[0]}
    assert found == {"drt": ["DRT"], "mcd": [], "st": ["DRT+ST"], "of mcd": []}


def facts(run: FoundRun) -> dict[str, str]:
    return dict(_facts(run, None, "no analysis"))


def test_a_runs_section_tells_how_many_there_were(tmp_path: Path) -> None:
    write(tmp_path / "drt", config_of("drt"))
    config = self_trained(tmp_path / "st", tmp_path / "drt")
    assert config.run.pseudo_labels_of is not None
    labels = PseudoLabels(
        of=config.run.pseudo_labels_of, checkpoint="last", threshold=0.8, target="usps", images=10, classes=("a", "b"),
        indices=torch.tensor([1, 4, 5, 9]), labels=torch.tensor([0, 1, 1, 1]),
        confidences=torch.full((4,), 0.9, dtype=torch.float64), oracle_accuracy=0.75,
    )  # fmt: skip
    plain, run = find_runs([tmp_path])[0]
    assert "pseudo labels" not in facts(plain)
    assert "there is no pseudo_labels.json" in facts(run)["pseudo labels"]
    record_pseudo_labels(RunFolder(tmp_path / "st"), labels)
    assert facts(run)["pseudo labels"] == (
        "4 of 10 training images of usps above 0.8, 1 to 3 in each of 2 classes (oracle: 75.0 % of them are right), "
        f"by {tmp_path / 'drt'} (last)"
    )
    (tmp_path / "st" / "pseudo_labels.json").write_text("{}")
    assert "is damaged" in facts(run)["pseudo labels"]


def test_what_is_given_at_the_start_is_no_curve() -> None:
    assert set(_panels([{"step": 5, "loss": 1.0, "pseudo-labels/share": 0.5}], [])) == {"loss"}

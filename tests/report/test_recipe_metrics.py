"""The tables of a recipe of segmentation: every measure of target and sources, before and after, beside the paper's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import finished

from dynconv.recipes import RECIPES
from dynconv.report.cited import figure_of
from dynconv.report.datasets.bound import bound_of
from dynconv.report.reproduction.metrics import BOUND
from dynconv.report.reproduction.records import record
from dynconv.report.reproduction.table import report

MEASURES = ("mean-iou", "frequency-weighted-iou", "pixel-accuracy", "class-accuracy")
HEADS = "| row | mean IoU | frequency-weighted IoU | pixel accuracy | class accuracy |"
TASK = "camvid_day-camvid_dusk"


def line(row: str, seed: int, target: float, source: float = 60.0, task: str = TASK) -> dict[str, Any]:
    """A record whose measures are one above the other, in the order of MEASURES."""
    found: dict[str, Any] = {"task": task, "row": row, "seed": seed, "steps": 10, "seconds": 60.0}
    for split, first in (("target-test", target), ("source-test", source)):
        found |= {f"{split} {rule}": "" for rule in ("source-val", "label-free", "oracle")}
        found[f"{split} last"] = first
        found |= {f"{split} last {name}": first + place for place, name in enumerate(MEASURES) if place}
    return found


def tables(text: str) -> list[list[str]]:
    """The lines of each table below the heads of the measures."""
    return [part.splitlines() for part in text.split("\n\n") if part.startswith(HEADS)]


def test_every_measure_stands_before_and_after_of_the_same_seeds_and_beside_the_bound() -> None:
    records = [line("source-only", seed, 30.0 + seed) for seed in range(3)]
    records += [line("ADDA", seed, 40.0 + 2 * seed, 60.0) for seed in range(2)]
    target, source = tables(report(RECIPES["camvid"], records))
    assert "| source-only | 31.0 ± 1.0 | 32.0 ± 1.0 | 33.0 ± 1.0 | 34.0 ± 1.0 |" in target
    assert "| ADDA | 30.5 → 41.0 ± 1.4 | 31.5 → 42.0 ± 1.4 | 32.5 → 43.0 ± 1.4 | 33.5 → 44.0 ± 1.4 |" in target
    assert target[-1].startswith(f"| {BOUND} | 59.6 |")
    assert "| ADDA (own) | 60.0 → 60.0 ± 0.0 | 61.0 → 61.0 ± 0.0 | 62.0 → 62.0 ± 0.0 | 63.0 → 63.0 ± 0.0 |" in source
    assert not any(BOUND in each for each in source)


def test_a_row_without_its_beginning_has_no_figure_before_it() -> None:
    (target, _) = tables(report(RECIPES["camvid"], [line("ADDA", 0, 40.0)]))
    assert target[2].startswith("| ADDA | 40.0 (n = 1) | 41.0 (n = 1) |")


def test_the_papers_measures_stand_beside_ours_by_their_names() -> None:
    task = "gta5-cityscapes"
    recipe = RECIPES["calibrator-table2"]
    records = [line("source-only", 0, 20.0, task=task)]
    text = report(recipe, records)
    assert "| source-only | 20.0 (n = 1) (21.7, -1.7) | 20.0 (21.7, -1.7) | 60.0 |" in text
    target, source = tables(text)
    own = "| source-only | 20.0 (n = 1) (21.7, -1.7) | 21.0 (n = 1) (47.4, -26.4) | 22.0 (n = 1) (62.5, -40.5) |"
    assert f"{own} 23.0 (n = 1) |" in target
    assert "| Ours (cited) | 40.5 | 75.1 | 84.0 | - |" in target
    assert "| source-only | 60.0 (n = 1) | 61.0 (n = 1) | 62.0 (n = 1) | 63.0 (n = 1) |" in source
    gam = RECIPES["gam-table3"]
    found = report(gam, [line("ERFNet, ADDA", 0, 28.6, task=task)])
    assert "| ERFNet, ADDA | 28.6 (n = 1) (28.6, +0.0) | 29.6 (n = 1) | 30.6 (n = 1) (79.4, -48.8) |" in found
    assert "| Oracle (source distribution) (cited) | 55.0 | - | 82.0 | 72.0 |" in found
    figure = figure_of(gam, gam.table.row("A: ADDA"), task)
    assert figure is not None and figure.value == 28.6


def test_tasks_have_columns_of_their_own() -> None:
    recipe = RECIPES["camvid"]
    other = "camvid_dusk-camvid_day"
    both = dataclasses.replace(recipe, tasks={**recipe.tasks, other: "dusk → day"}, bounds={})
    text = report(both, [line("source-only", 0, 30.0), line("source-only", 0, 50.0, task=other)])
    assert "| row | day → dusk, mean IoU |" in text and "| dusk → day, class accuracy |" in text
    assert f"| source-only | {' | '.join(f'{30 + n}.0 (n = 1)' for n in range(4))} | 50.0 (n = 1) |" in text


def test_classification_has_no_such_tables() -> None:
    blank = {f"{split} {rule}": "" for split in ("target-test", "source-test") for rule in ("source-val", "oracle")}
    blank |= {f"{split} label-free": "" for split in ("target-test", "source-test")}
    found = {"task": "mnist-usps", "row": "global", "seed": 0, "target-test last": 50.0, "source-test last": 90.0}
    found |= {"steps": 10, "seconds": 60.0}
    assert tables(report(RECIPES["gsda-ablation-digits"], [found | blank])) == []


def test_the_figures_of_a_run_are_its_rows_in_per_cent(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", 0.5)
    done = folder.read_done()
    assert done is not None
    domains = {"target-test/b": 0.1, "source-test/a": 0.2}
    for domain, first in domains.items():
        done["selected"]["last"] |= {f"{domain}/{name}": first * (1 + place) for place, name in enumerate(MEASURES)}
    folder.done.write_text(json.dumps(done))
    found = record(TASK, "ADDA", 0, folder, "mean-iou")
    assert (found["target-test last"], found["source-test last"]) == (10.0, 20.0)
    assert [found[f"target-test last {name}"] for name in MEASURES[1:]] == [20.0, 30.0, 40.0]
    assert [found[f"source-test last {name}"] for name in MEASURES[1:]] == [40.0, 60.0, 80.0]


@pytest.mark.parametrize("task", RECIPES["camvid"].bounds)
def test_the_bound_is_that_of_the_real_label_maps(task: str, data_root: Path, tmp_path: Path) -> None:
    source, _, target = task.partition("-")
    found = bound_of(source, target, data_root, cache_dir=tmp_path).to_dict()
    assert RECIPES["camvid"].bounds[task] == tuple(round(100 * found[name], 1) for name in MEASURES)


def test_a_bound_has_a_figure_for_each_measure() -> None:
    with pytest.raises(ValueError, match=f"camvid: bounds of {TASK}: expected figures of mean-iou, "):
        dataclasses.replace(RECIPES["camvid"], bounds={TASK: (59.6,)})

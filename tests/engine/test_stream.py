"""A device that moves between domains, with a classifier and calibrators whose every answer is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest
import torch
from known_calibrators import SOURCE, KnownRun, known_run

from dynconv.engine.loaded_run import LoadedRun
from dynconv.engine.stream import Schedule, check_same_classifier, draw_stream, stream
from dynconv.methods import METHODS
from dynconv.metrics import NonFiniteError

# To each of 4 or 2 images the classifier alone, the brightening and the darkening calibrator are right (1) or wrong.
DARK, BRIGHT = [(110, 1), (10, 0)], [(150, 0), (250, 1)]


@pytest.fixture
def runs() -> list[LoadedRun]:
    return [known_run("dark", DARK, 64), known_run("bright", BRIGHT, -64)]


def by_domain(runs: Sequence[LoadedRun], schedule: Schedule) -> dict[str, dict[str, set[float]]]:
    """Way and domain to the accuracies of its batches in per cent."""
    found = stream(runs, schedule)
    return {
        way: {
            name: {100 * value for value, domain in zip(values.tolist(), found.domains, strict=True) if domain == name}
            for name in sorted(set(found.domains))
        }
        for way, values in found.accuracy.items()
    }


def test_every_image_of_a_domain_comes_before_one_comes_again() -> None:
    batches = draw_stream({"a": 5, "b": 3}, Schedule(blocks=30, block_batches=2, batch_size=4, seed=1))
    assert len(batches) == 60 and {len(batch.indices) for batch in batches} == {4}
    assert all(len(list(members)) % 2 == 0 for _, members in groupby(batch.domain for batch in batches))
    for name, size in (("a", 5), ("b", 3)):
        drawn = torch.cat([batch.indices for batch in batches if batch.domain == name])
        passes = [each.tolist() for each in drawn.split(size) if len(each) == size]
        assert len(passes) > 8 and all(sorted(each) == list(range(size)) for each in passes)
        assert len(set(map(tuple, passes))) > 1, "each pass is shuffled anew"


def test_the_seed_fixes_domains_and_images() -> None:
    def drawn(seed: int) -> list[tuple[str, list[int]]]:
        schedule = Schedule(blocks=8, block_batches=1, batch_size=7, seed=seed)
        return [(batch.domain, batch.indices.tolist()) for batch in draw_stream({"a": 50, "b": 30}, schedule)]

    assert drawn(3) == drawn(3) != drawn(4)
    assert [name for name, _ in drawn(3)] != [name for name, _ in drawn(4)]


def test_one_calibrator_is_on_every_image(runs: list[LoadedRun]) -> None:
    # Batches of 4: all images of the source, or those of the target twice.
    schedule = Schedule(blocks=12, block_batches=2, batch_size=4, seed=0)
    assert by_domain(runs[:1], schedule) == {
        "no calibrator": {"dark": {50.0}, "source": {100.0}},
        "one calibrator": {"dark": {100.0}, "source": {75.0}},
    }


def test_of_several_the_domains_own_is_taken_and_none_on_the_source(runs: list[LoadedRun]) -> None:
    schedule = Schedule(blocks=20, block_batches=1, batch_size=4, seed=0)
    assert by_domain(runs, schedule) == {
        "no calibrator": {"bright": {50.0}, "dark": {50.0}, "source": {100.0}},
        "calibrator of dark": {"bright": {50.0}, "dark": {100.0}, "source": {75.0}},
        "calibrator of bright": {"bright": {100.0}, "dark": {50.0}, "source": {75.0}},
        "calibrator of the domain": {"bright": {100.0}, "dark": {100.0}, "source": {100.0}},
    }


def test_accuracies_are_those_of_the_images_that_were_drawn(runs: list[LoadedRun]) -> None:
    schedule = Schedule(blocks=10, block_batches=3, batch_size=1, seed=2)
    found = stream(runs[:1], schedule)
    right = {"source": [1, 0, 1, 1], "dark": [1, 1]}
    expected = [right[batch.domain][int(batch.indices)] for batch in draw_stream({"source": 4, "dark": 2}, schedule)]
    assert found.accuracy["one calibrator"].tolist() == expected and set(expected) == {0, 1}
    assert found.source == ("source",) and len(found.domains) == 30


def test_runs_that_have_nothing_to_share_are_refused(runs: list[LoadedRun]) -> None:
    schedule = Schedule(blocks=1, block_batches=1, batch_size=1, seed=0)
    first, second = runs
    with pytest.raises(ValueError, match="names of their own, got source, dark, dark"):
        stream([first, first], schedule)
    elsewhere = known_run("bright", BRIGHT, -64, source=[*SOURCE, (0, 0)])
    with pytest.raises(ValueError, match=r"dark-run and bright-run have other sources: source \(4 .* \(5"):
        stream([first, elsewhere], schedule)
    with pytest.raises(ValueError, match="bright-run have no classifier in common: they tell other classes apart"):
        check_same_classifier([first, dataclasses.replace(second, classes=("x", "y"))])
    second.method.heads[0].threshold.add_(0.1)
    with pytest.raises(ValueError, match=r"dark-run and bright-run .* they differ in heads\.0\.threshold"):
        stream(runs, schedule)
    first.method.calibrating = False
    with pytest.raises(ValueError, match=r"dark-run: its checkpoint last \(step 7\) is from before"):
        stream([first], schedule)
    mcd = METHODS["mcd"].for_task(METHODS["mcd"].config_class(), 2, 1)
    with pytest.raises(ValueError, match="RUN dark-run is .*, which has no calibrator"):
        stream([dataclasses.replace(first, method=mcd)], schedule)
    with pytest.raises(ValueError, match="domain dark: it has no test images with labels"):
        stream([known_run("dark", [], 64)], schedule)
    assert first.folder.path == Path("dark-run")


def untested(run: KnownRun, seed: int) -> LoadedRun:
    (source,) = run.own.sources
    own = dataclasses.replace(run.own, sources=(dataclasses.replace(source, test=None),))
    config = dataclasses.replace(run.config, run=dataclasses.replace(run.config.run, seed=seed))
    return dataclasses.replace(run, own=own, config=config)


def test_sources_without_test_images_send_those_held_out() -> None:
    schedule = Schedule(blocks=12, block_batches=2, batch_size=4, seed=0)
    one, other = known_run("dark", DARK, 64), known_run("bright", BRIGHT, -64)
    assert by_domain([untested(one, 0)], schedule) == by_domain([one], schedule)
    with pytest.raises(ValueError, match=r"other sources: source \(4 images of seed 0\) and source \(4 .* seed 1\)"):
        stream([untested(one, 0), untested(other, 1)], schedule)


def test_scores_that_are_no_numbers_are_no_accuracy(runs: list[LoadedRun]) -> None:
    runs[0].method.heads[0].threshold.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="scores"):
        stream(runs[:1], Schedule(blocks=1, block_batches=1, batch_size=1, seed=0))

from __future__ import annotations

from typing import Any

import pytest

from dynconv.engine.selection import KEPT, before, mean_of, merit, select, select_by_validators
from dynconv.metrics import VALIDATORS


def row(step: int, source: float, sure: float, target: float) -> dict[str, Any]:
    return {
        "step": step,
        "source-val/a/accuracy": source,
        "source-val/b/accuracy": source - 0.2,
        "source-test/a/accuracy": 1 - source,
        "target-train/c/entropy": -sure,
        "target-train/c/information-maximisation": sure,
        "target-test/c/accuracy": target,
    }


def steps(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: chosen["step"] for name, chosen in rows.items()}


def test_each_rule_looks_at_its_own_metric() -> None:
    rows = [row(1, 0.5, 0.1, 0.9), row(2, 0.9, 0.2, 0.1), row(3, 0.6, 0.8, 0.2), row(4, 0.7, 0.3, 0.3)]
    assert steps(select(rows)) == {"last": 4, "source-val": 2, "label-free": 3, "oracle": 1}


def test_of_equals_the_earliest_is_chosen() -> None:
    rows = [row(1, 0.5, 0.5, 0.5), row(2, 0.5, 0.5, 0.5)]
    assert steps(select(rows)) == {"last": 2, "source-val": 1, "label-free": 1, "oracle": 1}


def test_the_network_as_it_started_is_never_chosen() -> None:
    rows = [row(0, 1.0, 9.0, 1.0), row(1, 0.5, 0.5, 0.4), row(2, 0.4, 0.4, 0.5)]
    assert steps(select(rows)) == {"last": 2, "source-val": 1, "label-free": 1, "oracle": 2}
    assert steps(select_by_validators(rows)) == {"entropy": 1, "information-maximisation": 1}
    assert before(rows) is rows[0] and before(rows[1:]) is None
    with pytest.raises(ValueError, match="after step 0, got 1 of step 0"):
        select(rows[:1])


def test_each_validator_chooses_by_its_own_metric_in_its_own_direction() -> None:
    values = {
        "entropy": (0.2, 0.1, 0.3),
        "information-maximisation": (0.5, 0.6, 0.9),
        "soft-neighbourhood-density": (3.0, 2.0, 2.5),
        "nuclear-norm": (0.1, 0.2, 0.3),
        "deep-embedded-validation": (0.3, 0.2, -0.1),
    }
    rows: list[dict[str, Any]] = [
        {"step": step + 1} | {f"target-train/c/{name}": value[step] for name, value in values.items()}
        for step in range(3)
    ]
    chosen = {
        "entropy": 2,
        "information-maximisation": 3,
        "soft-neighbourhood-density": 1,
        "nuclear-norm": 3,
        "deep-embedded-validation": 3,
    }
    assert steps(select_by_validators(rows)) == chosen
    for name in VALIDATORS:
        assert steps(select(rows, name)) == {"last": 3, "label-free": chosen[name]}


def test_merit_is_the_higher_the_better_and_sees_no_target_label_where_weights_are_kept() -> None:
    one = row(1, 0.5, 0.25, 0.75)
    assert merit(one, "label-free", "entropy") == 0.25
    assert merit(one, "label-free") == 0.25 and merit(one, "oracle") == 0.75
    assert merit(one, "label-free", "nuclear-norm") is None
    other = {**one, "target-test/c/accuracy": 0.0}
    assert [merit(one, rule) for rule in KEPT] == [merit(other, rule) for rule in KEPT]


def test_source_val_is_the_mean_over_the_sources() -> None:
    assert mean_of(row(1, 0.5, 0, 0), "source-val") == pytest.approx(0.4)
    assert mean_of(row(1, 0.5, 0, 0), "target-val") is None


def test_a_rule_without_its_metric_is_left_out_and_no_row_is_an_error() -> None:
    bare = {"step": 1, "source-val/a/accuracy": 0.5}
    assert set(select([bare])) == {"last", "source-val"}
    assert select_by_validators([bare]) == {}
    with pytest.raises(ValueError, match="rows"):
        select([])

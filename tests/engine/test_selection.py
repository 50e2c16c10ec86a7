from __future__ import annotations

import pytest

from dynconv.engine.selection import mean_of, select


def row(step: int, source: float, sure: float, target: float) -> dict[str, float]:
    return {
        "step": step,
        "source-val/a/accuracy": source,
        "source-val/b/accuracy": source - 0.2,
        "source-test/a/accuracy": 1 - source,
        "target-train/c/entropy": -sure,
        "target-train/c/information-maximisation": sure,
        "target-test/c/accuracy": target,
    }


def test_each_rule_looks_at_its_own_metric() -> None:
    rows = [row(1, 0.5, 0.1, 0.9), row(2, 0.9, 0.2, 0.1), row(3, 0.6, 0.8, 0.2), row(4, 0.7, 0.3, 0.3)]
    steps = {rule: chosen["step"] for rule, chosen in select(rows).items()}
    assert steps == {"last": 4, "source-val": 2, "label-free": 3, "oracle": 1}


def test_of_equals_the_earliest_is_chosen() -> None:
    rows = [row(1, 0.5, 0.5, 0.5), row(2, 0.5, 0.5, 0.5)]
    steps = {rule: chosen["step"] for rule, chosen in select(rows).items()}
    assert steps == {"last": 2, "source-val": 1, "label-free": 1, "oracle": 1}


def test_source_val_is_the_mean_over_the_sources() -> None:
    assert mean_of(row(1, 0.5, 0, 0), "source-val") == pytest.approx(0.4)
    assert mean_of(row(1, 0.5, 0, 0), "target-val") is None


def test_a_rule_without_its_metric_is_left_out_and_no_row_is_an_error() -> None:
    bare = {"step": 1, "source-val/a/accuracy": 0.5}
    assert set(select([bare])) == {"last", "source-val"}
    with pytest.raises(ValueError, match="rows"):
        select([])

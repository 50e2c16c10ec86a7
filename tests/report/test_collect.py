"""What is found below a folder, and that what cannot be read is named with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_runs import config_of, row_of, write_run

from dynconv.report.collect import FoundRun, find_runs


@pytest.fixture
def place(tmp_path: Path) -> Path:
    config = config_of("mcd")
    write_run(tmp_path / "deep" / "er" / "one", config, [row_of(config, 0, 0.1, 0.1), row_of(config, 50, 0.9, 0.5)])
    write_run(tmp_path / "two", config, [row_of(config, 50, 0.9, 0.5)], finish=False)
    return tmp_path


def by_name(runs: list[FoundRun]) -> dict[str, FoundRun]:
    return {run.name: run for run in runs}


def test_runs_are_found_at_any_depth_and_once(place: Path) -> None:
    # What lies in a run folder is the run's own.
    (place / "two" / "checkpoints").mkdir()
    (place / "two" / "checkpoints" / "config.yaml").touch()
    runs, unreadable = find_runs([place, place / "two", place / "deep"])
    assert [run.name for run in runs] == ["deep/er/one", "two"] and not unreadable
    one = by_name(runs)["deep/er/one"]
    zero, last = one.step_zero, one.chosen("last")
    assert zero is not None and last is not None
    assert (zero["step"], last["step"], one.seed) == (0, 50, 0)
    assert one.validators["information-maximisation"]["step"] == 50
    assert [run.name for run in find_runs([place / "two"])[0]] == ["two"]


def test_an_unfinished_run_says_how_far_it_came_and_chooses_nothing(place: Path) -> None:
    run = by_name(find_runs([place])[0])["two"]
    assert run.done is None and run.chosen("last") is None and run.validators == {}
    assert any("unfinished at step 50 of 100" in sentence for sentence in run.missing)


def test_a_diverged_run_says_so_and_is_not_told_to_go_on(place: Path) -> None:
    (place / "two" / "diverged").write_text("training diverged at step 60: loss = nan. Lower it.\n")
    (missing,) = (each for each in by_name(find_runs([place])[0])["two"].missing if "env.json" not in each)
    assert missing == "training diverged at step 60: loss = nan. Lower it"


def test_damage_is_a_reason_and_loses_no_other_file(place: Path) -> None:
    one = place / "deep" / "er" / "one"
    (one / "env.json").unlink()
    with (one / "results.jsonl").open("a") as file:
        file.write("no row\n")
    run = by_name(find_runs([place])[0])["deep/er/one"]
    assert run.done is not None and run.rows == () and run.starts == ()
    assert any("results.jsonl" in sentence for sentence in run.missing)
    assert any("there is no env.json" in sentence for sentence in run.missing)
    (one / "env.json").write_text('{"not": "a list"}')
    assert any("expected a list" in sentence for sentence in by_name(find_runs([place])[0])["deep/er/one"].missing)
    (one / "done").write_text("{")
    run = by_name(find_runs([place])[0])["deep/er/one"]
    assert run.done is None and any("done is damaged" in sentence for sentence in run.missing)


def test_a_run_whose_configuration_was_edited_does_not_count_as_finished(place: Path) -> None:
    done = place / "deep" / "er" / "one" / "done"
    done.write_text(json.dumps({**json.loads(done.read_text()), "config_hash": "0" * 12}))
    run = by_name(find_runs([place])[0])["deep/er/one"]
    assert run.done is None and any("0" * 12 in sentence for sentence in run.missing)


def test_a_folder_without_a_readable_configuration_is_named(place: Path) -> None:
    (place / "two" / "config.yaml").write_text("method: mcd\nspeed: 3\n")
    (place / "deep" / "er" / "one" / "config.yaml").unlink()
    runs, unreadable = find_runs([place])
    assert not runs
    reasons = {each.name: each.reason for each in unreadable}
    assert "'speed'" in reasons["two"] and "config.yaml" in reasons["deep/er/one"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        find_runs([tmp_path / "none"])
    with pytest.raises(ValueError, match="holds none"):
        find_runs([tmp_path])

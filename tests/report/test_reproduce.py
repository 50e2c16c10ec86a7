"""`dynconv reproduce`: no foreign run slips in, what fails or is killed costs itself alone, the next call goes on."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_training import Plan
from run_folders import finished

from dynconv.cli import main
from dynconv.engine.config import TrainConfig, load_config
from dynconv.recipes import RECIPES
from dynconv.report.reproduction import reproduce as subject
from dynconv.report.reproduction.options import ReproduceOptions
from dynconv.report.reproduction.reproduce import Reproduction, reproduce
from dynconv.report.reproduction.runs import recipe_runs

TABLE = "gsda-ablation-digits"
RECIPE = RECIPES[TABLE]
TASK = "mnist-usps"


def configuration(task: str, row: str, seed: int) -> TrainConfig:
    chosen = next(each for each in RECIPE.rows if each.label == row)
    return RECIPE.config(task, chosen, seed, out=Path("run"), data_root=None, device="cpu")


def folder_of(out: Path, task: str, row: str, seed: int) -> Path:
    return out / task / row.replace("+ ", "+_") / f"seed{seed}"


def finish(out: Path, task: str, row: str, seed: int, target: float = 0.5, config: TrainConfig | None = None) -> Path:
    """A finished run where `reproduce` looks for it, with the recipe's configuration if no other is given."""
    path = folder_of(out, task, row, seed)
    config = config or configuration(task, row, seed)
    finished(path, target, config_hash=config.hash)
    (path / "config.yaml").write_text(config.to_yaml())
    return path


def call(out: Path, said: list[str] | None = None, **fields: Any) -> Reproduction:
    options = ReproduceOptions(TABLE, out=out, tasks=(TASK,), seeds=2, **fields)
    return reproduce(options, line=(said if said is not None else []).append)


def test_the_figures_of_finished_runs_are_written_as_they_were(tmp_path: Path) -> None:
    for seed, value in enumerate((0.55, 0.70)):
        finish(tmp_path, TASK, "+ class", seed, value)
    made = reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)
    assert made.failed == ()
    assert "22 of 24 runs are not finished and not in these tables." in made.text
    assert (tmp_path / "table.md").read_text() == made.text + "\n"
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["target-test last"] for row in rows] == ["55.0", "70.0"]
    assert [row["target-test source-val"] for row in rows] == ["27.5", "35.0"]
    assert [(row["task"], row["row"], row["seed"]) for row in rows] == [(TASK, "+ class", "0"), (TASK, "+ class", "1")]


def test_a_run_of_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    config = configuration(TASK, "global", 1)
    options = dataclasses.replace(config.options, lr=0.5)
    path = finish(tmp_path, TASK, "global", 1, config=TrainConfig("gsda", config.run, options))
    finish(tmp_path, TASK, "global", 0)
    with pytest.raises(ValueError, match="another configuration than the table's") as caught:
        reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)
    message = str(caught.value)
    assert f"gsda.lr: 0.5 -> 0.01\n    in {path}\n" in message and "seed0" not in message
    assert not (tmp_path / "table.md").exists()


def test_what_many_runs_have_in_common_is_said_once(tmp_path: Path) -> None:
    for seed in range(5):
        config = configuration(TASK, "global", seed)
        run = dataclasses.replace(config.run, max_steps=7)
        finish(tmp_path, TASK, "global", seed, config=TrainConfig("gsda", run, config.options))
    with pytest.raises(ValueError, match="seed2 and 2 more\n") as caught:
        reproduce(ReproduceOptions(TABLE, out=tmp_path, seeds=5, report_only=True), line=print)
    assert str(caught.value).count("max_steps: 7 -> 1000") == 1


def test_a_run_that_is_not_finished_is_held_against_the_recipe_too(tmp_path: Path, plan: Plan) -> None:
    config = configuration(TASK, "global", 0)
    path = folder_of(tmp_path, TASK, "global", 0)
    path.mkdir(parents=True)
    steps = dataclasses.replace(config.run, max_steps=7)
    (path / "config.yaml").write_text(TrainConfig("gsda", steps, config.options).to_yaml())
    plan()
    with pytest.raises(ValueError, match="max_steps: 7 -> 1000"):
        call(tmp_path)
    assert plan() == []


def test_a_folder_whose_configuration_cannot_be_read_says_why(tmp_path: Path) -> None:
    path = finish(tmp_path, TASK, "global", 0)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("levels:", "layers:"))
    with pytest.raises(ValueError, match="unknown field 'layers'.*\n    in .*seed0\n"):
        reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)
    (path / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"there is no config\.yaml\n    in .*seed0\n"):
        reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)


def test_no_finished_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run"):
        reproduce(ReproduceOptions(TABLE, out=tmp_path, report_only=True), line=print)


def test_finished_runs_are_skipped_and_the_last_line_says_that_all_are(tmp_path: Path, plan: Plan) -> None:
    finish(tmp_path, TASK, "+ group", 1)
    said: list[str] = []
    plan()
    made = call(tmp_path, said, parallel=3)
    ran = plan()
    assert len(ran) == 7 and not any("+_group/seed1" in line for line in ran)
    assert said[0] == "1 of 8 runs finished; training 7, 3 at a time"
    assert said[-1] == "8 of 8 runs finished"
    assert "not finished" not in made.text and made.failed == ()
    assert call(tmp_path).text == made.text
    assert plan() == []


def test_what_ended_a_run_is_told(tmp_path: Path, plan: Plan) -> None:
    plan(global_seed0="diverge", group_seed1="stop")
    made = call(tmp_path, parallel=2)
    assert sorted(made.failed) == ["mnist-usps + group 1 (interrupted)", "mnist-usps global 0 (diverged)"]


def test_a_killed_run_and_a_failed_one_are_named_the_others_finish_and_the_next_call_goes_on(
    tmp_path: Path, plan: Plan
) -> None:
    plan(global_seed0="die", group_seed1="fail")
    said: list[str] = []
    made = call(tmp_path, said, parallel=2)
    assert len(plan()) == 8
    assert sorted(made.failed) == ["mnist-usps + group 1 (exit code 2)", "mnist-usps global 0 (killed by SIGKILL)"]
    assert "[mnist-usps + group 1] no such data" in said
    assert any("6 of 8 runs finished, 2 given up" in line for line in said)
    assert "2 of 8 runs are not finished" in made.text
    assert (tmp_path / "table.md").read_text() == made.text + "\n"
    assert call(tmp_path).failed == ()
    again = {line.rpartition(" ")[0] for line in plan()}
    assert again == {str(folder_of(tmp_path, TASK, "global", 0)), str(folder_of(tmp_path, TASK, "+ group", 1))}


def test_an_interrupt_stops_what_runs_starts_nothing_more_and_the_next_call_goes_on(tmp_path: Path, plan: Plan) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    waiting = []

    def line(text: str) -> None:
        if text.endswith("waits"):
            waiting.append(text)
            if len(waiting) == 2:
                signal.pthread_kill(main_thread, signal.SIGINT)

    plan(class_seed0="wait", group_seed0="wait")
    options = ReproduceOptions(TABLE, out=tmp_path, tasks=(TASK,), seeds=2, parallel=2)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            reproduce(options, line=line)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert len(plan()) == 3
    listed = call(tmp_path, dry_run=True).text.splitlines()
    assert [text.split()[0] for text in listed if "seed" in text].count("go") == 2
    made = call(tmp_path)
    assert made.failed == () and len(plan()) == 7


FOLLOWING = "drt-domainnet-table4"


def follow(out: Path, rows: tuple[str, ...] = ("DRT", "DRT+ST"), **fields: Any) -> Reproduction:
    options = ReproduceOptions(FOLLOWING, out=out, tasks=("domainnet:clipart",), rows=rows, seeds=2, **fields)
    return reproduce(options, line=lambda text: None)


def trained(lines: list[str]) -> list[str]:
    """ROW/SEED of each training, in their order."""
    return ["/".join(Path(line.rpartition(" ")[0]).parts[-2:]) for line in lines]


def test_a_row_that_follows_another_is_trained_after_it_from_the_run_of_its_seed(tmp_path: Path, plan: Plan) -> None:
    plan()
    assert follow(tmp_path, parallel=4).failed == ()
    ran = trained(plan())
    assert sorted(ran[:2]) == ["DRT/seed0", "DRT/seed1"] and sorted(ran[2:]) == ["DRT+ST/seed0", "DRT+ST/seed1"]
    place = tmp_path / "domainnet_clipart"
    for seed in ("seed0", "seed1"):
        config = load_config(place / "DRT+ST" / seed / "config.yaml")
        assert config.run.pseudo_labels_from == place / "DRT" / seed
    assert follow(tmp_path).failed == () and plan() == []


def test_a_row_whose_predecessor_failed_is_reported_and_trained_by_the_next_call(tmp_path: Path, plan: Plan) -> None:
    plan(**{"DRT/seed0": "fail"})
    assert follow(tmp_path, parallel=2).failed == (
        "domainnet:clipart DRT 0 (exit code 2)",
        "domainnet:clipart DRT+ST 0 (not begun, for domainnet:clipart DRT 0 is not finished)",
    )
    assert sorted(trained(plan())) == ["DRT+ST/seed1", "DRT/seed0", "DRT/seed1"]
    assert follow(tmp_path).failed == ()
    assert trained(plan()) == ["DRT/seed0", "DRT+ST/seed0"]


def test_a_row_without_its_predecessor_needs_it_finished(tmp_path: Path, plan: Plan) -> None:
    plan()
    for fields in ({}, {"dry_run": True}):
        with pytest.raises(ValueError) as told:
            follow(tmp_path, ("DRT+ST",), **fields)
        lacking = ", ".join(str(tmp_path / "domainnet_clipart" / "DRT" / f"seed{seed}") for seed in range(2))
        assert f"'DRT+ST' learns the pseudo labels of 'DRT', which is not finished in {lacking}\n" in str(told.value)
        assert 'Give --rows "DRT" too' in str(told.value)
    listed = follow(tmp_path, dry_run=True).text.splitlines()
    place = tmp_path / "domainnet_clipart"
    assert f"train     {place / 'DRT+ST' / 'seed1'}, after {place / 'DRT' / 'seed1'}" in listed
    follow(tmp_path, ("DRT",))
    assert follow(tmp_path, ("DRT+ST",)).failed == ()
    assert trained(plan()) == ["DRT/seed0", "DRT/seed1", "DRT+ST/seed0", "DRT+ST/seed1"]


def test_self_training_on_the_embedded_domains_follows_drt(tmp_path: Path, plan: Plan) -> None:
    plan()
    options = ReproduceOptions("drt-embedded", out=tmp_path, tasks=("embedded:plain",), rows=("DRT", "DRT+ST"), seeds=1)
    assert reproduce(options, line=lambda text: None).failed == ()
    assert trained(plan()) == ["DRT/seed0", "DRT+ST/seed0"]


def test_a_predecessor_of_another_configuration_is_refused(tmp_path: Path, plan: Plan) -> None:
    plan()
    follow(tmp_path, ("DRT",))
    file = tmp_path / "domainnet_clipart" / "DRT" / "seed1" / "config.yaml"
    file.write_text(file.read_text().replace("num_bases: 4", "num_bases: 2"))
    with pytest.raises(ValueError, match="drt.num_bases: 2 -> 4"):
        follow(tmp_path, ("DRT+ST",))


def test_each_run_sees_one_gpu_and_all_are_used(tmp_path: Path, plan: Plan) -> None:
    plan()
    said: list[str] = []
    call(tmp_path, said, gpus=("0", "GPU-5", "2"))
    assert said[0].endswith("training 8, 3 at a time, each on one of the GPUs 0, GPU-5, 2")
    assert {line.rpartition(" ")[2] for line in plan()} == {"0", "GPU-5", "2"}


@pytest.mark.parametrize(
    ("visible", "fields", "expected"),
    [
        ("", {"parallel": 2}, {"0", "1"}),
        ("3,GPU-7", {"parallel": 2, "device": "cuda"}, {"3", "GPU-7"}),
        ("3,GPU-7", {"parallel": 2, "device": "cpu"}, {"3,GPU-7"}),
        ("3,GPU-7", {"parallel": 1}, {"3,GPU-7"}),
    ],
)
def test_the_visible_gpus_are_shared_out_where_several_runs_compute_on_gpus(
    visible: str,
    fields: dict[str, object],
    expected: set[str],
    tmp_path: Path,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    plan()
    call(tmp_path, **fields)
    assert {line.rpartition(" ")[2] for line in plan()} == expected


def test_a_dry_run_lists_what_a_call_would_do_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    text = call(out, dry_run=True).text
    assert not out.exists()
    assert RECIPE.expected in text and RECIPE.cost in text and RECIPE.needs in text
    assert text.splitlines()[-1] == "8 of 8 runs would be trained"
    finish(out, TASK, "global", 0)
    listed = call(out, dry_run=True).text.splitlines()
    assert f"finished  {folder_of(out, TASK, 'global', 0)}" in listed
    assert f"train     {folder_of(out, TASK, 'global', 1)}" in listed


def test_a_single_run_is_spoken_of_as_one(tmp_path: Path, plan: Plan) -> None:
    plan()
    said: list[str] = []
    options = ReproduceOptions(TABLE, out=tmp_path, tasks=(TASK,), rows=("global",), seeds=1)
    listed = reproduce(dataclasses.replace(options, dry_run=True), line=said.append).text
    assert listed.splitlines()[-1] == "1 of 1 run would be trained"
    reproduce(options, line=said.append)
    assert said == ["0 of 1 run finished; training 1, 1 at a time", "1 of 1 run finished"]
    made = reproduce(dataclasses.replace(options, seeds=2, report_only=True), line=said.append)
    assert made.text.endswith("\n1 of 2 runs is not finished and not in these tables.")


def test_the_time_left_is_that_of_the_finished_runs_of_the_same_row(tmp_path: Path) -> None:
    finish(tmp_path, TASK, "global", 0)  # 5 seconds
    for seed in (0, 1):
        path = finish(tmp_path, TASK, "+ class", seed)
        done = json.loads((path / "done").read_text())
        done["selected"]["last"]["seconds"] = 3590
        (path / "done").write_text(json.dumps(done))
    runs = recipe_runs(
        RECIPE, tmp_path, seeds=3, tasks=(TASK,), labels=("global", "+ class"), data_root=None, device="auto"
    )
    # Twice 5 seconds are left and once 3,590.
    assert subject._progress(runs, 0, 1) == "3 of 6 runs finished; about 1 h 00 min to go"
    assert subject._progress(runs, 0, 2) == "3 of 6 runs finished; about 30 min to go"
    assert subject._progress(runs, 0, 8) == "3 of 6 runs finished; about 20 min to go"
    assert subject._progress(runs, 3, 1) == "3 of 6 runs finished, 3 given up"


def test_the_command_line_prints_the_table_of_what_is_finished_and_fails(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(group_seed0="die")
    words = ["reproduce", TABLE, "--out", str(tmp_path), "--seeds", "1", "--tasks", TASK, "--parallel", "2"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "| global | 50.0 (n = 1) |" in shown.out
    assert "not finished: mnist-usps + group 0 (killed by SIGKILL)" in shown.err
    plan()
    assert main(words) == 0
    assert main([*words, "--dry-run"]) == 0
    assert "0 of 4 runs would be trained" in capsys.readouterr().out
    plan(group="fail")
    assert main(["reproduce", TABLE, "--out", str(tmp_path / "other"), "--seeds", "1", "--rows", "+ group"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "no such data" in shown.err


def test_a_set_that_is_not_there_is_said_once_before_anything_is_trained(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        (root / name).touch()
    options = ReproduceOptions("calibrator-digits", out=tmp_path / "runs", data_root=root, seeds=1)
    said: list[str] = []
    with pytest.raises(ValueError, match=rf"^mnist, mnist_m: not below {root}\. `dynconv data list NAME` tells"):
        reproduce(options, line=said.append)
    assert said == [] and not options.folder.exists()
    with pytest.raises(ValueError, match="^mnist: not below"):
        reproduce(dataclasses.replace(options, tasks=("mnist-usps",)), line=said.append)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (root / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (root / "MNIST" / "raw" / name).touch()
    with pytest.raises(ValueError, match="^mnist_m: .*; --tasks mnist-usps usps-mnist can do without$"):
        reproduce(options, line=said.append)


def test_without_a_data_root_its_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNCONV_DATA", raising=False)
    with pytest.raises(ValueError, match=r"^mnist, usps: no data root was given \(--data-root DIR or DYNCONV_DATA\)"):
        reproduce(ReproduceOptions(TABLE, out=tmp_path), line=print)


def test_a_real_training_that_cannot_start_gives_its_reason(tmp_path: Path) -> None:
    # One file of each set is there.
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").touch()
    (tmp_path / "usps.bz2").touch()
    options = ReproduceOptions(
        TABLE, out=tmp_path / "runs", data_root=tmp_path, tasks=(TASK,), rows=("global",), seeds=1
    )
    said: list[str] = []
    assert reproduce(options, line=said.append) == Reproduction("", ("mnist-usps global 0 (exit code 2)",))
    assert any("not found below" in text for text in said)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table": "gam-digit"}, r"TABLE: no table is called 'gam-digit' \(did you mean gam-digits"),
        ({"table": TABLE, "seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"table": TABLE, "parallel": 0}, "--parallel must be at least 1, got 0"),
        ({"table": TABLE, "tasks": ("mnist-svhn",)}, "--tasks: unknown mnist-svhn"),
        ({"table": TABLE, "rows": ("local",)}, "--rows: unknown local"),
        ({"table": TABLE, "gpus": ("0",), "device": "cpu"}, "--gpus 0 and --device cpu contradict"),
        ({"table": TABLE, "report_only": True, "dry_run": True}, "--report-only and --dry-run contradict"),
    ],
)
def test_unknown_names_and_contradictions_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReproduceOptions(**fields)

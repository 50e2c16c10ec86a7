"""Fine-tuning over the number of labelled images, and how many an adaptation is worth, by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from command_line import fails
from report_runs import config_of, row_of, write_run

from dynconv import cli
from dynconv.engine.run_folder import RunFolder
from dynconv.plots.fine_tuning import Panel, save_fine_tuning
from dynconv.report.collect import readable_runs
from dynconv.report.figures.fine_tuning import FineTuning, break_even, fine_tunings, gain, no_transfer
from dynconv.report.groups import group_runs

# What each start reaches on the target without labels.
WITHOUT = {"source-only": 0.40, "gam": 0.60}


def start(root: Path, method: str, seed: int, **options: Any) -> Path:
    """The checkpoint of a finished run that adapts, itself from a source-only run where it is gam."""
    place = root / "starts" / method / f"seed{seed}"
    if not place.exists():
        if method == "gam":
            options["source_checkpoint"] = str(start(root, "source-only", seed))
        config = config_of(method, seed=seed, options=options)
        # Its own figure is of other images than those of the fine-tuning, as without a published test split.
        write_run(place, config, [row_of(config, 0, 0.1, 0.1), row_of(config, 100, 0.9, 0.99)])
    return place / "checkpoints" / "last.pt"


def tune(root: Path, method: str | None, count: int, target: float, seed: int = 0, **options: Any) -> Path:
    """A finished run with `count` labelled images from the network of a run of `method`."""
    own = {"labelled_images": count, **options}
    if method is not None:
        own["source_checkpoint"] = str(start(root, method, seed))
    config = config_of("target-only", seed=seed, options=own, max_steps=50)
    before = 0.1 if method is None else WITHOUT[method] + 0.01 * seed
    bound = {f"{name}/b/accuracy": value for name, value in (("target-test", before), ("source-val", 0.2))}
    after = {"target-test/b/accuracy": target, "source-val/b/accuracy": 1.0}
    head = {name: value for name, value in row_of(config, 0, 0, 0).items() if "accuracy" not in name}
    words = "-".join(map(str, (method, count, seed, *options.values())))
    # A better evaluation in between, which another rule would choose.
    rows = [
        head | bound,
        head | {"step": 25} | after | {"target-test/b/accuracy": target + 0.02},
        head | {"step": 50} | after,
    ]
    write_run(root / words, config, rows)
    return root / words


def lines(root: Path) -> dict[str, FineTuning]:
    return {line.label: line for line in fine_tunings(readable_runs([root], "RUN"))}


def curves(root: Path, *, none: tuple[float, ...] = (0.45, 0.55, 0.65), adapted: float = 0.70, seed: int = 0) -> None:
    for count, target in zip((10, 40, 160), none, strict=True):
        tune(root, "source-only", count, target, seed)
        tune(root, "gam", count, adapted, seed)


def test_runs_that_differ_in_seed_and_labels_alone_are_one_line_wherever_their_starts_began(tmp_path: Path) -> None:
    curves(tmp_path)
    curves(tmp_path, seed=1)
    tune(tmp_path, "gam", 10, 0.1, lr=0.5)
    tune(tmp_path, None, 10, 0.2)
    found = lines(tmp_path)
    same = {"from source-only (lr=0.0002)", "from gam (lr=0.0002)", "from gam (lr=0.5)", "from scratch (lr=0.0002)"}
    assert set(found) == same
    gam = found["from gam (lr=0.0002)"]
    assert (gam.task, gam.metric, gam.start) == ("mnist-usps", "accuracy", "gam")
    assert gam.points == {count: {0: pytest.approx(70), 1: pytest.approx(70)} for count in (10, 40, 160)}
    # Before the first step, on the images of the fine-tuning.
    assert gam.without == {0: pytest.approx(60), 1: pytest.approx(61)}
    assert found["from scratch (lr=0.0002)"].without == {} and found["from scratch (lr=0.0002)"].start is None
    # The seeds of what starts from a run that itself started from another are one row of a report too.
    groups = group_runs(readable_runs([tmp_path], "RUN")).groups
    tuned = [group for group in groups if group.method == "target-only" and "labelled_images=40" in group.label]
    assert sorted(len(group.runs["mnist-usps"]) for group in tuned) == [2, 2]


def test_the_break_even_is_where_fine_tuning_without_transfer_first_reaches_the_adapted_network(
    tmp_path: Path,
) -> None:
    # 60 % lies half-way between 55 with 40 images and 65 with 160: with 80 in logarithms.
    cases = {
        "between": ((0.45, 0.55, 0.65), 80.0, "="),
        "at once": ((0.62, 0.50, 0.70), 10.0, "<="),
        "never": ((0.45, 0.50, 0.59), 160.0, ">"),
        "first": ((0.50, 0.70, 0.40), 10 * 4**0.5, "="),
    }
    for name, (none, images, relation) in cases.items():
        curves(tmp_path / name, none=none)
        found = lines(tmp_path / name)
        base, gam = found["from source-only"], found["from gam"]
        assert no_transfer(gam, list(found.values())) is base and no_transfer(base, list(found.values())) is None
        even = break_even(gam, base)
        assert even is not None and (even.images, even.relation) == (pytest.approx(images), relation)
        assert break_even(base, None) is None
    # Not better without labels: it is worth none.
    even = break_even(base, gam)
    assert even is not None and (even.images, even.text) == (0, "0")


def test_the_gain_is_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    for seed, (none, adapted) in enumerate([(0.50, 0.56), (0.60, 0.68)]):
        tune(tmp_path, "source-only", 10, none, seed)
        tune(tmp_path, "gam", 10, adapted, seed)
    tune(tmp_path, "gam", 10, 0.99, 2)
    found = lines(tmp_path)
    base, gam = found["from source-only"], found["from gam"]
    more = gain(gam, base, 10)
    assert more is not None and more.values == {0: pytest.approx(6), 1: pytest.approx(8)}
    labelless = gain(gam, base, 0)
    assert labelless is not None and labelless.mean == pytest.approx(20)
    assert gain(gam, base, 40) is None and gain(base, None, 10) is None


def test_another_setting_is_not_held_against_the_one_without_transfer(tmp_path: Path) -> None:
    curves(tmp_path)
    tune(tmp_path, "gam", 10, 0.9, lr=0.5)
    found = lines(tmp_path)
    assert no_transfer(found["from gam (lr=0.5)"], list(found.values())) is None
    assert no_transfer(found["from gam (lr=0.0002)"], list(found.values())) is not None


def test_two_fine_tunings_without_transfer_are_no_base_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    tune(runs, "gam", 10, 0.7)
    tune(runs, "source-only", 10, 0.5)
    other = tune(tmp_path / "other", "source-only", 10, 0.6)
    config = RunFolder(start(tmp_path / "other", "source-only", 0).parent.parent).config
    config.write_text(config.read_text().replace("label_smoothing: 0.0", "label_smoothing: 0.1"))
    out = str(tmp_path / "x.svg")
    assert cli.main(["plot", "fine-tuning", str(runs), str(other), "--out", out]) == 0
    told = capsys.readouterr().err
    assert "mnist-usps: no gain and no break-even, for several without transfer match, " in told
    assert "label_smoothing=0); from source-only (" in told and "label_smoothing=0.1); give the runs of one" in told
    assert cli.main(["plot", "fine-tuning", str(runs), "--out", out]) == 0
    assert "no gain" not in capsys.readouterr().err


def test_a_start_that_is_gone_is_known_by_its_path_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tune(tmp_path, "gam", 10, 0.7)
    (tmp_path / "starts").rename(tmp_path / "elsewhere")
    place = str(tmp_path / "starts" / "gam" / "seed0" / "checkpoints" / "last.pt")
    out = tmp_path / "x.svg"
    assert cli.main(["plot", "fine-tuning", str(run), "--out", str(out)]) == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be read" in line]
    assert place in told
    (row,) = [row for row in csv.DictReader(out.with_suffix(".csv").open()) if row["labelled_images"] == "0"]
    # What it reached without labels is in the run itself.
    assert (row["start"], row["mean"]) == (f"from {place}", "60.000")


def test_plot_draws_every_start_and_writes_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    curves(root)
    curves(root, none=(0.49, 0.57, 0.65), adapted=0.74, seed=1)
    everything = tune(root, "source-only", 0, 0.95)
    out = tmp_path / "figures" / "fine-tuning.svg"
    assert cli.main(["plot", "fine-tuning", str(root), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    assert f"{everything} is left out: it learnt from all labels" in printed.err
    assert "72.0 ± 2.8" in printed.out and "60.5 ± 0.7" in printed.out and "<svg" in out.read_text()
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    of_gam = [row for row in rows if row["start"] == "from gam"]
    assert [(row["labelled_images"], row["mean"], row["gain"]) for row in of_gam] == [
        ("0", "60.500", "20.000"),
        ("10", "72.000", "25.000"),
        ("40", "72.000", "16.000"),
        ("160", "72.000", "7.000"),
    ]
    assert (of_gam[1]["std"], of_gam[1]["n"], of_gam[1]["seeds"]) == (f"{stdev([70, 74]):.3f}", "2", "0 1")
    # 56 with 40 images, 65 with 160, and half the way is 60.5.
    assert [row["break_even"] for row in rows if row["break_even"]] == ["80"]
    assert "80" in next(line for line in printed.out.splitlines() if "40.5 ± 0.7" in line and "60.5" in line)
    assert [row["gain"] for row in rows if row["start"] == "from source-only"] == [""] * 4


def test_what_cannot_be_drawn_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.png")
    start(tmp_path, "gam", 0)
    told = fails(capsys, "plot", "fine-tuning", str(tmp_path / "starts"), "--out", out)
    assert "expected runs of target-only with labelled_images, got those of gam, source-only" in told
    config = config_of("target-only", options={"labelled_images": 10})
    write_run(tmp_path / "half", config, [row_of(config, 0, 0.1, 0.1)], finish=False)
    assert "unfinished" in fails(capsys, "plot", "fine-tuning", str(tmp_path / "half"), "--out", out)
    bare = {"step": 100, "seconds": 1.0, "epoch": 1.0, "config_hash": config.hash}
    write_run(tmp_path / "bare", config, [bare])
    told = fails(capsys, "plot", "fine-tuning", str(tmp_path / "bare"), "--out", out)
    assert "lack the accuracy on the target's images" in told
    for name in ("one", "two"):
        write_run(tmp_path / name, config, [row_of(config, 100, 0.1, 0.1)])
    told = fails(capsys, "plot", "fine-tuning", str(tmp_path / "one"), str(tmp_path / "two"), "--out", out)
    assert "is of the configuration and seed of another" in told
    assert "at least one run folder" in fails(capsys, "plot", "fine-tuning", "--out", out)
    with pytest.raises(ValueError, match="panels: expected at least one task with a curve, got none"):
        save_fine_tuning([Panel("t", "accuracy", ())], Path(out))

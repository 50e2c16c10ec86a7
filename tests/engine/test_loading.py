"""Image files on their way into a run: what cannot be read, and where decoded images are kept."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fails
from rich.console import Console

from dynconv import cli
from dynconv.data import Skipped, load_protocol
from dynconv.engine import loading
from dynconv.engine.config import TrainConfig
from dynconv.engine.interrupt import Interrupted
from dynconv.engine.loaded_run import load_run
from dynconv.engine.loading import check_skipped, loading_progress, read_skipped, record_skipped, repeated_note
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import train
from dynconv.report.collect import find_runs
from dynconv.report.page.run_section import _facts

Make = Callable[..., TrainConfig]
BAD = ("one/class0/3.png", "three/class2/11.png")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(domains: Path, tmp_path: Path) -> Path:
    """The domains one and three in folders of the test's own."""
    for name in ("one", "three"):
        shutil.copytree(domains / name, tmp_path / "sets" / name)
    return tmp_path / "sets"


def options(own: Path, **run: Any) -> dict[str, Any]:
    return {"source": (f"one={own / 'one'}",), "target": f"three={own / 'three'}", **run}


def words(own: Path, out: Path, *more: str) -> list[str]:
    """A short training on the command line."""
    data = ["--source", f"one={own / 'one'}", "--target", f"three={own / 'three'}"]
    short = ["--max-steps", "4", "--batch-size", "8", "--device", "cpu"]
    return ["train", "source-only", *data, *short, "--out", str(out), *more]


def damage(own: Path) -> None:
    (own / BAD[0]).write_bytes(b"")
    (own / BAD[1]).write_bytes(b"nothing")


@pytest.mark.parametrize("cache", ["auto", "memory", "disk", "none"])
def test_an_unreadable_image_stops_a_training_with_code_2_and_its_name(
    cache: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in (own / "one" / "class0").iterdir():
        image.write_bytes(b"")
    message = fails(capsys, *words(own, tmp_path / "run", "--cache", cache))
    assert "one/class0/" in message and "cannot be read: the file is empty (0 bytes)" in message
    assert "`dynconv data check` finds all such images, `dynconv train --skip-bad` goes without them" in message
    assert message.count("dynconv: error") == 1


def test_an_unreadable_image_of_an_evaluation_stops_it_likewise(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(words(own, out, "--cache", "none")) == 0
    damage(own)
    assert f"{BAD[1]} cannot be read" in fails(capsys, "eval", str(out))
    assert f"{BAD[0]} cannot be read" in fails(capsys, "eval", str(out), "--domain", f"s={own / 'one'}")


def test_a_run_without_its_bad_images_names_and_counts_them_everywhere(
    own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(own)
    out = tmp_path / "run"
    assert cli.main(words(own, out, "--skip-bad")) == 0
    assert "one: left out 1 of 60 images" in caplog.text and "three: left out 1 of 60 images" in caplog.text
    rows = json.loads((out / "skipped.json").read_text())
    assert [f"{row['domain']}/{row['path']}" for row in rows] == list(BAD)
    assert "the file is empty" in rows[0]["why"]
    training, held_out = load_run(out, device="cpu").domains()
    test = training.sources[0].test
    assert test is not None and len(training.sources[0].train) + len(held_out[0]) + len(test) == 59
    capsys.readouterr()
    assert cli.main(["eval", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    last = RunFolder(out).rows()[-1]
    assert {name: again[name] for name in last if "accuracy" in name} == {
        name: value for name, value in last.items() if "accuracy" in name
    }
    assert cli.main(["eval", str(out), "--domain", f"t={own / 'three'}", "--json"]) == 0
    (found,), _ = find_runs([out])
    assert ("unreadable images", "1 of one left out; 1 of three left out") in _facts(found, None, "no analysis")


def interrupted(config: TrainConfig, tiny: type, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train 4 of the 12 steps."""
    with monkeypatch.context() as patch:
        patch.setattr("dynconv.engine.run.Run.asked_to_stop", lambda run, guard: run.step == 4)
        with pytest.raises(Interrupted):
            train(config, console=quiet)


def test_a_run_goes_on_with_the_images_it_began_with_and_no_others(
    own: Path, tmp_path: Path, make_config: Make, tiny: type, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(own)
    whole = train(make_config(tmp_path / "whole", **options(own, skip_bad=True)), console=quiet)
    config = make_config(tmp_path / "run", **options(own, skip_bad=True))
    interrupted(config, tiny, quiet, monkeypatch)
    other = own / "three" / "class0" / "5.png"
    good = other.read_bytes()
    other.write_bytes(b"")
    shutil.copy(own / "one" / "class0" / "2.png", own / BAD[0])
    message = (
        r"other images: three/class0/5.png cannot be read now; one/class0/3.png can be read now\. Put the files back"
    )
    with pytest.raises(ValueError, match=message):
        train(config, console=quiet)
    with pytest.raises(ValueError, match=message):
        load_run(tmp_path / "run", device="cpu").domains()
    other.write_bytes(good)
    damage(own)
    folder = train(config, console=quiet)
    one, two = (torch.load(each.last)["method"] for each in (whole, folder))
    assert all(torch.equal(two[name], value) for name, value in one.items())


def test_skipping_is_a_part_of_a_runs_identity_and_the_cache_is_not(
    tmp_path: Path, make_config: Make, tiny: type
) -> None:
    plain = make_config(tmp_path)
    assert make_config(tmp_path, skip_bad=True).hash != plain.hash
    assert make_config(tmp_path, cache="disk").hash == plain.hash


def test_every_cache_trains_the_same_network(
    own: Path, tmp_path: Path, make_config: Make, tiny: type, quiet: Console, cache_folder: Path
) -> None:
    states = {}
    for cache in ("auto", "memory", "disk", "none"):
        folder = train(make_config(tmp_path / cache, **options(own, cache=cache, augmentation="flip")), console=quiet)
        states[cache] = torch.load(folder.last)
        for row in folder.rows():
            row.pop("seconds")
            states.setdefault("rows", []).append(row)
    for cache in ("memory", "disk", "none"):
        for name, value in states["auto"]["method"].items():
            assert torch.equal(value, states[cache]["method"][name]), (cache, name)
    rows = states["rows"]
    assert rows[: len(rows) // 4] * 4 == rows
    assert len(list(cache_folder.glob("images-*.bin"))) == 3, "train and test of the source, all of the target"


def test_a_run_of_sets_without_files_has_nothing_to_skip(
    tmp_path: Path, make_config: Make, tiny: type, quiet: Console
) -> None:
    small = {"source": (), "target": None, "source_limit": 40, "target_limit": 40, "max_steps": 2, "eval_every": 2}
    config = make_config(tmp_path / "run", protocol="embedded:plain-optical", skip_bad=True, **small)
    assert read_skipped(train(config, console=quiet)) == []


def test_the_record_of_skipped_images_is_checked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    one, other = Skipped("s", "a/1.png", "empty"), Skipped("s", "a/2.png", "empty")
    check_skipped(folder, [one])
    assert read_skipped(folder) is None
    record_skipped(folder, [one])
    assert read_skipped(folder) == [one]
    check_skipped(folder, [one._replace(why="in other words")])
    with pytest.raises(ValueError, match=r"s/a/2.png cannot be read now; s/a/1.png can be read now"):
        check_skipped(folder, [other])
    folder.skipped.write_text("[{}]")
    with pytest.raises(ValueError, match="skipped.json is damaged"):
        check_skipped(folder, [one])


def test_progress_is_told_now_and_then_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(loading.time, "monotonic", lambda: clock[-1])
    lines: list[str] = []
    progress = loading_progress(lines.append)
    for seconds, done in ((0.0, 10), (4.0, 20), (6.0, 30), (8.0, 40), (12.0, 50)):
        clock.append(seconds)
        progress("s: decoding", done, 50)
    assert lines == ["s: decoding: 30 of 50 images", "s: decoding: 50 of 50 images"]


@pytest.mark.usefixtures("tiny")
def test_a_batch_larger_than_a_domain_is_told_once_and_recorded(make_config: Make, tmp_path: Path) -> None:
    # Two sources take turns, so that their parts fit.
    def said(out: str, **run: Any) -> tuple[str, str | None]:
        console = Console(file=(shown := io.StringIO()), width=300)
        folder = train(make_config(tmp_path / out, eval_every=1, **run), console=console)
        start = json.loads(folder.environment.read_text(encoding="utf-8"))[0]
        return shown.getvalue(), start.get("notice")

    told = (
        "--batch-size 64: a batch takes 64 images of three, which has 60 to train on; it holds some of them more than "
        "once"
    )
    shown, notice = said("large", batch_size=64, max_steps=2)
    assert notice == told
    assert shown.count(told) == 1
    shown, notice = said("fitting", batch_size=60, max_steps=2)
    assert "more than once" not in shown and notice is None
    # A run of one step learns nothing from its batch.
    assert said("match", batch_size=64, max_steps=1)[1] is None


def test_of_several_sources_each_gives_its_part_of_a_batch(domains: Path) -> None:
    protocol = load_protocol(
        None, source=[f"one={domains / 'one'}", f"two={domains / 'two'}"], target=f"three={domains / 'three'}"
    )
    # Each source has 48 to train on, but 12 for its test split.
    assert repeated_note(protocol, 60) is None
    note = repeated_note(replace(protocol, target=protocol.sources[0]), 97)
    assert note is not None and "49 images of two, which has 48" in note and "97 images of one, which has 48" in note

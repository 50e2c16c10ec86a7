"""The same scenes as several runs label them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import fails
from PIL import Image

from dynconv import cli
from dynconv.engine import loaded_run
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.run_folder import RunFolder
from dynconv.methods.gam import GAM, GAMConfig
from dynconv.report.figures.compared_scenes import Comparison, compare
from dynconv.report.figures.scenes import view

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def calibrated(scene_run: Path) -> LoadedRun:
    return load_run(scene_run, device="cpu")


@pytest.fixture(scope="module")
def matched(calibrated: LoadedRun) -> LoadedRun:
    """The same data, and a network of GAM whose two domains see differently."""
    torch.manual_seed(0)
    method = GAM(GAMConfig(backbone="erfnet-encoder"), len(calibrated.classes))
    with torch.no_grad():
        # As they begin, two equal ones that give every pixel one class.
        for parameter in [*method.features.parameters(), *method.heads.parameters(), *method.target_heads.parameters()]:
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return dataclasses.replace(calibrated, method=method.eval(), step=7)


def of(loaded: LoadedRun, path: Path, **fields: Any) -> LoadedRun:
    """The run as it would be in the folder `path` with other options."""
    run = dataclasses.replace(loaded.config.run, **fields)
    config = TrainConfig(loaded.config.method, run, loaded.config.options)
    return dataclasses.replace(loaded, folder=RunFolder(path), config=config)


def compared(runs: dict[Path, LoadedRun], side: Any = "target", count: int = 3) -> tuple[Comparison, list[str]]:
    lines: list[str] = []
    return compare(list(runs), runs.__getitem__, side=side, count=count, line=lines.append), lines


def test_each_run_has_a_column_of_the_first_ones_scenes(calibrated: LoadedRun, matched: LoadedRun) -> None:
    runs = {Path("out/dusk/GAM/seed0"): matched, Path("out/dusk/Calibrator/seed0"): calibrated}
    found, lines = compared(runs)
    one, other = view(matched, count=3), view(calibrated, count=3)
    assert list(found.label_maps) == ["ground truth", "GAM\n(step 7)", "Calibrator\n(step 2)"]
    assert np.array_equal(found.images, one.images) and found.names == one.names and found.domain == "camvid_dusk"
    expected = [one.label_maps[0], one.label_maps[-1], other.label_maps[-1]]
    assert all(np.array_equal(*maps) for maps in zip(found.label_maps.values(), expected, strict=True))
    assert lines == [
        "run 1 of 2: scenes of out/dusk/GAM/seed0",
        "run 2 of 2: scenes of out/dusk/Calibrator/seed0",
    ]
    titles = [axis.get_title() for axis in found.figure("x").axes[:4]]
    assert titles == ["image", "ground truth", "GAM\n(step 7)", "Calibrator\n(step 2)"]


def test_before_is_the_sources_whole_network_where_the_target_has_its_own(matched: LoadedRun) -> None:
    found = view(matched, count=1)
    assert found.heads == ("ground truth", "before: the source's network", "after: the target's network")
    method, split = matched.method, matched.domains()[0].target.test
    assert isinstance(method, GAM) and method.encoders is not None and split is not None
    (images,) = matched.scoring.images(split.subset(torch.tensor([0])))
    with torch.no_grad():
        own = method.target_heads[0](method.encoders.target(images)).argmax(dim=1).numpy()
        theirs = method.heads[0](method.encoders.source(images)).argmax(dim=1).numpy()
    # Of scores that are equal but for rounding either is right.
    assert (found.label_maps[1] == theirs).mean() > 0.995 and (found.label_maps[2] == own).mean() > 0.995
    assert (own == theirs).mean() < 0.9


def test_heads_are_what_tells_the_paths_apart(calibrated: LoadedRun) -> None:
    def heads(*paths: str) -> list[str]:
        found, _ = compared({Path(path): calibrated for path in paths}, count=1)
        return [head.partition("\n(step")[0] for head in found.label_maps][1:]

    assert heads("a/x/seed0", "a/y/seed0") == ["x", "y"]
    assert heads("a/x/seed0", "a/x/seed1") == ["seed0", "seed1"]
    assert heads("a/x", "a/x/x") == ["x", "x/x"]
    assert heads("b/" + "long " * 12, "b/c")[0].count("\n") == 1
    with pytest.raises(ValueError, match="a run was given twice: a/x, b/../a/x"):
        compared({Path("a/x"): calibrated, Path("b/../a/x"): calibrated})


def test_runs_on_other_data_are_refused(calibrated: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    one = of(calibrated, Path("one"))

    def refused(other: LoadedRun, side: str = "target") -> str:
        with pytest.raises(ValueError) as caught:
            compared({Path("one"): one, Path("two"): other}, side, count=1)
        return str(caught.value)

    message = refused(of(calibrated, Path("two"), protocol="gta5-cityscapes", image_size=(32, 64)))
    assert message == (
        "RUN two is on other data than one: it has protocol gta5-cityscapes and not camvid_day-camvid_dusk; image_size "
        "(32, 64) and not (24, 32); give runs of one task"
    )
    assert "the classes road, sky and not" in refused(dataclasses.replace(one, classes=("road", "sky")))
    # Of sources with test scenes the seed does not matter; of others it and a limit tell which ones were held out.
    seeded = of(calibrated, Path("two"), seed=1)
    found, _ = compared({Path("one"): one, Path("two"): seeded}, "source", count=1)
    assert found.domain == "camvid_day"
    protocol, _ = one.domains()
    untested = tuple(dataclasses.replace(source, test=None) for source in protocol.sources)
    own = dataclasses.replace(protocol, sources=untested)
    # As if these had been held out.
    whole = protocol.sources[0].test
    assert whole is not None

    def domains(run: LoadedRun) -> Any:
        first = run.config.run.seed + (run.config.run.source_limit or 0)
        return own, (whole.subset(torch.arange(first, len(whole))),)

    monkeypatch.setattr(LoadedRun, "domains", domains)
    assert (
        "held out (seed 1, source_limit None) are not those of one (seed 0, source_limit None); give runs of one seed "
        "and one limit"
    ) in refused(seeded, "source")
    assert "(seed 0, source_limit 1)" in refused(of(calibrated, Path("two"), source_limit=1), "source")
    same = of(calibrated, Path("two"), channels_last=False)
    assert compared({Path("one"): one, Path("two"): same}, "source", count=1)[0].names


def test_the_command_draws_several_runs_and_wants_a_file_for_them(
    scene_run: Path, calibrated: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    opened: list[Path] = []

    def load(run: Path, **_options: Any) -> LoadedRun:
        opened.append(run)
        return of(calibrated, run)

    monkeypatch.setattr(loaded_run, "load_run", load)
    runs = [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c")]
    out = tmp_path / "x.png"
    assert cli.main(["plot", "scenes", *runs, "--out", str(out), "--images", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n" and "dynconv: run 3 of 3: scenes of " in captured.err
    assert list(map(str, opened)) == runs
    with Image.open(out) as picture:
        # Image, truth and three runs.
        assert picture.width == 5 * 377
    assert "--out is missing: 3 runs go into one figure" in fails(capsys, "plot", "scenes", *runs)
    assert "expected at least one run folder, got none" in fails(capsys, "plot", "scenes")

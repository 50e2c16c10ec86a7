"""Runs of GAM from end to end: source, Gaussian start and game in one run, stopped anywhere, and what reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from same_run import whole_and_stopped
from scenes import write_day_and_dusk
from tiny_scenes import use_tiny

from dynconv import cli
from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import load_run
from dynconv.engine.measure import measure_run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import train
from dynconv.methods import GAMConfig, SourceOnlyConfig

Make = Callable[..., TrainConfig]
# For its quick stand-in for deep embedded validation.
pytestmark = pytest.mark.usefixtures("tiny")
SMALL = {"norm": "none", "hidden_features": 8, "discriminator_steps": 1}


@pytest.mark.parametrize("stopped", [2, 3, 6], ids=["before the matching", "after it", "after the second joined in"])
def test_a_run_stopped_anywhere_ends_the_same(stopped: int, make_config: Make, tmp_path: Path, quiet: Console) -> None:
    def config(name: str) -> TrainConfig:
        options = GAMConfig(**SMALL, pretrain=0.34)
        return make_config(tmp_path / name, "gam", options, max_steps=9, eval_every=3)

    whole, _ = whole_and_stopped(config, stopped, quiet)
    assert [row["step"] for row in whole.rows()] == [0, 3, 6, 9]
    logged = {name: row["step"] for row in reversed(whole.training_rows()) for name in row}
    # Four steps learn the source; the discriminator of the features plays from the fifth, that of the scores from the
    # eighth. Each first step is the discriminators' alone.
    names = ("cross_entropy", "matching/layers", "discriminator/accuracy/linear.2", "weight_drift")
    assert all(name in logged for name in (*names, "discriminator/accuracy/scores"))


def test_it_starts_from_a_run_on_the_source_and_is_read_as_any_other(
    make_config: Make, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = SourceOnlyConfig(norm="none", lr=1e-3)
    trained = train(make_config(tmp_path / "trained", "source-only", plain), console=quiet)
    options = GAMConfig(**SMALL, source_checkpoint=str(trained.last), order="jointly")
    folder = train(make_config(tmp_path / "gam", "gam", options, max_steps=4, eval_every=2), console=quiet)
    before, *_, after = folder.rows()
    last = trained.rows()[-1]
    names = [name for name in last if name.startswith(("target-test/", "source-test/")) and name.endswith("/accuracy")]
    assert {name: before[name] for name in names} == {name: last[name] for name in names}
    source = [name for name in names if name.startswith("source-test/")]
    # The source is judged by its own network, which stays.
    assert [after[name] for name in source] == [before[name] for name in source]
    measured = measure_run(folder.path, device="cpu")
    assert {name: measured[name] for name in names} == {name: after[name] for name in names}
    loaded = load_run(folder.path, device="cpu").method
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(loaded.predict(images), loaded.heads[0](loaded.features.source(images)))
    for command, *words in (("export", "--format", "torch"), ("report",)):
        assert cli.main([command, str(folder.path), *words, "--out", str(tmp_path / command)]) == 0
    capsys.readouterr()
    (program,) = (tmp_path / "export").glob("*.pt2")
    exported = torch.export.load(program).module()
    # A program takes images in [0, 1].
    torch.testing.assert_close(exported(images), loaded.predict(2 * images - 1))


def test_scenes_are_adapted_too(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    root = write_day_and_dusk(tmp_path / "scenes", images=6, size=(24, 32))
    run = RunOptions(
        protocol="camvid_day-camvid_dusk", data_root=root, out=tmp_path / "run",
        max_steps=4, batch_size=2, image_size=(24, 32),
    )  # fmt: skip
    options = GAMConfig(backbone="erfnet-encoder", hidden_features=8, discriminator_steps=1, pretrain=0.3)
    folder = train(TrainConfig("gam", run, options), console=quiet)
    *_, last = folder.rows()
    assert "target-test/camvid_dusk/mean-iou" in last
    state = load_checkpoint(RunFolder(folder.path).last)["method"]
    moved = {
        key.removeprefix("features.target.")
        for key in state
        if key.startswith("features.target.")
        and not torch.equal(state[key], state[key.replace("features.target.", "features.source.")])
    }
    # All weights, and no running statistics: these are held.
    assert moved == {
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "layers.4.weight",
        "layers.4.bias",
    }

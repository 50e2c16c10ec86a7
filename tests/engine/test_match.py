"""`dynconv match`: a trained run's network, adapted without training, as a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import fails
from rich.console import Console
from same_run import whole_and_stopped
from scenes import write_day_and_dusk
from tiny_scenes import use_tiny

from dynconv import cli
from dynconv.engine.checkpoint import load_checkpoint, save_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import load_run
from dynconv.engine.match import match_config, parse_match
from dynconv.engine.measure import measure_run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import train
from dynconv.methods import (
    CalibratorConfig,
    DANNConfig,
    GaussianConfig,
    MCDConfig,
    SourceOnlyConfig,
    TargetOnlyConfig,
)
from dynconv.models import match_gaussian

Make = Callable[..., TrainConfig]
# For its quick stand-in for deep embedded validation.
pytestmark = pytest.mark.usefixtures("tiny")


def plain(**fields: object) -> SourceOnlyConfig:
    return SourceOnlyConfig(norm="none", lr=1e-3, **fields)


def test_a_run_is_matched_in_one_command_and_read_as_any_other(
    make_config: Make, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], domains: Path
) -> None:
    trained = train(make_config(tmp_path / "trained", "source-only", plain()), console=quiet)
    out = tmp_path / "matched"
    words = ["match", str(trained.path), "--out", str(out), "--device", "cpu"]
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    assert "target-test/three" in captured.out and "before" in captured.out and "after" in captured.out
    assert "Gaussian matching: 264 channels of 4 layers have the source's mean and variance" in captured.err
    before, after = RunFolder(out).rows()
    last = trained.rows()[-1]
    names = [name for name in last if "/" in name]
    assert {name: before[name] for name in names} == {name: last[name] for name in names}
    assert after["step"] == 1 and any(after[name] != before[name] for name in names)
    measured = measure_run(out, device="cpu")
    assert {name: measured[name] for name in names} == {name: after[name] for name in names}
    # What was trained on the source is what was matched, on the training images of both sides.
    loaded, source = load_run(out, device="cpu"), load_run(trained.path, device="cpu")
    protocol, _ = source.domains()
    splits = ([domain.train for domain in protocol.sources], [protocol.target.train])
    passes = [lambda s=s: (images for split in s for images in source.scoring.images(split)) for s in splits]
    match_gaussian(source.method, None, *passes)
    for key, value in loaded.method.features.state_dict().items():
        torch.testing.assert_close(value, source.method.features.state_dict()[key], rtol=1e-6, atol=1e-7)
    # A second time there is nothing to do; and what it has seen the labels of is no target.
    assert cli.main(words) == 0
    assert "finished before" in capsys.readouterr().err
    message = fails(capsys, *words[:2], "--target", f"again={domains / 'one'}", "--out", str(tmp_path / "other"))
    assert "the target again and the source one are the same" in message


def test_another_target_and_fewer_images_can_be_given(
    make_config: Make, tmp_path: Path, quiet: Console, domains: Path
) -> None:
    source = {"source": (f"one={domains / 'one'}",), "target": f"two={domains / 'two'}", "max_steps": 2}
    trained = train(make_config(tmp_path / "trained", "source-only", plain(), **source), console=quiet)
    words = [str(trained.path), "--device", "cpu", "--layers", "all"]
    goal = ["--target", f"three={domains / 'three'}"]
    states = []
    for name, more in (("few", ["--statistics-images", "5"]), ("all", ["--statistics-images", "0"])):
        config = match_config(parse_match([*words, *goal, *more, "--out", str(tmp_path / name)]))
        assert config.run.target == f"three={domains / 'three'}" and config.run.max_steps == 1
        folder = train(config, console=quiet)
        assert any(key.startswith("target-test/three/") for key in folder.rows()[-1])
        states.append(load_checkpoint(folder.last)["method"])
    assert not torch.allclose(states[0]["heads.0.weight"], states[1]["heads.0.weight"], rtol=1e-3)


def test_it_is_the_last_step_of_a_run_from_scratch_and_a_stopped_one_ends_the_same(
    make_config: Make, tmp_path: Path, quiet: Console
) -> None:
    def config(name: str) -> TrainConfig:
        return make_config(tmp_path / name, "gaussian", GaussianConfig(norm="none"), max_steps=6, eval_every=3)

    # Stopped after step 5, right before the matching.
    whole, _ = whole_and_stopped(config, 4, quiet)
    *_, last = whole.training_rows()
    assert last["matching/layers"] == 4.0 and last["step"] == 6
    assert [row["step"] for row in whole.rows()] == [0, 3, 6]


def test_scenes_are_matched_too(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny(monkeypatch)
    root = write_day_and_dusk(tmp_path / "scenes", images=6, size=(24, 32))
    run = RunOptions(
        protocol="camvid_day-camvid_dusk",
        data_root=root,
        out=tmp_path / "trained",
        max_steps=2,
        batch_size=2,
        image_size=(24, 32),
    )
    trained = train(TrainConfig("source-only", run, SourceOnlyConfig(backbone="erfnet-encoder")), console=quiet)
    out = tmp_path / "matched"
    assert cli.main(["match", str(trained.path), "--out", str(out), "--device", "cpu"]) == 0
    assert "target-test/camvid_dusk/mean-iou" in "".join(capsys.readouterr().out.split())
    before, after = RunFolder(out).rows()
    name = "target-test/camvid_dusk/mean-iou"
    assert before[name] == trained.rows()[-1][name]
    assert measure_run(out, device="cpu")[name] == after[name]
    old, new = (load_checkpoint(RunFolder(path).last)["method"] for path in (trained.path, out))
    assert old.keys() == new.keys()
    changed = {key for key in old if key != "step" and not torch.equal(old[key], new[key])}
    assert changed == {f"features.layers.{layer}" for layer in ("1.weight", "1.bias", "4.weight", "4.bias")}


def test_what_is_no_network_of_the_source_is_refused(
    make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")

    def refused(method: str, options: object, *words: str, **data: object) -> str:
        config = make_config(tmp_path / "run", method, options, **data)
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.yaml").write_text(config.to_yaml())
        return fails(capsys, "match", run, *words)

    assert "is no run folder" in fails(capsys, "match", run)
    message = refused("calibrator", CalibratorConfig())
    assert "is a run of calibrator, whose network is more than features and one classifier; give the" in message
    assert "is a run of mcd, whose network is more than" in refused("mcd", MCDConfig())
    message = refused("gaussian", GaussianConfig(source_checkpoint="S/checkpoints/last.pt"))
    assert (
        "is a run of gaussian, whose network is matched to its target and no longer the source's; give the" in message
    )
    assert "the run that it was matched from (its checkpoint S/checkpoints/last.pt)" in message
    assert "no longer the source's; give one of source-only" in refused("gaussian", GaussianConfig())
    message = refused("dann", DANNConfig(normalisation_policy="adabn"))
    assert "has the normalisation_policy 'adabn', by which every batch normalisation has statistics of the" in message
    assert "last.pt is not there" in refused("target-only", TargetOnlyConfig())
    assert "--statistics-images must be at least 0, got -1" in fails(capsys, "match", run, "--statistics-images", "-1")


def test_the_target_of_a_protocol_is_replaced_unless_it_has_a_variant(make_config: Make, tmp_path: Path) -> None:
    two = ("embedded:plain", "embedded:textured")
    for protocol, expected in (("embedded:plain+textured-optical", two), ("mnist-usps@adda", None)):
        path = tmp_path / ("a" if expected else "b")
        config = make_config(path, "source-only", plain(), protocol=protocol, source=(), target=None, target_limit=7)
        folder = RunFolder(path)
        folder.create(config)
        state = {"config_hash": config.hash, "config": config.identity(), "classes": [], "step": 1, "method": {}}
        save_checkpoint(folder.last, state)
        own = match_config(parse_match([str(path)])).run
        assert (own.protocol, own.source, own.target, own.target_limit) == (protocol, (), None, 7)
        words = parse_match([str(path), "--target", "svhn"])
        if expected is None:
            with pytest.raises(ValueError, match="of the protocol mnist-usps@adda, whose variant @adda is of its own"):
                match_config(words)
        else:
            other = match_config(words).run
            assert (other.protocol, other.source, other.target, other.target_limit) == (None, expected, "svhn", None)

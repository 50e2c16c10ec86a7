"""What the discriminators of GAM cost, against what the method itself makes of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_scenes
import torch
from report_runs import config_of, row_of, write_run

from dynconv.engine.checkpoint import save_checkpoint
from dynconv.methods.adda import ADDAConfig
from dynconv.methods.gam import GAM, GAMConfig
from dynconv.models.cost import count_cost
from dynconv.report.collect import readable_runs
from dynconv.report.discriminators import TITLE, discriminator_costs, discriminators_block, discriminators_table
from dynconv.report.page.document import Missing, Report, Section, Table
from dynconv.report.page.markdown import markdown
from dynconv.report.page.run_section import run_section

CLASSES = 10


def write(
    root: Path, options: dict[str, Any], classes: int = CLASSES, size: tuple[int, int] = (28, 28), **run: Any
) -> Path:
    """A run of gam of one evaluation, with what a checkpoint tells of its task."""
    config = config_of("gam", options=options, **run)
    folder = write_run(root / "run", config, [row_of(config, 100, 0.9, 0.8)])
    state = {"config_hash": config.hash, "step": 100, "classes": list(map(str, range(classes))), "method": {}}
    folder.last.parent.mkdir()
    save_checkpoint(folder.last, state | {"image_size": list(size)})
    return folder.last


def test_a_tap_costs_what_its_discriminator_and_its_activations_are() -> None:
    options = GAMConfig(backbone="lenet-gam", taps=("1", "linear.2", "scores"), hidden_features=6, num_layers=2)
    found = discriminator_costs(options, CLASSES, None)
    # 20 maps of 12 x 12 after the first pooling, 500 features, ten scores.
    assert [(tap.tap, tap.channels, tap.places) for tap in found.taps] == [
        ("convolutions.2", 20, 144),
        ("linear.2", 500, 1),
        ("scores", 10, 1),
    ]
    assert [tap.parameters for tap in found.taps] == [20 * 6 + 6 + 7, 500 * 6 + 6 + 7, 10 * 6 + 6 + 7]
    assert [tap.macs for tap in found.taps] == [144 * (20 * 6 + 6), 500 * 6 + 6, 10 * 6 + 6]
    assert [tap.activations for tap in found.taps] == [2 * 4 * 20 * 144, 2 * 4 * 500, 2 * 4 * 10]
    assert found.size == (28, 28)
    # Both convolutions, the features and the scores.
    assert found.macs == 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10
    assert found.parameters == 20 * 25 + 20 + 50 * 20 * 25 + 50 + 800 * 500 + 500 + 500 * 10 + 10


def test_it_agrees_with_the_networks_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_scenes.use_tiny(monkeypatch)
    options = GAMConfig(backbone="erfnet-encoder", taps=("layers.1", "layers.4", "scores"), hidden_features=8)
    found = discriminator_costs(options, tiny_scenes.CLASSES, (16, 24))
    method = GAM(options, tiny_scenes.CLASSES)
    outputs = method.activations(torch.zeros(1, 3, 16, 24), "target")
    assert [tap.tap for tap in found.taps] == list(outputs) == list(options.taps)
    for tap, bank in zip(found.taps, method.discriminators, strict=True):
        output = outputs[tap.tap]
        assert tap.activations == 2 * output.numel() * output.element_size()
        rows = output.permute(0, 2, 3, 1).flatten(0, 2)
        layers = bank.discriminator(0)
        assert tap.macs == len(rows) * count_cost(layers, rows[:1]).static_macs
        assert tap.parameters == sum(parameter.numel() for parameter in layers.parameters())


@pytest.mark.parametrize("discriminates", ["features", "logits"])
def test_adda_has_one_tap(discriminates: Any) -> None:
    options = ADDAConfig(backbone="lenet-gam", discriminates=discriminates, hidden_features=6, num_layers=2)
    found = discriminator_costs(options, CLASSES, None)
    channels, name = (500, "features") if discriminates == "features" else (10, "scores")
    (tap,) = found.taps
    assert (tap.tap, tap.channels, tap.places) == (name, channels, 1)
    assert (tap.parameters, tap.macs) == (channels * 6 + 6 + 7, channels * 6 + 6)
    # The network is the same, whoever looks at it.
    assert found.macs == discriminator_costs(GAMConfig(backbone="lenet-gam"), CLASSES, None).macs
    assert "sees a copy of both in one" in note(options)
    shared = ADDAConfig(backbone="lenet-gam", weight_sharing="shared")
    costs = discriminator_costs(shared, CLASSES, None)
    assert "the network at 28 x 28" in discriminators_table(costs, shared).lines[-1].cells[0]


def note(options: Any, **run: Any) -> str:
    return discriminators_table(discriminator_costs(options, CLASSES, None), options, **run).notes[0]


def test_the_note_is_of_the_options() -> None:
    taps, plain = ("1", "scores"), {"backbone": "lenet-gam", "order": "jointly", "discriminator_steps": 0}
    told = note(GAMConfig(taps=taps, **plain))
    assert "and the target once more for the network's." in told and "until both losses are taken, not copied" in told
    assert "one by one" not in told and "without the second pass" not in told
    assert "beside a copy, for channels_last is false" in note(GAMConfig(taps=taps, **plain), channels_last=False)
    assert "not copied" in note(GAMConfig(taps=("scores",), **plain), channels_last=False)
    assert "and both once more for the network's." in note(GAMConfig(taps=taps, mapping="confusion", **plain))
    paper = note(GAMConfig(backbone="lenet-gam"), max_steps=30_000)
    assert "They join in one by one" in paper and "The first 500 steps of each part are without" in paper
    # The default in a run that is too short for it: of 200 steps half adapt, in two parts.
    assert "The first 25 steps of each part are" in note(GAMConfig(backbone="lenet-gam"), max_steps=200)
    assert "The first 500 steps of the adaptation are" in note(
        GAMConfig(taps=taps, **plain | {"discriminator_steps": 500})
    )


def test_a_runs_section_has_the_table(tmp_path: Path) -> None:
    write(tmp_path, {"backbone": "lenet-gam"})
    (run,) = readable_runs([tmp_path], "RUN")
    section = run_section(run, None, "there is no checkpoint", [], tmp_path / "figures", rule="last", slug="run")
    (table,) = [block for block in section.blocks if isinstance(block, Table) and block.title == TITLE]
    options = run.config.options
    steps = run.config.run.max_steps
    assert table == discriminators_table(discriminator_costs(options, CLASSES, None), options, max_steps=steps)
    assert [line.cells[0] for line in table.lines][:3] == ["linear.2", "scores", "all"]
    text = markdown(Report("a", (), (Section("b", (table,)),)), tmp_path)
    assert "| linear.2 | 500 | 1 | 501,501 | 0.50 | 4,000 |" in text and "at 28 x 28" in text


def test_scenes_are_counted_as_they_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_scenes.use_tiny(monkeypatch)
    own = {"backbone": "erfnet-encoder", "taps": ("1", "scores")}
    write(tmp_path / "whole", own, tiny_scenes.CLASSES, (32, 48), protocol="camvid_day-camvid_dusk")
    write(tmp_path / "crop", own, tiny_scenes.CLASSES, (32, 48), protocol="camvid_day-camvid_dusk", crop_size=(16, 16))
    whole, crop = (discriminators_block(readable_runs([tmp_path / name], "RUN")[0]) for name in ("whole", "crop"))
    assert isinstance(whole, Table) and isinstance(crop, Table)
    assert "at 32 x 48" in whole.lines[-1].cells[0] and "at 16 x 16" in crop.lines[-1].cells[0]


def test_what_cannot_be_counted_is_told(tmp_path: Path) -> None:
    last = write(tmp_path, {"backbone": "lenet-gam"})
    (run,) = readable_runs([tmp_path], "RUN")
    last.write_bytes(last.read_bytes()[:100])
    block = discriminators_block(run)
    assert isinstance(block, Missing) and "was cut off" in block.reason
    last.unlink()
    block = discriminators_block(run)
    assert isinstance(block, Missing) and "there is no checkpoint" in block.reason
    other = config_of("mcd")
    write_run(tmp_path / "other", other, [row_of(other, 100, 0.9, 0.8)])
    (mcd,) = readable_runs([tmp_path / "other"], "RUN")
    assert discriminators_block(mcd) is None

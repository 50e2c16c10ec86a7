"""Source-or-Not of trained networks: whose activations, which images, what is written and what a person is asked."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bright_folders import CLASSES, write_bright_folders
from command_line import fails
from PIL import Image
from rich.console import Console, RenderableType
from torch import Tensor

from dynconv import cli
from dynconv.data import Domain, Protocol, Split
from dynconv.engine import loaded_run
from dynconv.engine.loaded_run import LoadedRun, load_run
from dynconv.engine.segmentation import evaluation_of
from dynconv.methods import METHODS
from dynconv.metrics import NonFiniteError
from dynconv.models import DomainName
from dynconv.report.figures import source_or_not_play
from dynconv.report.figures.activations import Watched, Whose
from dynconv.report.figures.source_or_not import Game, Round, play_game
from dynconv.report.figures.source_or_not_figure import source_or_not_csv, source_or_not_table
from dynconv.report.figures.source_or_not_images import count_of, two_sides
from dynconv.report.figures.source_or_not_play import Score, bar, picture, play_rounds, score_table

BRIGHTNESS = {"dark": 20, "bright": 200}
PER_CLASS = 10
SHORT = ["--max-steps", "1", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of source-only of a step, from dark to bright images."""
    root = tmp_path_factory.mktemp("data")
    write_bright_folders(root, BRIGHTNESS, per_class=PER_CLASS, noise=30)
    out = tmp_path_factory.mktemp("runs") / "source-only"
    data = ["--source", f"dark={root / 'dark'}", "--target", f"bright={root / 'bright'}"]
    with pytest.MonkeyPatch.context() as patch:
        # Its curves are not looked at here.
        drawn = "dynconv.report.figures.training.save_training_figure"
        patch.setattr(drawn, lambda folders: folders[0].training_figure)
        assert cli.main(["train", "source-only", *data, *SHORT, "--out", str(out)]) == 0
    return out


@pytest.fixture
def loaded(run: Path) -> LoadedRun:
    return load_run(run, device="cpu")


@pytest.fixture(scope="module")
def game(run: Path) -> Game:
    return play_game(load_run(run, device="cpu"), units=5, seed=0)


def watched(loaded: LoadedRun, whose: Whose = "source") -> Watched:
    return Watched(loaded, evaluation_of(loaded.config, *loaded.domains(), loaded.scoring), whose)


def layers_of(found: Watched, split: Split, domain: DomainName) -> dict[str, Tensor]:
    parts = list(found.activations(split, domain))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def with_method(loaded: LoadedRun, name: str, **fields: Any) -> LoadedRun:
    """The same run with a new network of another method whose parameters all differ from each other's."""
    kind = METHODS[name]
    torch.manual_seed(0)
    method = kind(kind.config_class(**fields), len(loaded.classes))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return dataclasses.replace(loaded, method=method.eval())


@torch.no_grad()
def test_every_layer_is_seen_from_the_first_to_the_scores(loaded: LoadedRun) -> None:
    split = loaded.domains()[0].target.train.subset(torch.arange(5))
    found = layers_of(watched(loaded), split, "target")
    method = loaded.method
    assert tuple(found) == (*method.features.taps, "scores")
    (images,) = loaded.scoring.images(split)
    torch.testing.assert_close(found["scores"], method.predict(images)[..., None])
    output: Tensor = images
    for name, child in method.features.convolutions.named_children():
        output = child(output)
        if f"convolutions.{name}" in found:
            torch.testing.assert_close(found[f"convolutions.{name}"], output.flatten(2))
    assert found["convolutions.3"].shape[2] > 1 and all(values.dtype == torch.float32 for values in found.values())


@pytest.mark.parametrize("name", ["adda", "gam"])
@torch.no_grad()
def test_of_two_encoders_the_sources_sees_both_domains_unless_each_sees_its_own(loaded: LoadedRun, name: str) -> None:
    two = with_method(loaded, name)
    split = two.domains()[0].target.train.subset(torch.arange(4))
    (images,) = two.scoring.images(split)
    scores = {}
    for whose in ("source", "own"):
        side: DomainName = "source" if whose == "source" else "target"
        found = layers_of(watched(two, whose), split, "target")
        encoder = two.method.features.get_submodule(side)
        with two.method.evaluating_domain(side):
            torch.testing.assert_close(found["scores"][..., 0], two.method.predict(images))
        torch.testing.assert_close(found[encoder.taps[-1]][..., 0], encoder(images))
        scores[whose] = found["scores"]
        of_source = layers_of(watched(two, whose), split, "source")
        assert torch.equal(of_source["scores"], layers_of(watched(two, "source"), split, "source")["scores"])
    assert not torch.allclose(scores["source"], scores["own"], rtol=0.1)


@torch.no_grad()
def test_of_scenes_the_classifier_is_seen_without_its_calibrator_and_scores_before_their_upsampling(
    scene_run: Path,
) -> None:
    loaded = load_run(scene_run, device="cpu")
    split = loaded.domains()[0].target.train.subset(torch.arange(2))
    method = loaded.method
    seen = torch.cat(list(loaded.scoring.images(split)))
    expected = {"source": method.features(seen), "own": method.embed(seen)}
    for whose in ("source", "own"):
        found = layers_of(watched(loaded, whose), split, "target")
        assert len(found) == 17 and found["encoder.initial_block"].shape == (2, 16, 12 * 16)
        low = method.heads[0].low(expected[whose])
        torch.testing.assert_close(found["scores"], low.flatten(2), rtol=1e-4, atol=1e-5)
        assert low.shape[2:] == (3, 4)
    assert not torch.allclose(expected["source"], expected["own"], rtol=1e-3)


def test_an_activation_that_is_not_finite_is_named(loaded: LoadedRun) -> None:
    with torch.no_grad():
        next(loaded.method.features.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"activations of convolutions\.\d+"):
        play_game(loaded, units=2, seed=0)


def test_the_first_layers_tell_dark_from_bright_and_no_unit_is_asked_twice(game: Game) -> None:
    first = game.layers[0]
    assert first.right.shape == (5, 20) and first.called.shape == (5, 40)
    assert first.game is not None and first.which is not None
    assert first.game.mean > 0.9 and first.which.mean > 0.95
    assert len(first.units.unique()) == 5 and int(first.units.max()) < first.channels
    # Who calls both domains rightly is right at the game.
    assert first.game.mean >= 2 * first.which.mean - 1
    last = game.layers[-1]
    assert (last.name, last.places, len(last.units)) == ("scores", 1, CLASSES)


def test_one_domain_on_both_sides_is_told_by_chance(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, held_out = loaded.domains()
    images = torch.cat([protocol.target.train.images, protocol.target.test.images])  # type: ignore[union-attr, list-item]
    generator = torch.Generator().manual_seed(1)
    parts = [Split(images[own], torch.zeros(10).long()) for own in torch.randperm(40, generator=generator).split(10)]
    same = dataclasses.replace(
        protocol,
        sources=(Domain("a", protocol.classes, parts[0], parts[1]),),
        target=Domain("b", protocol.classes, parts[2], parts[3]),
    )
    monkeypatch.setattr(LoadedRun, "domains", lambda _self: (same, held_out))
    found = play_game(loaded, units=16, seed=0)
    shares = torch.tensor([layer.which.mean for layer in found.layers if layer.which is not None])
    assert (shares - 0.5).abs().max() < 0.2 and len(shares) == len(found.layers)
    assert found.layers[0].game is not None and found.layers[0].game.mean < 0.75


def split_of(values: Sequence[int]) -> Split:
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Split(images, torch.zeros(len(values), dtype=torch.int64))


def values_of(splits: Sequence[Split]) -> list[int]:
    return [int(image[0, 0, 0]) for split in splits for image in torch.as_tensor(split.images)]


def protocol_of(target: Domain, *sources: Domain) -> Protocol:
    return Protocol("x", sources, target)


def test_no_image_is_learnt_and_judged_by() -> None:
    source = Domain("s", ("a",), split_of(range(100, 120)), split_of(range(120, 140)))
    whole = split_of(range(40))
    limited = dataclasses.replace(whole.subset(torch.arange(0, 40, 2)))
    for train, learnt, judged in ((whole, 20, 20), (limited, 10, 20), (split_of(range(50, 90)), 20, 20)):
        target = two_sides(protocol_of(Domain("t", ("a",), train, whole), source), (), 20)[1]
        assert not set(values_of(target.learnt)) & set(values_of(target.judged))
        assert (count_of(target.learnt), count_of(target.judged)) == (learnt, judged), train
        assert set(values_of(target.learnt)) <= set(values_of([train]))


def test_several_sources_are_one_side_and_the_held_out_stand_for_test_images() -> None:
    sources = [Domain(f"s{n}", ("a",), split_of(range(40 * n, 40 * n + 30)), None) for n in (1, 2)]
    held_out = [split_of(range(40 * n + 30, 40 * n + 40)) for n in (1, 2)]
    target = Domain("t", ("a",), split_of(range(20)), split_of(range(20, 40)))
    source, _ = two_sides(protocol_of(target, *sources), held_out, 15)
    assert source.name == "s1 + s2" and [len(split) for split in source.learnt] == [8, 7]
    assert set(values_of(source.judged)) <= set(values_of(held_out)) and count_of(source.judged) == 15
    few = dataclasses.replace(target, test=split_of(range(20, 27)))
    with pytest.raises(ValueError, match="t: Source-or-Not needs at least 8 images .* there are 15 and 7"):
        two_sides(protocol_of(few, *sources), held_out, 15)
    unlabelled = two_sides(protocol_of(dataclasses.replace(target, test=None), *sources), held_out, 15)[1]
    learnt, judged = (values_of(splits) for splits in (unlabelled.learnt, unlabelled.judged))
    assert sorted(learnt + judged) == values_of([target.train]), "halves of the target's training images"


def test_rounds_are_of_judged_pairs_with_the_classifiers_own_answers(game: Game) -> None:
    rounds = game.rounds(12, 0)
    assert [each.question for each in rounds] == [each.question for each in game.rounds(12, 0)]
    assert len({each.layer.name for each in rounds}) > 1 and len({each.same for each in rounds}) == 2
    pairs = list(zip(game.pairs.first.tolist(), game.pairs.second.tolist(), strict=True))
    for one in rounds:
        channel = int(one.layer.units[one.unit])
        matching: list[tuple[str, str, bool, bool]] = []
        for place, pair in enumerate(pairs):
            images = [game.image(image) for image in pair]
            seen = [layers_of(game.watched, split, side.domain)[one.layer.name][0, channel] for side, split in images]
            if all(np.allclose(own.numpy(), value, atol=1e-6) for own, value in zip(seen, one.values, strict=True)):
                # Of a ReLU that is off others may have the same values.
                right = bool(one.layer.right[one.unit, place])
                matching.append((images[0][0].name, images[1][0].name, bool(game.pairs.same[place]), right))
        assert (*one.names, one.same, one.classifier_right) in matching
        low, high = one.limits
        assert low < high and low - 1e-5 <= min(map(np.min, one.values)) and max(map(np.max, one.values)) <= high + 1e-5


def test_units_that_are_constant_are_not_asked_for(game: Game, loaded: LoadedRun) -> None:
    layers = [dataclasses.replace(each, constant=torch.arange(len(each.units)) != 1) for each in game.layers]
    rounds = dataclasses.replace(game, layers=tuple(layers)).rounds(8, 0)
    assert {one.unit for one in rounds} == {1} and len({one.layer.name for one in rounds}) > 1
    with torch.no_grad():
        for parameter in loaded.method.parameters():
            parameter.zero_()
    found = play_game(loaded, units=3, seed=0)
    for layer in found.layers:
        assert layer.constant.all() and (layer.game, layer.comparing, layer.which) == (None, None, None)
    rows = list(csv.DictReader(io.StringIO(source_or_not_csv(found))))
    assert {(row["constant_units"], row["accuracy"], row["unit_min"], row["image_high"]) for row in rows} <= {
        ("3", "", "", ""),
        ("2", "", "", ""),
    }
    assert "3 of 3" in _printed(source_or_not_table(found)) and "50.0" not in _printed(source_or_not_table(found))
    with pytest.raises(ValueError, match="every unit that was drawn gives the same value on all images"):
        found.rounds(1, 0)


def test_a_constant_unit_is_no_chance_in_the_share_of_its_layer(game: Game) -> None:
    first = game.layers[0]
    dead = torch.tensor([True, False, True, True, False])
    # As a unit that tells nothing is: right at half of the questions.
    half = torch.arange(first.right.shape[1]) % 2 == 0
    right = torch.where(dead[:, None], half, first.right)
    layer = dataclasses.replace(first, constant=dead, right=right)
    live = first.right[[1, 4]].double()
    assert layer.game is not None and layer.game.mean == pytest.approx(live.mean().item())
    assert layer.of_units.tolist() == live.mean(dim=1).tolist() and layer.constants == "3 of 5 constant"
    played = dataclasses.replace(game, layers=(layer,))
    printed = " ".join(_printed(source_or_not_table(played)).split())
    assert "3 of 5" in printed and f"{100 * live.mean().item():.1f}" in printed
    # The person is measured against the same units.
    rounds = played.rounds(2, 0)
    score = " ".join(_printed(score_table(Score(tuple(rounds), (True, False)))).split())
    assert f"live units of these layers │ │ {100 * live.mean().item():.1f}" in score


def test_no_unit_comes_again_before_all_live_ones_had_their_turn(game: Game) -> None:
    live = sum(len(layer.live) for layer in game.layers)
    asked = [(one.number, one.unit) for one in game.rounds(2 * live, 1)]
    assert len(set(asked[:live])) == live == len(set(asked[live:]))


@pytest.mark.parametrize(
    ("name", "fields", "source", "own"),
    [
        ("source-only", {}, "through the source's network", "through the source's network"),
        ("dann", {}, "through the one network of dann", "through the one network of dann"),
        ("gam", {}, "through the source's network", "each through its own domain's network"),
        (
            "dann",
            {"normalisation_policy": "domain-specific"},
            "through the one network of dann, normalised by the statistics of the source",
            "through the one network of dann, normalised by the statistics of its own domain",
        ),
    ],
)
def test_the_network_is_described_as_it_is(
    loaded: LoadedRun, name: str, fields: dict[str, Any], source: str, own: str
) -> None:
    other = with_method(loaded, name, **fields)
    other = dataclasses.replace(other, config=dataclasses.replace(loaded.config, method=name))
    evaluation = evaluation_of(loaded.config, *loaded.domains(), loaded.scoring)
    assert Watched(other, evaluation, "source").described() == source
    assert Watched(other, evaluation, "own").described() == own


def test_a_bound_has_no_two_domains(loaded: LoadedRun) -> None:
    bound = with_method(loaded, "target-only")
    config = dataclasses.replace(loaded.config, method="target-only")
    with pytest.raises(ValueError, match="run of target-only, which learns from the target's labels and has no source"):
        play_game(dataclasses.replace(bound, config=config), units=1, seed=0)


def test_the_command_writes_the_figure_and_the_numbers_and_prints_a_table(
    run: Path, game: Game, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    words = ["--out", str(out), "--device", "cpu", "--units", "5", "--rounds", "3"]
    assert cli.main(["plot", "source-or-not", str(run), *words]) == 0
    printed = capsys.readouterr().out
    assert printed.split()[-2:] == [str(out), str(out.with_suffix(".csv"))]
    flat = " ".join(printed.split())
    assert "dark (source) and bright (target), through the source's network" in flat
    assert "20 pairs of 40 test images" in flat and "(MaxPool2d)" in flat and "of these units" in flat
    with Image.open(out) as drawn:
        assert drawn.width > 500
    text = out.with_suffix(".csv").read_text()
    assert text == source_or_not_csv(game), "the same seed gives the same game"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [layer.name for layer in game.layers]
    assert [row["places"] for row in rows][-1] == "1" and {row["pairs"] for row in rows} == {"20"}
    for row, layer in zip(rows, game.layers, strict=True):
        assert float(row["accuracy"]) == pytest.approx(layer.right[layer.live].double().mean().item(), abs=1e-6)
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        assert float(row["image_accuracy"]) == pytest.approx(layer.called[layer.live].double().mean().item(), abs=1e-6)
        assert float(row["comparing_accuracy"]) == pytest.approx(
            layer.compared[layer.live].double().mean().item(), abs=1e-6
        )


def test_a_person_plays_in_the_terminal(
    run: Path, game: Game, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = game.watched.loaded
    monkeypatch.setattr(loaded_run, "load_run", lambda *_args, **_options: opened)
    rounds = game.rounds(4, 0)
    # Right, right after a word that is no answer, wrong; then the input ends.
    words = [_word(rounds[0].same), "what", _word(rounds[1].same), _word(not rounds[2].same)]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{word}\n" for word in words)))
    assert cli.main(["plot", "source-or-not", str(run), "--play", "--rounds", "4", "--units", "5"]) == 0
    printed = capsys.readouterr().out
    first = " ".join(printed.partition("\nround")[0].split())
    assert "dark (source) and bright (target)" in first and game.title.split("\n")[0] in first
    assert "A unit is one channel of a layer, a place one position of its map." in first
    assert [line for line in printed.splitlines() if line.startswith("round")][0].endswith(rounds[0].question)
    assert "expected s (same), d (different) or q (quit), got 'what'" in printed
    verdicts = [f"right: {rounds[0].answer} (1 of 1)", f"right: {rounds[1].answer} (2 of 2)"]
    assert all(verdict in printed for verdict in (*verdicts, f"wrong: {rounds[2].answer} (2 of 3)"))
    cells = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines()]
    theirs = sum(one.classifier_right for one in rounds[:3])
    assert ["", "you", "2 of 3", "66.7", ""] in cells
    assert ["", "classifier, the same rounds", f"{theirs} of 3", f"{100 * theirs / 3:.1f}", ""] in cells
    assert ["", "chance", "", "50.0", ""] in cells
    assert not (run / "source-or-not.png").exists()


def _word(same: bool) -> str:
    return "same" if same else " D "


@pytest.mark.parametrize("leaving", ["q\n", "", "s\nquit\n"])
def test_the_player_may_leave_at_any_time(game: Game, leaving: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(leaving))
    score = play_rounds(game.rounds(3, 0), _console())
    assert len(score.answered) == len(score.right) == (leaving == "s\nquit\n")
    printed = " ".join(_printed(score_table(score)).split())
    assert ("you answered no round" in printed) == (not score.right) and "chance" in printed


def test_an_interruption_leaves_the_score(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["s", KeyboardInterrupt()])

    def read(*_args: Any, **_options: Any) -> str:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(Console, "input", read)
    assert len(play_rounds(game.rounds(3, 0), _console()).right) == 1


def _console() -> Console:
    return Console(file=io.StringIO(), width=80)


def _printed(what: RenderableType) -> str:
    text = io.StringIO()
    Console(file=text, width=80).print(what)
    return text.getvalue()


def test_bars_are_as_long_as_their_shares_and_single_values_stand_on_a_scale(game: Game) -> None:
    assert bar(1.0) == "█" * 20 and bar(0) == "" and bar(0.5) == "█" * 10
    assert (bar(1 / 160), bar(12 / 160), bar(1e-6)) == ("▏", "█▌", "▏")
    of_maps = dataclasses.replace(game.rounds(1, 0)[0], values=(np.array([0, 0, 0, 16.0]), np.array([16.0, 16.0])))
    lines = [line.split() for line in _printed(picture(of_maps)).splitlines()[1:]]
    assert len(lines) == source_or_not_play.BINS
    assert lines[0] == ["0.5", "█" * 15, "75.0"] and lines[-1] == ["15.5", "█" * 5, "25.0", "█" * 20, "100.0"]
    layer = dataclasses.replace(of_maps.layer, limits=torch.tensor([[0.0, 11.0]] * len(of_maps.layer.units)))
    single: Round = dataclasses.replace(of_maps, layer=layer, values=(np.array([0.0]), np.array([11.0])))
    first, second, *_ = _printed(picture(single)).splitlines()
    assert first.split()[2:] == ["█" + "·" * 55, "0"] and second.split()[2:] == ["·" * 55 + "█", "11"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--play", "--out", "x.png"], "with --play nothing is drawn into a file"),
        (["--rounds", "0"], "--rounds must be from 1 to 100, got 0"),
        (["--units", "0"], "--units must be at least 1, got 0"),
        (["--images", "7"], "--images must be at least 8, to learn anything from, got 7"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--out", "x.gifx"], "expected a suffix of"),
    ],
)
def test_options_that_cannot_be(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(capsys, "plot", "source-or-not", "RUN", *words)
